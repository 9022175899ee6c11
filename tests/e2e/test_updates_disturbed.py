"""Updates that a site must not store or trust, and repeated switches, with real processes under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bad_bundles import BAD, SETTINGS, offered
from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite
from tests.support.hostile_incoming import attacked, lay
from tests.support.repository_attacks import ATTACKS
from tests.support.steady_load import to_and_fro
from tests.support.update_sites import NEW, UpdateSites, wanted

SWITCHES = 20

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> UpdateSites:
    """A central team, and sites that run version 1."""
    return UpdateSites(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def site(field: UpdateSites) -> Iterator[FleetSite]:
    """One of the sites, with its uplink."""
    with field.site(**SETTINGS) as started:
        started.start_uplink()
        yield started


@pytest.mark.parametrize("what", BAD)
def test_bad_bundle_is_not_activated(field: UpdateSites, site: FleetSite, what: str):
    """A bad bundle ends with its own reason, the previous version keeps answering, and the next good one is activated.
    Calls can fail only for a bundle whose fault appears in service."""
    ending = offered(field, site, 1 + list(BAD).index(what), BAD[what])
    assert (True, True) == (ending.arrived, ending.served(BAD[what])), ending
    wanted(field.central, field.new)
    site.until(NEW)
    site.until_state("done")


def test_repeated_switches_lose_no_call(field: UpdateSites):
    """20 switches in a row lose no call and miss no deadline, with at most the memory of two engines."""
    with field.site() as site:
        seen = to_and_fro(field, site, SWITCHES)
    assert ([], 0) == (seen.failed, seen.missed)
    assert seen.answered > SWITCHES
    assert seen.peak_bytes <= 2 * seen.one_bytes


@pytest.fixture(scope="module")
def without_uplink(field: UpdateSites) -> Iterator[FleetSite]:
    """A site without an uplink; the tests put the files of a hostile one into its `incoming/`."""
    with field.site() as started:
        lay(started, field.central.copy(field.root / "honest"))
        started.until(NEW)
        yield started


@pytest.mark.parametrize("name", ATTACKS)
def test_hostile_uplink_files_are_refused(field: UpdateSites, without_uplink: FleetSite, name: str):
    """The site refuses the files of a hostile uplink with a reason in status, installs the honest copy afterwards, and
    loses no call."""
    with Callers(without_uplink.daemon, TASK, 1) as callers:
        refused, arrived = attacked(field, without_uplink, name)
        callers.wait_for_answers(1)
    assert (True, True, []) == (refused, arrived, callers.lost)
