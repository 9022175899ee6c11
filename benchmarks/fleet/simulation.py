"""What happens from the moment a plan is published: one heap of events, no clock, the same seed the same days."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from benchmarks.fleet.sites import DAY, HOUR, NEVER, Site
from convert.fleet.rollout_progress import SiteStatuses, report
from edge_agent.formats.plan import (
    BundleOffer,
    DesiredState,
    FleetPlan,
    MachineCapabilities,
    ProbationRules,
    RolloutPlan,
    RolloutWave,
    SwitchWindow,
    TaskPlan,
    desired_states,
    is_within_window,
)
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.formats.status_object import SiteStatus, TaskStatus, UpdateState, UpdateStatus

TASK, CHANNEL = "pos-intent", "stable"
OLD, NEW = "0d" * 32, "1e" * 32
MACHINE = MachineCapabilities(4 * 2**30)
BEGIN = 1_793_750_400.0
"""Midnight UTC when the plan is published; the simulation counts from there."""
SELF_TEST_SECONDS = 90.0
JUDGED_CALLS = 20
"""From that call on probation judges the share of errors."""
Harm = Literal["none", "errors in probation", "seen by people only"]


@dataclass(frozen=True)
class RolloutWaves:
    """A rollout: days from its start and percent of the fleet."""

    name: str
    steps: tuple[tuple[float, int], ...]


SIX_DAYS = RolloutWaves("six days", ((0, 1), (1, 5), (2, 15), (3, 40), (4, 60), (5, 100)))
ONE_DAY = RolloutWaves("one day", ((0, 1), (0.15, 5), (0.3, 15), (0.5, 40), (0.7, 60), (0.9, 100)))
AT_ONCE = RolloutWaves("all at once", ())


@dataclass(frozen=True)
class Scenario:
    """One run."""

    name: str
    waves: RolloutWaves
    harm: Harm = "none"
    window: SwitchWindow | None = None
    days: int = 14
    bundle_bytes: int = 1_800_000
    reaction_hours: float | None = None
    """Between the central team's first sight of too many failures and its halt; None = nobody looks."""
    noticed_hours: float = 10.0
    """seen by people only: opening hours with wrong answers until somebody phones."""

    def plan(self, version: int, *, halted: bool = False, back: bool = False) -> RolloutPlan:
        """Return the plan; `back` names the old bundle again."""
        waves = tuple(
            RolloutWave(start=format_timestamp(BEGIN + days * DAY), percent=share) for days, share in self.waves.steps
        )
        wanted = TaskPlan(
            offers=(BundleOffer(bundle=OLD if back else NEW, version="1.0.0" if back else "2.0.0"),),
            waves=() if back else waves,
            window=None if back else self.window,
            halted=halted,
            probation=ProbationRules(),
        )
        return RolloutPlan(
            version=version, issued_at=format_timestamp(BEGIN), channels={CHANNEL: FleetPlan(tasks={TASK: wanted})}
        )


@dataclass
class _State:
    """What a site has come to."""

    plan: RolloutPlan | None = None
    digest: str = OLD
    state: UpdateState | None = None
    failed: bool = False
    busy: bool = False
    """Fetching or waiting to switch."""
    bad_since: float | None = None


@dataclass
class Outcome:
    """What came of it. Times in seconds from the start."""

    sites: int
    switched: list[float] = field(default_factory=list)
    """When sites switched to the new bundle, in order."""
    harmed: list[float] = field(default_factory=list)
    """When sites first answered with a bad bundle, in order."""
    bad_seconds: float = 0.0
    """For how long sites answered with it, all together."""
    halted_at: float | None = None
    blob_bytes_by_day: dict[int, int] = field(default_factory=dict)
    changed_by_day: dict[int, int] = field(default_factory=dict)
    """Looks that found a new plan."""

    def days_until(self, share: float, of: int) -> float:
        """Return after how many days that share of `of` sites had switched; infinite if it never was."""
        needed = round(share * of)
        return self.switched[needed - 1] / DAY if len(self.switched) >= needed else NEVER


class Simulation:
    """The sites, the central team and the time between them."""

    def __init__(self, scenario: Scenario, sites: Sequence[Site]) -> None:
        """Publish the plan at time 0."""
        self._scenario, self._sites = scenario, {site.name: site for site in sites}
        self._states = {site.name: _State() for site in sites}
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._order = itertools.count()
        self._heard = SiteStatuses({site.name: _status(site.name, _State(), 0.0) for site in sites})
        self._calls: list[float] = []
        self.outcome = Outcome(len(sites))
        self._publish(0.0, scenario.plan(1))
        if scenario.reaction_hours is not None:
            self._at(HOUR, self._look)

    def run(self) -> Outcome:
        """Let everything happen until the scenario's last day."""
        end = self._scenario.days * DAY
        while self._events and self._events[0][0] <= end:
            t, _, happen, what = heapq.heappop(self._events)
            happen(t, *what)
        for state in self._states.values():
            self._better(state, end)
        return self.outcome

    def _at(self, t: float, happen: Callable[..., None], *what: object) -> None:
        if t < NEVER:
            heapq.heappush(self._events, (t, next(self._order), happen, what))

    # --- the central team ---

    def _publish(self, t: float, plan: RolloutPlan) -> None:
        self._plan = plan
        for site in self._sites.values():
            self._at(site.next_contact(t), self._mirror, site)

    def _look(self, t: float) -> None:
        """Compare the fleet with the plan once an hour, as an operator or a timer does; halt the rollout if advised."""
        if self.outcome.halted_at is not None:
            return
        found = report(self._plan, self._heard, BEGIN + t, silent_seconds=2 * DAY)
        if found.halts and self._scenario.reaction_hours is not None:
            self._at(t + self._scenario.reaction_hours * HOUR, self._halt)
        else:
            self._at(t + HOUR, self._look)

    def _halt(self, t: float) -> None:
        if self.outcome.halted_at is None:
            self.outcome.halted_at = t
            back = self._scenario.harm == "seen by people only"
            self._publish(t, self._scenario.plan(2, halted=not back, back=back))

    def _phoned(self, t: float) -> None:
        """Somebody reports wrong answers; the third call is believed."""
        self._calls.append(t)
        if len(self._calls) == 3 and self._scenario.reaction_hours is not None:
            self._at(t + self._scenario.reaction_hours * HOUR, self._halt)

    # --- a site ---

    def _mirror(self, t: float, site: Site) -> None:
        """Bring the newest plan to a site."""
        state = self._states[site.name]
        if state.plan is not self._plan:
            state.plan = self._plan
            self.outcome.changed_by_day[int(t // DAY)] = self.outcome.changed_by_day.get(int(t // DAY), 0) + 1
        self._decide(t, site)

    def _wish(self, t: float, site: Site) -> DesiredState:
        plan = self._states[site.name].plan
        assert plan is not None
        return desired_states(plan.for_site(site.name, CHANNEL), site.name, MACHINE, BEGIN + t)[TASK]

    def _decide(self, t: float, site: Site) -> None:
        state, wish = self._states[site.name], self._wish(t, site)
        if wish.verdict == "WAVE_LATER":
            self._at(max(wish.opens_at - BEGIN, t), self._decide, site)
        elif wish.bundle == OLD != state.digest:
            self._switch(t, site)  # what it had before is still there
        elif wish.bundle == NEW != state.digest and not state.failed and not state.busy:
            state.busy = True
            begins = site.next_contact(t)
            self._at(begins + self._scenario.bundle_bytes / site.bytes_per_second, self._fetched, site)

    def _fetched(self, t: float, site: Site) -> None:
        day, seconds = int(t // DAY), SELF_TEST_SECONDS
        bytes_by_day = self.outcome.blob_bytes_by_day
        bytes_by_day[day] = bytes_by_day.get(day, 0) + self._scenario.bundle_bytes
        self._say(t, site, "staged")
        ready = t + seconds
        end = self._scenario.days * DAY
        while not self._may_switch(ready, site):
            ready += 300.0
            if ready > end:
                return
        self._at(ready, self._switch, site)

    def _may_switch(self, t: float, site: Site) -> bool:
        return site.is_on(t) and is_within_window(self._scenario.window, int(site.local(t) // 60))

    def _switch(self, t: float, site: Site) -> None:
        state, wish = self._states[site.name], self._wish(t, site)
        state.busy = False
        if wish.bundle is None or wish.bundle == state.digest:
            return  # halted in the meantime
        if wish.bundle == OLD:
            state.digest = OLD
            self._better(state, t)
            self._say(t, site, "done")
            return
        state.digest = NEW
        self.outcome.switched.append(t)
        self._watch(t, site, wish.plan.probation)

    def _watch(self, t: float, site: Site, probation: ProbationRules) -> None:
        """Begin probation, and let it end as the bundle deserves."""
        state, harm = self._states[site.name], self._scenario.harm
        self._say(t, site, "probation")
        if harm != "none":
            state.bad_since = t
            self.outcome.harmed.append(t)
        if harm == "errors in probation":
            self._at(site.answered(t, JUDGED_CALLS), self._back, site)
            return
        over = min(site.answered(t, probation.calls), t + probation.hours * HOUR)
        self._at(over, self._say, site, "done")
        if harm == "seen by people only":
            calls = self._scenario.noticed_hours * site.calls_per_hour
            self._at(site.answered(t, calls), self._phoned)

    def _back(self, t: float, site: Site) -> None:
        state = self._states[site.name]
        state.digest, state.failed = OLD, True
        self._better(state, t)
        self._say(t, site, "rolled_back")

    def _better(self, state: _State, t: float) -> None:
        if state.bad_since is not None:
            self.outcome.bad_seconds += t - state.bad_since
            state.bad_since = None

    def _say(self, t: float, site: Site, state: UpdateState) -> None:
        """Let the central team hear of a new state when the site is online next."""
        mine = self._states[site.name]
        if state == "done" and mine.failed:
            return
        mine.state = state
        said = _status(site.name, mine, t)
        self._at(site.next_contact(t), self._hear, said)

    def _hear(self, _: float, said: SiteStatus) -> None:
        self._heard.add(said.site, said)


def _status(name: str, state: _State, t: float) -> SiteStatus:
    update = state.state and UpdateStatus.model_construct(
        candidate=NEW,
        version="2.0.0",
        state=state.state,
        since=format_timestamp(BEGIN + t),
        plan_version=1,
        reason=state.state,
    )
    running = TaskStatus.model_construct(
        task=TASK,
        kind="classify",
        version="1.0.0" if state.digest == OLD else "2.0.0",
        digest=state.digest,
        ready=True,
        collect="off",
        update=update,
    )
    return SiteStatus.model_construct(
        site=name,
        at=format_timestamp(BEGIN + t),
        agent_version="0.1.0",
        epoch="0" * 16,
        channel=CHANNEL,
        plan_version=1,
        tasks=(running,),
        arriving={},
    )
