"""What an uplink moves for updates: the sizes are those of a real repository, made here by the real publisher.

A fleet with ten tasks, whose plan has six waves. A look with nothing new asks for the next root, which is not there,
and for the timestamp. One that finds a new plan fetches snapshot, the plan's metadata and the plan as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet.simulation import SIX_DAYS, Outcome, Scenario
from benchmarks.fleet.sites import Site
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import FleetPlan, RolloutPlan
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam

TASKS = 10
HEADER_BYTES = 800
"""Of a request and its answer, both ways, as they are of an S3 GET."""
LOOK_REQUESTS, CHANGE_REQUESTS = 2, 3


@dataclass(frozen=True)
class Traffic:
    """Bytes for one site."""

    look_bytes: int
    """A look with nothing new."""
    change_bytes: int
    """What a new plan adds to a look."""

    def bytes_by_day(self, outcome: Outcome, sites: list[Site], days: int) -> list[float]:
        """Return the mean bytes of a site on each day."""
        looks = self.look_bytes * sum(site.contacts_per_day() for site in sites)
        changed, blobs = outcome.changed_by_day, outcome.blob_bytes_by_day
        return [
            (looks + self.change_bytes * changed.get(day, 0) + blobs.get(day, 0)) / len(sites) for day in range(days)
        ]


def measure(root: Path) -> Traffic:
    """Publish, and take the sizes of the files that a site reads."""
    central = CentralTeam(root)
    bundles = [echo_bundle(root / f"bundle-{number}", name=f"task-{number}") for number in range(TASKS)]
    digests = [central.publish(bundle) for bundle in bundles]
    wanted = Scenario("", SIX_DAYS).plan(1).channels["stable"].tasks["pos-intent"]
    plain = central.offering(*digests, waves=wanted.waves, probation=wanted.probation)
    plan = central.plan(RolloutPlan.model_validate(plain.model_copy(update={"sites": {"shop-1": FleetPlan()}})))
    sizes = {role: central.metadata(role).stat().st_size for role in ("timestamp", "snapshot", "plan")}
    return Traffic(
        look_bytes=sizes["timestamp"] + LOOK_REQUESTS * HEADER_BYTES,
        change_bytes=sizes["snapshot"] + sizes["plan"] + len(plans.encode(plan)) + CHANGE_REQUESTS * HEADER_BYTES,
    )
