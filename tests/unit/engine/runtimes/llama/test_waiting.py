"""edge_agent/engine/runtimes/llama/scheduler.py: nobody starves, whoever comes, and every step keeps its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.rates import BULK_ROWS_MIN, EXACT_ROWS_MAX, Fit, pairs_of
from edge_agent.engine.runtimes.llama.scheduler import (
    BULK_ROWS,
    LARGE_ROUNDS,
    PRIORITY_SECONDS,
    QUANTUM_SECONDS,
    QUANTUM_STEPS,
    WRITING_ROWS_MAX,
    Lane,
    Plan,
    Scheduler,
)

LANES_MAX = 10
FEW_LANES = 4
STEPS = 400


def _consistent(lane: Lane) -> Lane:
    """Return a lane as jobs make them: who writes has one row, and who crowds reads and is not exact."""
    if lane.decoding:
        return lane._replace(rows=1, least=1, crowding=False)
    return lane._replace(least=min(lane.least, lane.rows), exact=lane.exact and not lane.crowding)


_lanes = st.builds(
    Lane,
    key=st.just(""),
    group=st.sampled_from("xyz"),
    rows=st.integers(1, 400),
    least=st.integers(1, EXACT_ROWS_MAX - WRITING_ROWS_MAX),
    decoding=st.booleans(),
    exact=st.booleans(),
    depth=st.integers(0, 4000),
    priority=st.integers(0, 2),
    crowding=st.booleans(),
).map(_consistent)
_machines = st.builds(Fit, st.floats(1e-4, 0.1), st.floats(1e-6, 0.02), st.floats(0, 4e-6))


@dataclass
class Site:
    """Lanes that always have more to compute, and what each of them has waited for."""

    machine: Fit
    bulk_rows: int
    scheduler: Scheduler = field(init=False)
    now: float = 1000.0
    waiting: dict[str, Lane] = field(default_factory=dict)
    due_at: dict[str, float] = field(default_factory=dict)
    """When nobody who comes later may stand before it any more."""
    due_steps: dict[str, int] = field(default_factory=dict)
    """Steps since then."""
    came: int = 0
    longest_step: float = 0.0
    behind_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler = Scheduler(self.bulk_rows)

    def arrive(self, lane: Lane) -> None:
        """Let a job come that says it has waited for a minute; the oldest that has moved makes room for it."""
        key = f"job-{self.came}"
        self.came += 1
        self.waiting[key] = lane._replace(key=key, came_at=self.now - 60)
        self._note(key)

    def leave(self, key: str) -> None:
        """Let a job end."""
        for known in (self.waiting, self.due_at, self.due_steps):
            known.pop(key, None)

    def step(self) -> Plan:
        """Compute a step."""
        plan = self.scheduler.plan(list(self.waiting.values()), self.now)
        total = sum(rows for _, rows in plan)
        seconds = self.machine.cost(total, sum(pairs_of(rows, lane.depth) for lane, rows in plan))
        self.scheduler.measured(plan, seconds)
        self.longest_step = max(self.longest_step, seconds)
        due = [key for key, at in self.due_at.items() if at <= self.now]
        self.now += seconds
        for key in due:
            self.due_steps[key] += 1
        for lane, _ in plan:
            self._note(lane.key)
        return plan

    def _note(self, key: str) -> None:
        # What a lane of many rows stands back by; what a step costs may have been learnt since.
        self.behind_seconds = max(self.behind_seconds, LARGE_ROUNDS * self.scheduler.round_seconds(LANES_MAX))
        self.due_at[key] = self.now + (self.waiting[key].priority + 1) * PRIORITY_SECONDS + self.behind_seconds
        self.due_steps[key] = 0


def check_bounds(plan: Plan, site: Site) -> None:
    """Fail unless a step is what a step may be."""
    total = sum(rows for _, rows in plan)
    assert plan, "there are lanes, so there is work"
    assert 1 == len({lane.group for lane, _ in plan})
    assert len(plan) == len({lane.key for lane, _ in plan})
    assert all(lane.least <= rows <= lane.rows for lane, rows in plan)
    assert total <= max(site.bulk_rows, EXACT_ROWS_MAX)
    assert total < BULK_ROWS_MIN or not any(lane.exact for lane, _ in plan)


def check_streams(plan: Plan, site: Site) -> None:
    """Fail unless every lane of the group that writes has its row, but for exact ones in a bulk step."""
    bulk = sum(rows for _, rows in plan) >= BULK_ROWS_MIN
    writing = [lane for lane in site.waiting.values() if lane.decoding and lane.group == plan[0][0].group]
    assert {lane.key for lane in writing if not (lane.exact and bulk)} <= {lane.key for lane, _ in plan}


@settings(deadline=None, max_examples=15)
@given(
    _machines, st.sampled_from([EXACT_ROWS_MAX, BULK_ROWS]), st.lists(_lanes, min_size=1, max_size=FEW_LANES), st.data()
)
def test_every_lane_moves_within_the_bound(
    machine: Fit, bulk_rows: int, first: list[Lane], data: st.DataObject
) -> None:
    """Against any flood of newcomers, of higher priority and said to be older, a lane moves within the formula.

    In each step lanes that have moved make room for others, which all come before it if anything lets them.
    """
    site = Site(machine, bulk_rows)
    for lane in first:
        site.arrive(lane)
    flood = data.draw(st.lists(_lanes, max_size=4), label="flood")
    for step in range(STEPS):
        plan = site.step()
        check_bounds(plan, site)
        check_streams(plan, site)
        most = (FEW_LANES + 1) * (QUANTUM_STEPS + 1)
        assert most < STEPS, "or else this would say nothing"
        assert max(site.due_steps.values()) <= most
        if flood:
            for lane, _ in plan[: 1 + step % 3]:
                site.leave(lane.key)
            while len(site.waiting) < FEW_LANES:
                site.arrive(flood[step % len(flood)])


@settings(deadline=None, max_examples=15)
@given(_machines, st.lists(_lanes, min_size=1, max_size=LANES_MAX), _lanes)
def test_every_lane_moves_within_the_bound_in_seconds(machine: Fit, first: list[Lane], newcomer: Lane) -> None:
    """A lane is due within (n + 1) quanta, each of them a step longer than its limit."""
    site = Site(machine, BULK_ROWS)
    for lane in first:
        site.arrive(lane)
    for _ in range(STEPS):
        plan = site.step()
        if plan[-1][0].priority <= newcomer.priority:
            site.leave(plan[-1][0].key)
            site.arrive(newcomer)
        most = (LANES_MAX + 1) * (QUANTUM_SECONDS[1] + 2 * site.longest_step)
        assert max(site.now - at for at in site.due_at.values()) <= most


@settings(deadline=None, max_examples=40)
@given(_machines, st.lists(_lanes.map(lambda lane: lane._replace(group="")), min_size=1, max_size=LANES_MAX), _lanes)
@example(Fit(1e-4, 1e-6, 0), [Lane("", "", 1, decoding=True), *[Lane("", "", 400, exact=False)] * 9], Lane("", "", 400))
def test_within_one_group_every_lane_moves_within_two_rounds(machine: Fit, first: list[Lane], newcomer: Lane) -> None:
    """Without other adapters a lane that is due waits for 2 n steps at most."""
    site = Site(machine, BULK_ROWS)
    for lane in first:
        site.arrive(lane)
    for _ in range(100):
        plan = site.step()
        check_bounds(plan, site)
        check_streams(plan, site)
        assert max(site.due_steps.values()) <= 2 * LANES_MAX
        site.leave(plan[0][0].key)
        site.arrive(newcomer._replace(group=""))


def test_a_clock_that_stands_still_stops_nobody() -> None:
    """Four lanes of four adapters all move although no time passes."""
    scheduler = Scheduler()
    lanes = [Lane(key, key, 1, decoding=True) for key in "abcd"]
    moved = {lane.key for _ in range(5 * QUANTUM_STEPS) for lane, _ in scheduler.plan(lanes, 7.0)}
    assert set("abcd") == moved


def test_prompts_take_turns_although_the_clock_stands_still() -> None:
    """Who has moved stands behind who has not, however little time has passed."""
    scheduler, lanes = Scheduler(), [Lane(key, "", 900) for key in "abc"]
    assert list("abcabc") == [scheduler.plan(lanes, 7.0)[0][0].key for _ in range(6)]
