"""A hostile uplink: whatever it lays into `incoming/`, the site goes on, and takes the honest copy afterwards.

The attacks are those of tests/support/repository_attacks.py.
"""

from __future__ import annotations

from benchmarks.updating.tally import Tally
from tests.support.callers import Callers
from tests.support.fleet_site import TASK
from tests.support.hostile_incoming import attacked, lay
from tests.support.repository_attacks import ATTACKS
from tests.support.update_field import NEW, Field


def measure(field: Field, tally: Tally) -> None:
    """Attack one site in every way."""
    with field.site() as site, Callers(site.daemon, TASK, 1) as callers:
        lay(site, field.central.copy(field.root / "honest"))
        site.until(NEW)
        for name in ATTACKS:
            refused, arrived = attacked(field, site, name)
            tally.add(f"attack: {name}", served=refused, converged=arrived)
            callers.wait_for_answers(1)
    if callers.lost:
        tally.troubles += callers.lost
        tally.served -= 1
