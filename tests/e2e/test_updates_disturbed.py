"""Updates that a site must not store or trust, and repeated switches: with real processes under load."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.bad_bundles import BAD, SETTINGS, offered
from tests.support.callers import Callers
from tests.support.fleet_site import TASK, FleetSite
from tests.support.hostile_incoming import attacked, lay
from tests.support.repository_attacks import ATTACKS
from tests.support.steady_load import to_and_fro
from tests.support.update_field import NEW, Field, wanted

SWITCHES = 20

pytestmark = pytest.mark.release


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Return a central team, and sites that run version 1."""
    return Field(tmp_path_factory.mktemp("field"))


@pytest.fixture(scope="module")
def site(field: Field) -> Iterator[FleetSite]:
    """Yield one of the sites, with its uplink."""
    with field.site(**SETTINGS) as started:
        started.start_uplink()
        yield started


@pytest.mark.parametrize("what", BAD)
def test_a_bad_bundle_is_not_kept(field: Field, site: FleetSite, what: str):
    """The one before goes on, no call is lost for a bundle that fails its test, and the next good one is taken."""
    ending = offered(field, site, 1 + list(BAD).index(what), BAD[what])
    assert (True, True) == (ending.arrived, ending.served(BAD[what])), ending
    wanted(field.central, field.new)
    site.until(NEW)
    site.until_state("done")


def test_switches_in_a_row_lose_no_call(field: Field):
    """Nor does one take a second; never is there more memory in use than the old and the new engine have together."""
    with field.site() as site:
        seen = to_and_fro(field, site, SWITCHES)
    assert ([], 0) == (seen.failed, seen.missed)
    assert seen.answered > SWITCHES
    assert seen.peak_bytes <= 2 * seen.one_bytes


@pytest.fixture(scope="module")
def without_uplink(field: Field) -> Iterator[FleetSite]:
    """Yield another site, in whose `incoming/` the test lays what a hostile uplink would."""
    with field.site() as started:
        lay(started, field.central.copy(field.root / "honest"))
        started.until(NEW)
        yield started


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_uplink_changes_no_answer(field: Field, without_uplink: FleetSite, name: str):
    """It is refused, with a reason in status; the honest copy is taken afterwards; no call notices."""
    with Callers(without_uplink.daemon, TASK, 1) as callers:
        refused, arrived = attacked(field, without_uplink, name)
        callers.wait_for_answers(1)
    assert (True, True, []) == (refused, arrived, callers.lost)
