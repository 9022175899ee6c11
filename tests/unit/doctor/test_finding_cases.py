"""The sweep over every finding of doctor: the fault is made, the printed remedy run, and the finding is gone."""

import os
import shutil
from collections.abc import Iterator

import pytest

from edge_agent.doctor.all_checks import CHECKS
from tests.support.finding_cases import CASES, MADE, FaultySite, engine_rows, finding_kinds, update_rows
from tests.support.finding_cases.appliance import AS_OPERATOR, OPERATORS
from tests.support.free_ports import free_port
from tests.support.uplink_cases import PATIENT

MADE_CASES = [case for case in CASES if case.fault]
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
UNSIGNED = {"signatures"}
"""The test's bundle has no signature."""


def test_every_finding_has_one_row():
    """The table is read from doctor's modules: each kind has a row, and no row is of a kind that is gone."""
    names = [case.name for case in CASES]
    assert ([kind.name for kind in finding_kinds()], len(names)) == (names, len(set(names)))
    assert set(CHECKS) - {"huge-pages"} <= {kind.check for kind in finding_kinds()} | {"previous-version"}
    assert sorted(MADE) == sorted(case.name for case in MADE_CASES)


def test_every_finding_is_made_or_excused():
    """An excuse has its reason; a finding that is new needs a row that makes it."""
    assert [] == [case.name for case in CASES if case.fault and case.excused]
    assert [] == [case.name for case in CASES if not case.fault and not case.excused]


@pytest.mark.release
@pytest.mark.parametrize("case", MADE_CASES, ids=lambda case: case.name)
def test_the_printed_remedy_cures_the_fault(case):
    """Exactly this check reports, with those that the same fault necessarily reaches; afterwards none does."""
    outcome = case.run()
    assert (case.expected, []) == (outcome.shown, outcome.left)


@pytest.fixture(scope="module")
def healthy() -> Iterator[FaultySite]:
    """A site whose task answers, on an installed machine; operators may use the admin socket."""
    with FaultySite(lambda _: {"service": {"admin_group": OPERATORS}}, is_appliance=True) as site:
        yield site


@pytest.mark.release
@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can become another user")
@pytest.mark.parametrize("user", [(), AS_OPERATOR, NOBODY], ids=["root", "operator", "ordinary"])
@pytest.mark.parametrize("phase", ["serving", "restarted", "draining"])
def test_a_healthy_site_has_no_finding_in_any_phase(healthy, phase, user):
    """Serving, just restarted and draining; who may not see everything is told what was not checked, and no more.

    An operator, who may use the admin socket, sees what the daemon reports.
    """
    if phase == "restarted":
        healthy.restart()
    if phase == "draining":
        with healthy.daemon.admin() as admin:
            admin.drain()
    findings = healthy.findings(user)
    found = {each["check"] for each in findings if each["verdict"] != "unseen"}
    if phase == "draining":
        healthy.restart()
    assert set() == found - UNSIGNED
    if user != NOBODY:
        assert UNSIGNED <= found
        assert "daemon" not in {each["check"] for each in findings}


@pytest.mark.release
def test_a_site_that_starts_has_no_finding():
    """Its engine is loading."""
    with FaultySite() as site:
        engine_rows.hold_while_starting(site)
        assert set() == {each["check"] for each in site.findings()} - UNSIGNED


@pytest.mark.release
def test_a_site_that_updates_has_no_finding():
    """With the drive in: the first version, and the next one on probation."""
    with FaultySite(update_rows.by_drive, has_task=False) as site:
        update_rows.first_version(site)
        assert [] == site.findings()
        update_rows.publish(site, "2.0.0")
        update_rows.take_drive(site)
        update_rows.await_version(site, "2.0.0")
        assert [] == site.findings()


@pytest.mark.release
def test_a_site_without_a_network_for_an_hour_has_no_finding():
    """That the uplink is offline is a note; it retries by itself."""
    address = f"http://127.0.0.1:{free_port()}/fleet"
    uplink = {**PATIENT, "url": address, "options": {"allow_http": "true"}, "disk_reserve_bytes": 0}
    with FaultySite(lambda _: {"uplink": uplink}) as site:
        site.serve("uplink", "uplink")
        site.until_found("uplink-online")
        assert set() == {each["check"] for each in site.findings()} - UNSIGNED
