"""Which rows the next step computes. Pure: no clock, no model; the caller reports step times (`step_costs.py`).

A step computes work items of one adapter group, because an adapter applies to the whole batch.

- Streams come first, one row each, so that they stay smooth.
- Prompts share the remaining time, the one that has waited longest first: STEP_SECONDS if several work items are
  waiting, ALONE_SECONDS for a lone prompt (decision 0023), and always at least as much as the streams take.
- A step with a row of an `exact` work item has at most EXACT_ROWS_MAX rows, so that the result does not depend on
  other work items. A step without one may have `bulk_rows`: it computes prompts twice as fast if they are long, or if
  many are `bulk_safe`, and may take BULK_SECONDS_MAX. The longest waiter decides; exact streams miss no two steps in a
  row.

A group stays for a quantum, because every change costs milliseconds: CHANGES_SHARE of the time is spent on changes.

Work counts, not calls. A job of many rows, those computed and those known to follow, queues behind smaller ones: with
LARGE times the rows of the smallest, it waits as if it had come LARGE_ROUNDS rounds of all work items later. So a text
with 8 labels passes any number of jobs with 200 labels, and each of those still moves within three rounds (shortest
job first with aging: Kleinrock 1976, Queueing Systems II, chapter 3). If a step reads one job to its end, a job that
it reads only in part makes the step longer by at most FILL_SHARE. A caller that has just had an answer probably asks
again at once: if a job has ended and only large ones are left, the next step takes at most as long as such a job does
(anticipatory scheduling: Iyer and Druschel 2001). With a large vocabulary a row of a label, which has logits, costs
three times a row of a prompt: the jobs' sizes count it so.

No work item starves. It waits since its last step ended, or since it came; a step of priority counts as
PRIORITY_SECONDS less. Each quantum begins with the longest waiter, whatever its group. Hence, whoever else comes, a
work item of priority p among at most n work items moves within

    (p + 1) * PRIORITY_SECONDS + LARGE_ROUNDS rounds, and from then on
    (n + 1) * (QUANTUM_STEPS + 1) steps; without other groups, 2 * n steps

because from then on no work item that comes or moves is ahead of it. The extra second is the longest that others may
have waited for a slot in the cache before they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge_agent.engine.runtimes.llama.step_costs import (
    BULK_ROWS,
    BULK_ROWS_MIN,
    EXACT_ROWS_MAX,
    ROWS_GROUP,
    StepCostModel,
    StepCosts,
    StepWork,
    attention_pairs,
    retry_seconds,
)

STEP_SECONDS = 0.2
ALONE_SECONDS = 0.5
LONG_TOKENS = 512
"""Prompts of at least this many tokens use bulk steps. Texts written beside shorter ones do not depend on company."""
BULK_ROWS_LEAST = 128
"""A bulk step with fewer rows takes no less time. This many bulk-safe rows are worth one."""
BULK_SECONDS_MAX = 0.8
"""Time limit of a bulk step of BULK_ROWS_LEAST rows: with fewer rows, each would cost twice as much."""
PRIORITY_SECONDS = 1.0
WRITING_ROWS_MAX = 32
"""The most streams in a step that also reads prompts."""
ROWS_MIN = 16
"""A prompt that is read in a step gets at least this many rows, whatever they cost."""
SMALL_ROWS = 32
"""A prompt of at most this many rows is not cut if it comes first and there are no streams."""
LARGE, LARGE_ROUNDS = 2.0, 2
"""A job of LARGE times the rows of the smallest waits LARGE_ROUNDS rounds behind it, and a smaller job a part of that.
Jobs of ROWS_MIN or fewer rows count as equal."""
FILL_SHARE = 0.5
"""The share by which partly read work items may lengthen a step that reads others to their end."""
QUANTUM_STEPS = 64
QUANTUM_SECONDS = (0.1, 0.5)
CHANGES_SHARE = 0.05
_TICK = 1e-6  # steps are at least so far apart, in seconds

StepPlan = list[tuple["WorkItem", int]]


class WorkItem(NamedTuple):
    """What one job could compute now."""

    key: str
    group: str
    rows: int
    """Tokens that could be computed now; at least 1."""
    rows_min: int = 1
    """Fewer rows than this are useless; at most EXACT_ROWS_MAX - WRITING_ROWS_MAX."""
    decoding: bool = False
    """It is a stream: it has one row now, and a reader waits for the token."""
    exact: bool = True
    """Its result must not depend on its neighbours."""
    bulk_safe: bool = False
    """Bulk steps do not change its result, so it may share one with others like it, however short they are."""
    depth: int = 0
    """Tokens that it has in the cache."""
    priority: int = 0
    """0 is first."""
    arrived_at: float = 0.0
    """On the clock of `plan`; 0 = since the last step."""
    deadline: float = 0.0
    """Likewise; 0 = none."""
    rows_ahead: int = 0
    """Rows that are known to follow these."""
    logits: bool = False
    """All its rows have logits; otherwise only the last one has."""


WorkItems = Sequence[WorkItem]


def turn_time(since: float, priority: int) -> float:
    """Return the sort key of a job that waits since then: the smallest goes first."""
    return since + priority * PRIORITY_SECONDS


class TurnOrder:
    """The order of work items: the one that has waited longest comes first, and large jobs wait behind smaller ones."""

    def __init__(self, costs: StepCosts) -> None:
        """Measure rows and rounds by `costs`."""
        self._costs = costs
        self.now = 0.0
        """When the last step was planned."""
        self._since: dict[str, float] = {}
        """The `turn_time` of each work item."""
        self._delays: dict[str, float] = {}
        """The seconds by which each work item that reads is placed behind smaller ones."""
        self._sizes: dict[str, float] = {}
        """All rows of each job that reads, computed and known to follow, by `weight`; those ahead count singly."""
        self._ended_rows = 0.0
        """Rows of the smallest job that ended with the last step; 0 = none did."""
        self._moved: set[str] = set()
        """The work items of the last step."""
        self._served: dict[str, float] = {}
        """Computed rows of each work item that reads, by `weight`."""

    def arrive(self, items: WorkItems, now: float) -> None:
        """Note since when each work item waits; those of the last step wait since now."""
        now = max(now, self.now + _TICK)
        keys = {item.key for item in items}
        ended_sizes = (size for key, size in self._sizes.items() if key in self._moved and key not in keys)
        self._ended_rows = min(ended_sizes, default=0.0)
        earlier, since = self._since, {}
        for item in items:
            key = item.key
            if key not in self._moved and key in earlier:
                since[key] = earlier[key]
                continue
            arrived_at = min(max(item.arrived_at or self.now, now - PRIORITY_SECONDS), now)
            since[key] = turn_time(now if key in self._moved else arrived_at, item.priority)
        self._since, self.now = since, now
        self._line_up([item for item in items if not item.decoding], LARGE_ROUNDS * self.round_seconds(len(items)))

    def move(self, plan: StepPlan) -> None:
        """Note the step that is computed next."""
        self._moved = {item.key for item, _ in plan}
        for item, rows in plan:
            if not item.decoding:
                self._served[item.key] += rows * self.weight(item)

    @property
    def ended_before_large(self) -> float:
        """Rows of the smallest job that ended with the last step, if only large ones are left; otherwise 0."""
        smallest = min(self._sizes.values(), default=0)
        return self._ended_rows if smallest > LARGE * max(self._ended_rows, ROWS_MIN) else 0.0

    def _line_up(self, reading: WorkItems, seconds: float) -> None:
        """Place large work items behind smaller ones, by at most `seconds`."""
        self._served = {item.key: self._served.get(item.key, 0.0) for item in reading}
        sizes = self._sizes = {
            item.key: self._served[item.key] + item.rows * self.weight(item) + item.rows_ahead for item in reading
        }
        smallest = max(min(sizes.values(), default=0), ROWS_MIN)
        self._delays = {
            key: seconds * min(max(size / smallest - 1, 0.0) / (LARGE - 1), 1.0) for key, size in sizes.items()
        }

    def round_seconds(self, items: int) -> float:
        """Return the seconds in which each of that many work items gets one exact step of the greatest length."""
        small = self._costs.small
        return items * min(small.cost(EXACT_ROWS_MAX, 0.0), small.base + small.seconds_left(STEP_SECONDS, 0, 0.0))

    def weight(self, item: WorkItem) -> float:
        """Return how many rows of a prompt one row of a work item counts for."""
        return self._costs.row_weight(logits=item.logits)

    def turn(self, item: WorkItem) -> float:
        """Return the sort key of a work item: the smallest goes first."""
        return self._since[item.key] + self._delays.get(item.key, 0.0)


class StepScheduler:
    """Plans one step after the other."""

    def __init__(self, bulk_rows: int = BULK_ROWS, logits_rows: float = 0.0) -> None:
        """Start with the most rows of a step without exact work items; EXACT_ROWS_MAX or less = no bulk steps.

        The logits of a row cost as much as `logits_rows` rows of a prompt.
        """
        self.costs = StepCosts(logits_rows)
        self.order = TurnOrder(self.costs)
        self._bulk_rows = max(bulk_rows, EXACT_ROWS_MAX)
        self._was_bulk = False
        self._group: str | None = None
        self._group_until = 0.0
        self._group_steps = 0
        self._changed = False
        self._change_seconds = 0.0

    def plan(self, items: WorkItems, now: float) -> StepPlan:
        """Return work items of one group with their rows, `rows_min` to `rows` each; empty only without work items."""
        if not items:
            return []
        self.order.arrive(items, now)
        plan = self._plan_group(self._choose_group(items), lone=len(items) == 1)
        self.order.move(plan)
        self._was_bulk = _rows_of(plan) >= BULK_ROWS_MIN
        return plan

    def record_step(self, plan: StepPlan, seconds: float) -> None:
        """Learn from the time of the planned step, unless it had no rows."""
        if not plan:
            return
        work = _work_of(plan)
        if self._changed and self.costs.known:  # shows what a change of adapters costs, not what rows cost
            extra = max(seconds - self.costs.cost(work), 0.0)
            self._change_seconds += (extra - self._change_seconds) / 4
        else:
            self.costs.learn(work, seconds)
            if _reads(plan):
                self.costs.confirm(work, seconds, self.order.now + seconds)

    def record_abort(self, plan: StepPlan, seconds: float) -> None:
        """Note that the planned step was aborted after `seconds`."""
        if _reads(plan):
            self.costs.record_abort(_work_of(plan), seconds, self.order.now + seconds)

    def expected_seconds(self, plan: StepPlan) -> float:
        """Return the seconds that the planned step takes."""
        return self.costs.cost(_work_of(plan))

    def lone_seconds(self, item: WorkItem) -> float:
        """Return the seconds that the rows of a work item would take if it were the only one."""
        return self.costs.lone_seconds(item.rows, item.depth, self._chunk(item, ALONE_SECONDS))

    def unattainable(self, items: WorkItems, now: float) -> list[tuple[WorkItem, float]]:
        """Return the work items that could not meet their deadline even if each were the only one.

        Each comes with the seconds after which it is worth another try.
        """
        reading = [item for item in items if not item.decoding]
        seconds = ALONE_SECONDS if len(items) == 1 else STEP_SECONDS
        pauses = [self._pause(item, seconds, now) for item in self._with_bulk_batch(reading)]
        return [(item, pause) for item, pause in zip(reading, pauses, strict=True) if pause]

    def _pause(self, item: WorkItem, seconds: float, now: float) -> float:
        """Return the seconds until a work item is worth another try, if its next step may take `seconds`; 0 = now."""
        if not item.deadline:
            return 0.0
        seconds_left, chunk = item.deadline - now, self._chunk(item, ALONE_SECONDS)
        first = chunk if seconds == ALONE_SECONDS else self._chunk(item, seconds)
        certain = self.costs.certain_seconds(item.rows, item.depth, chunk, first, now)
        return 0.0 if seconds_left > certain else retry_seconds(certain, seconds_left)

    def _chunk(self, item: WorkItem, seconds: float) -> int:
        """Return the rows of the step of at most `seconds` that would be planned for a work item alone."""
        return _rows_of(self._plan_reading([], [item], seconds))

    def _choose_group(self, items: WorkItems) -> WorkItems:
        """Return the work items of the group that computes now."""
        members = [item for item in items if item.group == self._group]
        self._changed = False
        self._group_steps += 1
        if len(members) == len(items):
            return members
        if not members or self.order.now >= self._group_until or self._group_steps > QUANTUM_STEPS:
            group = min(items, key=self.order.turn).group
            shortest, longest = QUANTUM_SECONDS
            self._group_until = self.order.now + min(max(self._change_seconds / CHANGES_SHARE, shortest), longest)
            self._group_steps = 1
            if group != self._group:
                self._group, self._changed, self._was_bulk = group, True, False
                members = [item for item in items if item.group == group]
        return members

    def _plan_group(self, items: WorkItems, *, lone: bool) -> StepPlan:
        """Return the step of one group. `lone`: there is only one work item in all groups."""
        streams = [item for item in items if item.decoding]
        if len(streams) == len(items):
            return [(item, 1) for item in self._oldest(streams, EXACT_ROWS_MAX)]
        prompts = self._with_bulk_batch(sorted((item for item in items if not item.decoding), key=self.order.turn))
        if not self.costs.known:
            return self._plan_small(streams, prompts, 0.0)
        return self._plan_reading(streams, prompts, ALONE_SECONDS if lone else STEP_SECONDS)

    def _plan_reading(self, streams: WorkItems, prompts: WorkItems, seconds: float) -> StepPlan:
        """Return a step with as much of the prompts, oldest first, as fits into the time."""
        if ended := self.order.ended_before_large:
            seconds = min(seconds, self.costs.small.cost(ended, 0.0))
        long = self._worth_bulk(prompts)
        if self._bulk_is_due([*streams, *prompts], long):
            plan = self._plan_bulk(streams, prompts, self._bulk_rows, seconds)
            if _rows_of(plan) < BULK_ROWS_LEAST:
                plan = self._plan_bulk(streams, prompts, BULK_ROWS_LEAST, BULK_SECONDS_MAX)
            if _rows_of(plan) >= BULK_ROWS_MIN:
                return plan
        elif long:  # they wait for a bulk step, in which they cost half
            prompts = [item for item in prompts if item not in long]
        return self._plan_small(streams, prompts, seconds)

    def _plan_small(self, streams: WorkItems, prompts: WorkItems, seconds: float) -> StepPlan:
        return self._fill(self._oldest(streams, WRITING_ROWS_MAX), prompts, self.costs.small, EXACT_ROWS_MAX, seconds)

    def _plan_bulk(self, streams: WorkItems, prompts: WorkItems, rows_max: int, seconds: float) -> StepPlan:
        riders = self._oldest(_inexact(streams), WRITING_ROWS_MAX)
        return self._fill(riders, _inexact(prompts), self.costs.bulk, rows_max, seconds)

    def _fill(
        self, streams: WorkItems, prompts: WorkItems, model: StepCostModel, rows_max: int, seconds: float
    ) -> StepPlan:
        """Return a step: one row for each stream; the prompts share the remaining rows and time, in order.

        A work item that is only partly read adds at most FILL_SHARE to the time of those before it, and ends the step
        at a multiple of ROWS_GROUP: rows beyond one are multiplied singly, and each costs half as much as a group.
        """
        plan = [(item, 1) for item in streams]
        rows_left = rows_max - len(plan)
        rows_taken, depths = len(plan) * self.costs.row_weight(logits=True), sum(item.depth for item in streams)
        plan_seconds = model.cost(rows_taken, depths)
        seconds = model.seconds_left(seconds, rows_taken, depths) if seconds else 0.0
        for item in prompts:
            weight, rows_min = self.order.weight(item), max(item.rows_min, min(item.rows, ROWS_MIN))
            rows = min(item.rows, rows_left, model.affordable(seconds, item.depth, weight))
            if len(plan) == len(streams):
                rows_first = item.rows if not streams and item.rows <= SMALL_ROWS else rows_min
                rows = max(rows, min(rows_first, rows_left))
            else:
                if rows < item.rows:
                    rows = min(rows, model.affordable(FILL_SHARE * plan_seconds, item.depth, weight))
                if rows < rows_min:
                    continue
            if rows < item.rows:
                rows = max(rows - (rows_max - rows_left + rows) % ROWS_GROUP, rows_min)
            plan.append((item, rows))
            rows_left -= rows
            spent = model.per_row * weight * rows + model.per_pair * attention_pairs(rows, item.depth)
            seconds, plan_seconds = seconds - spent, plan_seconds + spent
        return plan

    def _worth_bulk(self, prompts: WorkItems) -> WorkItems:
        """Return the prompts that are worth a bulk step: long ones, and those that make a bulk batch.

        A bulk step with rows of them must be short enough.
        """
        bulk = self.costs.bulk
        return [
            item
            for item in prompts
            if not item.exact
            and (item.bulk_safe or self._is_long(item))
            and bulk.affordable(bulk.seconds_left(BULK_SECONDS_MAX, 0, 0), item.depth) >= BULK_ROWS_MIN
        ]

    def _with_bulk_batch(self, prompts: WorkItems) -> WorkItems:
        """Return the prompts, with the bulk-safe ones marked inexact if they make a bulk batch, otherwise exact."""
        bulk = [item.rows for item in prompts if item.bulk_safe]
        if not bulk:
            return prompts
        exact = len(bulk) == 1 or min(sum(bulk), self._bulk_rows) < BULK_ROWS_LEAST
        return [item._replace(exact=exact) if item.bulk_safe else item for item in prompts]

    def _is_long(self, item: WorkItem) -> bool:
        return min(item.rows, self._bulk_rows) >= BULK_ROWS_MIN and item.rows + item.depth >= LONG_TOKENS

    def _bulk_is_due(self, items: WorkItems, long: WorkItems) -> bool:
        """Tell whether the next step may be too large for exact work items."""
        exact = [item for item in items if item.exact]
        if not long or not exact:
            return bool(long)
        if self._was_bulk and any(item.decoding for item in exact):
            return False
        return self.order.turn(long[0]) < min(map(self.order.turn, exact))

    def _oldest(self, items: WorkItems, count_max: int) -> WorkItems:
        return items if len(items) <= count_max else sorted(items, key=self.order.turn)[:count_max]


def _work_of(plan: StepPlan) -> StepWork:
    total, pairs, logits = 0, 0.0, 0
    for item, rows in plan:
        total += rows
        pairs += rows * (item.depth + rows / 2)  # attention_pairs, in each step for each stream
        logits += rows if item.logits else rows == item.rows
    return StepWork(total, pairs, logits)


def _reads(plan: StepPlan) -> bool:
    return any(not item.decoding for item, _ in plan)


def _rows_of(plan: StepPlan) -> int:
    return sum(rows for _, rows in plan)


def _inexact(items: WorkItems) -> WorkItems:
    return [item for item in items if not item.exact]


# --- which waiting job gets its slot in the cache next; the caller knows whether there is room for it -----------------
# A job is admitted when the cache can reserve all the cells that it may need, so that no job runs out of cells halfway.
# Jobs are admitted by turn time: when they came, later by the cost of their priority. A job that needs more than is
# free lets others pass, so that cells do not lie idle, but at most PASSED_MAX of them: then no job is admitted until
# there is room for it, and there will be, because admitted jobs end. So at most (k + 1) * PASSED_MAX jobs pass one that
# has k jobs before it.
PASSED_MAX = 8


class CacheAdmission:
    """Tracks the first job that waits for room, and how many jobs have passed it."""

    def __init__(self) -> None:
        """Start with no waiting job."""
        self._first = ""
        self._passed = 0

    def admit(self, keys: Iterable[str], enter: Callable[[str], bool]) -> None:
        """Admit jobs, in this order, while there is room; `enter` admits one if there is, and tells whether it did."""
        first_waits = False
        for key in keys:
            if first_waits and self._passed >= PASSED_MAX:
                return
            entered = enter(key)
            if entered and first_waits:
                self._passed += 1
            elif not entered and not first_waits:
                first_waits = True
                if key != self._first:
                    self._first, self._passed = key, 0
