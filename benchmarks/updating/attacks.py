"""A hostile uplink: whatever it lays into `incoming/`, the site goes on, and takes the honest copy afterwards.

The attacks are those of tests/repository_attacks.py.
"""

from __future__ import annotations

from benchmarks.updating.incoming import arrived, lay, refuses
from benchmarks.updating.tally import Tally
from tests.bundles import echo_bundle
from tests.callers import Callers
from tests.fleet_site import TASK, FleetSite, comes_true
from tests.repository_attacks import ATTACKS, Attack, Hostile
from tests.update_field import NEW, OLD, Field, wanted

YEAR = 365 * 86_400


REFUSED_SECONDS_MAX = 20.0


def measure(field: Field, tally: Tally) -> None:
    """Attack one site in every way."""
    with field.site() as site, Callers(site.daemon, TASK, 1) as callers:
        lay(site, field.centre.copy(field.root / "honest"))
        site.until(NEW)
        for name, attack in ATTACKS.items():
            _attack(field, site, name, attack, tally)
            callers.wait_for_answers(1)
    if callers.lost:
        tally.troubles += callers.lost
        tally.served -= 1


def _attack(field: Field, site: FleetSite, name: str, attack: Attack, tally: Tally) -> None:
    """Publish something newer, lay a spoilt copy of it before the site, then the copy that is not spoilt."""
    runs = site.version()
    version, digest = {OLD: (NEW, field.new), NEW: (OLD, field.old)}[runs]
    field.centre.publish(echo_bundle(field.root / "others" / name.replace(" ", "-"), "other", version=_version(tally)))
    wanted(field.centre, digest)
    hostile = Hostile(field.centre, field.centre.copy(field.root / "hostile"), field.before)
    attack.make(hostile)
    lay(site, hostile.folder)
    refused = refuses(site) and site.version() == runs
    attack.mend(field.centre)
    lay(site, field.centre.copy(field.root / "honest"))
    tally.add(f"attack: {name}", served=refused, converged=comes_true(lambda: arrived(site, version)))


def _version(tally: Tally) -> str:
    return f"1.0.{tally.injected}"
