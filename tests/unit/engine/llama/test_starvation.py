"""The step scheduler starves no work item, in any order of arrival, and keeps every step within its limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import example, given, settings
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_costs import (
    BULK_ROWS,
    BULK_ROWS_MIN,
    EXACT_ROWS_MAX,
    StepCostModel,
    attention_pairs,
)
from edge_agent.engine.runtimes.llama.step_scheduler import (
    LARGE_ROUNDS,
    PRIORITY_SECONDS,
    QUANTUM_SECONDS,
    QUANTUM_STEPS,
    WRITING_ROWS_MAX,
    StepPlan,
    StepScheduler,
    WorkItem,
)

LANES_MAX = 10
FEW_LANES = 4
STEPS = 400


def _consistent(item: WorkItem) -> WorkItem:
    """Return a work item as jobs make them: one that writes has one row, and a bulk-safe one reads and is not exact."""
    if item.decoding:
        return item._replace(rows=1, rows_min=1, bulk_safe=False)
    return item._replace(rows_min=min(item.rows_min, item.rows), exact=item.exact and not item.bulk_safe)


_lanes = st.builds(
    WorkItem,
    key=st.just(""),
    group=st.sampled_from("xyz"),
    rows=st.integers(1, 400),
    rows_min=st.integers(1, EXACT_ROWS_MAX - WRITING_ROWS_MAX),
    decoding=st.booleans(),
    exact=st.booleans(),
    depth=st.integers(0, 4000),
    priority=st.integers(0, 2),
    bulk_safe=st.booleans(),
).map(_consistent)
_machines = st.builds(StepCostModel, st.floats(1e-4, 0.1), st.floats(1e-6, 0.02), st.floats(0, 4e-6))


@dataclass
class Site:
    """Work items that always have more to compute, and how long each of them has waited."""

    machine: StepCostModel
    bulk_rows: int
    scheduler: StepScheduler = field(init=False)
    now: float = 1000.0
    waiting: dict[str, WorkItem] = field(default_factory=dict)
    due_at: dict[str, float] = field(default_factory=dict)
    """When nobody who comes later may stand before it any more."""
    due_steps: dict[str, int] = field(default_factory=dict)
    """Steps since then."""
    came: int = 0
    longest_step: float = 0.0
    behind_seconds: float = 0.0

    def __post_init__(self) -> None:
        self.scheduler = StepScheduler(self.bulk_rows)

    def arrive(self, item: WorkItem) -> None:
        """Add a job that claims to have waited for a minute; the oldest one that has moved makes room for it."""
        key = f"job-{self.came}"
        self.came += 1
        self.waiting[key] = item._replace(key=key, arrived_at=self.now - 60)
        self._note(key)

    def leave(self, key: str) -> None:
        """End a job."""
        for known in (self.waiting, self.due_at, self.due_steps):
            known.pop(key, None)

    def step(self) -> StepPlan:
        """Compute a step."""
        plan = self.scheduler.plan(list(self.waiting.values()), self.now)
        total = sum(rows for _, rows in plan)
        seconds = self.machine.cost(total, sum(attention_pairs(rows, item.depth) for item, rows in plan))
        self.scheduler.record_step(plan, seconds)
        self.longest_step = max(self.longest_step, seconds)
        due = [key for key, at in self.due_at.items() if at <= self.now]
        self.now += seconds
        for key in due:
            self.due_steps[key] += 1
        for item, _ in plan:
            self._note(item.key)
        return plan

    def _note(self, key: str) -> None:
        # What a work item of many rows stands back by; what a step costs may have been learnt since.
        self.behind_seconds = max(self.behind_seconds, LARGE_ROUNDS * self.scheduler.order.round_seconds(LANES_MAX))
        self.due_at[key] = self.now + (self.waiting[key].priority + 1) * PRIORITY_SECONDS + self.behind_seconds
        self.due_steps[key] = 0


def check_bounds(plan: StepPlan, site: Site) -> None:
    """Fail if a step breaks a limit of the scheduler."""
    total = sum(rows for _, rows in plan)
    assert plan, "there are work items, so there is work"
    assert 1 == len({item.group for item, _ in plan})
    assert len(plan) == len({item.key for item, _ in plan})
    assert all(item.rows_min <= rows <= item.rows for item, rows in plan)
    assert total <= max(site.bulk_rows, EXACT_ROWS_MAX)
    assert total < BULK_ROWS_MIN or not any(item.exact for item, _ in plan)


def check_streams(plan: StepPlan, site: Site) -> None:
    """Fail unless every writing work item of the step's group has its row, except for exact ones in a bulk step."""
    bulk = sum(rows for _, rows in plan) >= BULK_ROWS_MIN
    writing = [item for item in site.waiting.values() if item.decoding and item.group == plan[0][0].group]
    assert {item.key for item in writing if not (item.exact and bulk)} <= {item.key for item, _ in plan}


@settings(deadline=None, max_examples=15)
@given(
    _machines, st.sampled_from([EXACT_ROWS_MAX, BULK_ROWS]), st.lists(_lanes, min_size=1, max_size=FEW_LANES), st.data()
)
def test_every_work_item_moves_within_a_bound_of_steps(
    machine: StepCostModel, bulk_rows: int, first: list[WorkItem], data: st.DataObject
) -> None:
    """Against any flood of newcomers, with higher priority and claiming to be older, a work item moves within a fixed
    number of steps. In each step work items that have moved are replaced by others, which all go first if the scheduler
    lets them."""
    site = Site(machine, bulk_rows)
    for item in first:
        site.arrive(item)
    flood = data.draw(st.lists(_lanes, max_size=4), label="flood")
    for step in range(STEPS):
        plan = site.step()
        check_bounds(plan, site)
        check_streams(plan, site)
        most = (FEW_LANES + 1) * (QUANTUM_STEPS + 1)
        assert most < STEPS, "or else this would say nothing"
        assert max(site.due_steps.values()) <= most
        if flood:
            for item, _ in plan[: 1 + step % 3]:
                site.leave(item.key)
            while len(site.waiting) < FEW_LANES:
                site.arrive(flood[step % len(flood)])


@settings(deadline=None, max_examples=15)
@given(_machines, st.lists(_lanes, min_size=1, max_size=LANES_MAX), _lanes)
def test_every_work_item_moves_within_a_bound_of_seconds(
    machine: StepCostModel, first: list[WorkItem], newcomer: WorkItem
) -> None:
    """A work item is served within (n + 1) quanta, each at most two steps longer than its limit."""
    site = Site(machine, BULK_ROWS)
    for item in first:
        site.arrive(item)
    for _ in range(STEPS):
        plan = site.step()
        if plan[-1][0].priority <= newcomer.priority:
            site.leave(plan[-1][0].key)
            site.arrive(newcomer)
        most = (LANES_MAX + 1) * (QUANTUM_SECONDS[1] + 2 * site.longest_step)
        assert max(site.now - at for at in site.due_at.values()) <= most


@settings(deadline=None, max_examples=40)
@given(_machines, st.lists(_lanes.map(lambda item: item._replace(group="")), min_size=1, max_size=LANES_MAX), _lanes)
@example(
    StepCostModel(1e-4, 1e-6, 0),
    [WorkItem("", "", 1, decoding=True), *[WorkItem("", "", 400, exact=False)] * 9],
    WorkItem("", "", 400),
)
def test_work_items_of_one_adapter_move_within_two_rounds(
    machine: StepCostModel, first: list[WorkItem], newcomer: WorkItem
) -> None:
    """Without other adapters a work item that is due waits for at most 2 n steps."""
    site = Site(machine, BULK_ROWS)
    for item in first:
        site.arrive(item)
    for _ in range(100):
        plan = site.step()
        check_bounds(plan, site)
        check_streams(plan, site)
        assert max(site.due_steps.values()) <= 2 * LANES_MAX
        site.leave(plan[0][0].key)
        site.arrive(newcomer._replace(group=""))


def test_stopped_clock_does_not_block_adapters() -> None:
    """Four work items of four adapters all move although the clock does not advance."""
    scheduler = StepScheduler()
    items = [WorkItem(key, key, 1, decoding=True) for key in "abcd"]
    moved = {item.key for _ in range(5 * QUANTUM_STEPS) for item, _ in scheduler.plan(items, 7.0)}
    assert set("abcd") == moved


def test_prompts_take_turns_with_a_stopped_clock() -> None:
    """A prompt that has moved is ordered behind one that has not, although the clock does not advance."""
    scheduler, items = StepScheduler(), [WorkItem(key, "", 900) for key in "abc"]
    assert list("abcabc") == [scheduler.plan(items, 7.0)[0][0].key for _ in range(6)]
