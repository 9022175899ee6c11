"""A rollout over 10,000 simulated sites: speed of a good bundle, spread of a bad one, traffic.

    python -m benchmarks.rollout [--json] [--draw docs/rollouts.png]

Sites, networks and people are made up (benchmarks/fleet/sites.py says how). What decides is the shipped code: the
site's `edge_agent.formats.plan`, and `convert.fleet.rollout_progress`, which recommends the halt. Sizes are those of
a repository that the publisher made here. docs/rollouts.md explains the picture.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.bars import Bar, main, option
from benchmarks.fleet.picture import RolloutPictureData, draw
from benchmarks.fleet.simulation import AT_ONCE, ONE_DAY, SIX_DAYS, Harm, Outcome, Scenario, Simulation
from benchmarks.fleet.sites import Site, population
from edge_agent.formats import plan as plans
from edge_agent.formats.plan import FleetPlan, RolloutPlan, SwitchWindow
from tests.support.bundles import echo_bundle
from tests.support.fleet_cases import CentralTeam

SITES, SEED = 10_000, 6
NIGHT = SwitchWindow(start="22:00", end="05:00")
ERRORS: Harm = "errors in probation"
WRONG: Harm = "seen by people only"
MODEL_BYTES = 94_000_000
REACTIONS = (0.0, 1.0, 4.0, 8.0, 12.0, 24.0, 48.0)

GOOD = Scenario("six days", SIX_DAYS)
GOOD_BY_NIGHT = Scenario("six days, only by night", SIX_DAYS, window=NIGHT)
GOOD_FAST = Scenario("one day", ONE_DAY)
BAD = (
    Scenario("at once", AT_ONCE, ERRORS),
    Scenario("waves, nobody looks", SIX_DAYS, ERRORS),
    Scenario("waves, halted an hour later", SIX_DAYS, ERRORS, reaction_hours=1),
    Scenario("at once, taken back", AT_ONCE, WRONG, reaction_hours=2),
    Scenario("waves, nobody looks", SIX_DAYS, WRONG),
    Scenario("waves, taken back", SIX_DAYS, WRONG, reaction_hours=2),
)
HARMS = {ERRORS: "errors, which probation sees and undoes", WRONG: "wrong answers, which only people notice"}


class ScenarioRuns:
    """All scenarios, run once each."""

    def __init__(self, root: Path) -> None:
        """Run them."""
        self.sites = population(SITES, SEED)
        self.reachable = sum(site.kind != "away" for site in self.sites)
        self.good, self.by_night, self.fast = (self.run(each) for each in (GOOD, GOOD_BY_NIGHT, GOOD_FAST))
        self.bad = [self.run(each) for each in BAD]
        self.traffic = measure_traffic(root)

    def run(self, scenario: Scenario) -> Outcome:
        """Run one."""
        return Simulation(scenario, self.sites).run()

    def reactions(self) -> dict[str, list[tuple[float, int]]]:
        """Return how far errors get by the hours until the halt."""
        return {
            waves.name: [
                (hours, len(self.run(Scenario("", waves, ERRORS, days=7, reaction_hours=hours)).harmed))
                for hours in REACTIONS
            ]
            for waves in (SIX_DAYS, ONE_DAY)
        }

    def shown(self) -> RolloutPictureData:
        """Return what the picture needs."""
        days = GOOD.days
        full = self.run(replace(GOOD, bundle_bytes=MODEL_BYTES))
        by_day = self.traffic.bytes_by_day
        return RolloutPictureData(
            {
                each.name: (each.waves, outcome)
                for each, outcome in ((GOOD, self.good), (GOOD_BY_NIGHT, self.by_night), (GOOD_FAST, self.fast))
            },
            [(HARMS[each.harm], each.name, outcome) for each, outcome in zip(BAD, self.bad, strict=True)],
            self.reactions(),
            {
                "a new model, 94 MB": by_day(full, self.sites, days),
                "a new adapter, 1.8 MB": by_day(self.good, self.sites, days),
                "nothing new": by_day(Outcome(SITES), self.sites, days),
            },
        )


def bars(runs: ScenarioRuns) -> list[Bar]:
    """Return the figures and their limits."""
    halted, taken_back = runs.bad[2], runs.bad[5]
    looks = sum(site.contacts_per_day() for site in runs.sites) / SITES
    quiet = _mean(runs.traffic, Outcome(SITES), runs.sites, GOOD.days)
    busy = _mean(runs.traffic, runs.good, runs.sites, GOOD.days)
    return [
        Bar("simulated sites", SITES, 10_000, "higher"),
        Bar("requests a site and day, nothing new", LOOK_REQUESTS * looks, 600, "lower"),
        Bar("kB a site and day, nothing new", quiet / 1e3, 700, "lower"),
        Bar("kB a site, all of an adapter's rollout, over it", (busy - quiet) * GOOD.days / 1e3, 1900, "lower"),
        Bar("days to 50% of the reachable sites, six days", runs.good.days_until(0.5, runs.reachable), 5, "lower"),
        Bar("days to 95% of the reachable sites, six days", runs.good.days_until(0.95, runs.reachable), 7, "lower"),
        Bar("days to all reachable sites, six days", runs.good.days_until(1.0, runs.reachable), 14, "lower"),
        Bar("days to 95% of the reachable sites, one day", runs.fast.days_until(0.95, runs.reachable), 2, "lower"),
        Bar("share reached by errors, waves with halt", len(halted.harmed) / SITES, 0.02, "lower"),
        Bar("share reached by wrong answers, waves, taken back", len(taken_back.harmed) / SITES, 0.06, "lower"),
        Bar("share reached by errors, all at once", len(runs.bad[0].harmed) / SITES, 0.9, "higher"),
    ]


def _mean(moved: SiteTraffic, outcome: Outcome, sites: list[Site], days: int) -> float:
    return sum(moved.bytes_by_day(outcome, sites, days)) / days


def measure() -> list[Bar]:
    """Run all simulations, draw the picture if requested, and yield the bars."""
    with tempfile.TemporaryDirectory() as folder:
        runs = ScenarioRuns(Path(folder))
    if picture := option("--draw"):
        draw(Path(picture), runs.shown())
    return bars(runs)


TASKS = 10
HEADER_BYTES = 800
"""Of a request and its answer, both ways, as they are of an S3 GET."""
LOOK_REQUESTS, CHANGE_REQUESTS = 2, 3


@dataclass(frozen=True)
class SiteTraffic:
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


def measure_traffic(root: Path) -> SiteTraffic:
    """Return what an uplink moves for updates: publish, and take the sizes of the files that a site reads.

    The fleet has ten tasks, and its plan six waves. A look with nothing new asks for the next root, which is not there,
    and for the timestamp. One that finds a new plan fetches snapshot, the plan's metadata and the plan as well.
    """
    central = CentralTeam(root)
    bundles = [echo_bundle(root / f"bundle-{number}", name=f"task-{number}") for number in range(TASKS)]
    digests = [central.publish(bundle) for bundle in bundles]
    wanted = Scenario("", SIX_DAYS).plan(1).channels["stable"].tasks["pos-intent"]
    plain = central.offering(*digests, waves=wanted.waves, probation=wanted.probation)
    plan = central.plan(RolloutPlan.model_validate(plain.model_copy(update={"sites": {"shop-1": FleetPlan()}})))
    sizes = {role: central.metadata(role).stat().st_size for role in ("timestamp", "snapshot", "plan")}
    return SiteTraffic(
        look_bytes=sizes["timestamp"] + LOOK_REQUESTS * HEADER_BYTES,
        change_bytes=sizes["snapshot"] + sizes["plan"] + len(plans.encode(plan)) + CHANGE_REQUESTS * HEADER_BYTES,
    )


if __name__ == "__main__":
    sys.exit(main(measure))
