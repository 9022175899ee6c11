"""Who computes how many tokens in the next step. Pure: no clock, no model; what a step took is told (`rates.py`).

A step computes lanes of one adapter group, because adapters belong to the whole batch, and

- lanes that write come first, one row each, so that streams stay smooth;
- the others share what time is left, who has waited longest first: STEP_SECONDS where several lanes want to move,
  ALONE_SECONDS for a lone prompt (decision 0023), and in any case as much as those that write take themselves;
- a step with a row of a lane that is `exact` in it has at most EXACT_ROWS_MAX rows, so that the result does not depend
  on who else is there. Without one it may have `bulk_rows`, which computes prompts twice as fast where they are long,
  or `crowding` and many, and for that it may take BULK_SECONDS_MAX. Who has waited longest decides; lanes that write
  and are exact miss no two steps in a row.

A group stays for a quantum, since every change costs milliseconds: CHANGES_SHARE of the time goes into changes.

What counts is the work, not the calls. A job of many rows, those that it has had and those that it is known to want,
stands behind smaller ones: with LARGE times the rows of the smallest it waits as if it had come LARGE_ROUNDS rounds of
all lanes later. So a text with 8 labels passes any number of jobs with 200 labels, of which each still moves within
three rounds (shorter jobs first, and a place that gets better with waiting: Kleinrock 1976, Queueing Systems II,
chapter 3). And where a job is read to its end in a step, one that is not makes that step longer by FILL_SHARE only.
Who has had an answer probably asks again at once: where a job has ended and only large ones are left, the next step
takes no longer than ANTICIPATION times what such a job takes (anticipatory scheduling: Iyer and Druschel 2001).

Nobody starves. A lane waits since its last step ended, or since it came; a step of priority counts as PRIORITY_SECONDS
less. Each quantum begins with the lane that has waited longest, whatever group it is of. Hence, whoever else comes: a
lane of priority p among at most n lanes moves within

    (p + 1) * PRIORITY_SECONDS + LARGE_ROUNDS rounds, and from then on
    (n + 1) * (QUANTUM_STEPS + 1) steps; without other groups, 2 * n steps

because from then on nobody who comes or moves stands before it any more. The extra second is what others may have
waited for a place in the cache before they came.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from edge_agent.engine.runtimes.llama.step_costs import (
    BULK_ROWS_MIN,
    EXACT_ROWS_MAX,
    StepCostModel,
    StepCosts,
    attention_pairs,
    retry_seconds,
)

STEP_SECONDS = 0.2
ALONE_SECONDS = 0.5
LONG_TOKENS = 512
"""Bulk steps are for prompts of so many tokens: what is written beside shorter ones is the same, whoever is there."""
BULK_ROWS_LEAST = 128
"""A bulk step of fewer is not shorter; so many rows of lanes that are crowding are worth one."""
BULK_SECONDS_MAX = 0.8
"""So long a bulk step may take that has no more rows than BULK_ROWS_LEAST: fewer would cost twice as much each."""
PRIORITY_SECONDS = 1.0
BULK_ROWS = 256
WRITING_ROWS_MAX = 32
"""Lanes that write, in a step that computes prompts too."""
ROWS_MIN = 16
"""A prompt that moves at all moves so far, whatever it costs."""
SMALL_ROWS = 32
"""A prompt of so many or fewer is not cut where it is first and nobody writes."""
LARGE, LARGE_ROUNDS = 2.0, 2
"""A job of LARGE times the rows of the smallest stands behind it by so many rounds; others in between by a part. All of
ROWS_MIN or fewer are the same."""
ANTICIPATION = 1.5
FILL_SHARE = 0.5
"""By so much a lane that a step only reads a part of makes it longer, where others are read to their end in it."""
QUANTUM_STEPS = 64
QUANTUM_SECONDS = (0.1, 0.5)
CHANGES_SHARE = 0.05
_TICK = 1e-6  # steps are at least so far apart, in seconds

StepPlan = list[tuple["WorkItem", int]]


class WorkItem(NamedTuple):
    """What one job wants to compute."""

    key: str
    group: str
    rows: int
    """Tokens that could be computed now; at least 1."""
    least: int = 1
    """Fewer rows than these are no use; at most EXACT_ROWS_MAX - WRITING_ROWS_MAX."""
    decoding: bool = False
    """It writes: one row now, and a reader waits for what comes of it."""
    exact: bool = True
    """Its result must not depend on its neighbours."""
    crowding: bool = False
    """Bulk steps do not move its result: beside others like it it takes them, however short they are."""
    depth: int = 0
    """Tokens that it has in the cache."""
    priority: int = 0
    """0 is first."""
    came_at: float = 0.0
    """On the clock of `plan`; 0 = since the last step."""
    deadline: float = 0.0
    """Likewise; 0 = none."""
    ahead: int = 0
    """Rows that it is known to want behind these."""


def turn_time(since: float, priority: int) -> float:
    """Return who goes first: whoever has the smallest. Both are of someone who waits."""
    return since + priority * PRIORITY_SECONDS


class StepScheduler:
    """Plans one step after the other."""

    def __init__(self, bulk_rows: int = BULK_ROWS) -> None:
        """Take the most rows of a step without exact lanes; at most EXACT_ROWS_MAX = there are no bulk steps."""
        self.costs = StepCosts()
        self._bulk_rows = max(bulk_rows, EXACT_ROWS_MAX)
        self._now = 0.0
        self._since: dict[str, float] = {}
        """Since when each lane waits, later by what its priority costs."""
        self._behind: dict[str, float] = {}
        """By what each lane that reads stands behind smaller ones, in seconds."""
        self._sizes: dict[str, int] = {}
        """Rows of each job that reads, those that it has had and those that it is known to want."""
        self._ended = 0
        """Rows of the smallest job that ended with the last step; 0 = none did."""
        self._moved: dict[str, int] = {}
        """The lanes of the last step."""
        self._served: dict[str, int] = {}
        """Rows that each lane which reads has had."""
        self._was_bulk = False
        self._group: str | None = None
        self._group_until = 0.0
        self._group_steps = 0
        self._changed = False
        self._change_seconds = 0.0

    def plan(self, lanes: Sequence[WorkItem], now: float) -> StepPlan:
        """Return lanes of one group and their rows, `least` to `rows` each; nothing only if there are no lanes."""
        if not lanes:
            return []
        self._arrive(lanes, max(now, self._now + _TICK))
        plan = self._share(self._of_one_group(lanes), lone=len(lanes) == 1)
        self._moved = {lane.key: rows for lane, rows in plan}
        for lane, rows in plan:
            if not lane.decoding:
                self._served[lane.key] += rows
        self._was_bulk = _rows_of(plan) >= BULK_ROWS_MIN
        return plan

    def measured(self, plan: StepPlan, seconds: float) -> None:
        """Learn from what the planned step took; of a step without rows there is nothing to learn."""
        if not plan:
            return
        total, pairs = _work_of(plan)
        if self._changed and self.costs.known:  # says what a change of adapters costs, and nothing of rows
            extra = max(seconds - self.costs.cost(total, pairs), 0.0)
            self._change_seconds += (extra - self._change_seconds) / 4
        else:
            self.costs.learn(total, pairs, seconds)
            if _reads(plan):
                self.costs.confirm(total, pairs, seconds, self._now + seconds)

    def cut_off(self, plan: StepPlan, seconds: float) -> None:
        """Take note that the planned step was ended after so long, before it was done."""
        if _reads(plan):
            self.costs.cut_off(*_work_of(plan), seconds, self._now + seconds)

    def cost(self, rows: int, pairs: float) -> float:
        """Return the seconds that a step of so many rows takes, which look at so many pairs of tokens."""
        return self.costs.cost(rows, pairs)

    def expected(self, plan: StepPlan) -> float:
        """Return the seconds that the planned step takes."""
        return self.costs.cost(*_work_of(plan))

    def alone(self, lane: WorkItem) -> float:
        """Return the seconds that the rows of a lane would take with nobody beside it."""
        return self.costs.alone(lane.rows, lane.depth, self._chunk(lane, ALONE_SECONDS))

    def refused(self, lanes: Sequence[WorkItem], now: float) -> list[tuple[WorkItem, float]]:
        """Return the lanes that would be read for nothing: they could not be in time with the machine for themselves.

        Each comes with the seconds after which it is worth another try.
        """
        reading = [lane for lane in lanes if not lane.decoding]
        seconds = ALONE_SECONDS if len(lanes) == 1 else STEP_SECONDS
        pauses = [self._pause(lane, seconds, now) for lane in self._with_crowd(reading)]
        return [(lane, pause) for lane, pause in zip(reading, pauses, strict=True) if pause]

    def _pause(self, lane: WorkItem, seconds: float, now: float) -> float:
        """Return after how long a lane is worth another try, whose next step may take so long; 0 = it is worth one."""
        if not lane.deadline:
            return 0.0
        left, chunk = lane.deadline - now, self._chunk(lane, ALONE_SECONDS)
        first = chunk if seconds == ALONE_SECONDS else self._chunk(lane, seconds)
        certain = self.costs.certain(lane.rows, lane.depth, chunk, first, now)
        return 0.0 if left > certain else retry_seconds(certain, left)

    def _chunk(self, lane: WorkItem, seconds: float) -> int:
        """Return the rows of the step that would be planned for a lane alone, if it may take so long."""
        return _rows_of(self._read([], [lane], seconds))

    def _arrive(self, lanes: Sequence[WorkItem], now: float) -> None:
        """Note who waits since when; those of the last step since now."""
        here = {lane.key for lane in lanes}
        ended = (size for key, size in self._sizes.items() if key in self._moved and key not in here)
        self._ended = min(ended, default=0)
        before, since = self._since, {}
        for lane in lanes:
            key = lane.key
            if key not in self._moved and key in before:
                since[key] = before[key]
                continue
            came = min(max(lane.came_at or self._now, now - PRIORITY_SECONDS), now)
            since[key] = turn_time(now if key in self._moved else came, lane.priority)
        self._since, self._now = since, now
        self._line_up([lane for lane in lanes if not lane.decoding], LARGE_ROUNDS * self.round_seconds(len(lanes)))

    def _line_up(self, reading: Sequence[WorkItem], seconds: float) -> None:
        """Let large lanes stand behind smaller ones, by so many seconds at most."""
        self._served = {lane.key: self._served.get(lane.key, 0) for lane in reading}
        sizes = self._sizes = {lane.key: self._served[lane.key] + lane.rows + lane.ahead for lane in reading}
        small = max(min(sizes.values(), default=0), ROWS_MIN)
        self._behind = {
            key: seconds * min(max(size / small - 1, 0.0) / (LARGE - 1), 1.0) for key, size in sizes.items()
        }

    def round_seconds(self, lanes: int) -> float:
        """Return the seconds in which each of so many lanes has a step of exact rows, as long as one may be."""
        small = self.costs.small
        return lanes * min(small.cost(EXACT_ROWS_MAX, 0.0), small.base + small.left(STEP_SECONDS, 0, 0.0))

    def _turn(self, lane: WorkItem) -> float:
        """Return when a lane's turn is: the smallest is first."""
        return self._since[lane.key] + self._behind.get(lane.key, 0.0)

    def _of_one_group(self, lanes: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Return the lanes whose adapter computes now."""
        here = [lane for lane in lanes if lane.group == self._group]
        self._changed = False
        self._group_steps += 1
        if len(here) == len(lanes):
            return here
        if not here or self._now >= self._group_until or self._group_steps > QUANTUM_STEPS:
            group = min(lanes, key=self._turn).group
            least, most = QUANTUM_SECONDS
            self._group_until = self._now + min(max(self._change_seconds / CHANGES_SHARE, least), most)
            self._group_steps = 1
            if group != self._group:
                self._group, self._changed, self._was_bulk = group, True, False
                here = [lane for lane in lanes if lane.group == group]
        return here

    def _share(self, lanes: Sequence[WorkItem], *, lone: bool) -> StepPlan:
        """Return the step of one group. `lone`: there is one lane in all."""
        writing = [lane for lane in lanes if lane.decoding]
        if len(writing) == len(lanes):
            return [(lane, 1) for lane in self._oldest(writing, EXACT_ROWS_MAX)]
        prompts = self._with_crowd(sorted((lane for lane in lanes if not lane.decoding), key=self._turn))
        if not self.costs.known:
            return self._small(writing, prompts, 0.0)
        return self._read(writing, prompts, ALONE_SECONDS if lone else STEP_SECONDS)

    def _read(self, writing: Sequence[WorkItem], prompts: Sequence[WorkItem], seconds: float) -> StepPlan:
        """Return a step with as much of the prompts, oldest first, as fits into the time."""
        if self._ended and min(self._sizes.values(), default=0) > LARGE * max(self._ended, ROWS_MIN):
            seconds = min(seconds, ANTICIPATION * self.costs.small.cost(self._ended, 0.0))
        long = self._worth_bulk(prompts)
        if self._bulk_is_due([*writing, *prompts], long):
            plan = self._bulk(writing, prompts, self._bulk_rows, seconds)
            if _rows_of(plan) < BULK_ROWS_LEAST:
                plan = self._bulk(writing, prompts, BULK_ROWS_LEAST, BULK_SECONDS_MAX)
            if _rows_of(plan) >= BULK_ROWS_MIN:
                return plan
        elif long:  # they wait for a step in which they cost half
            prompts = [lane for lane in prompts if lane not in long]
        return self._small(writing, prompts, seconds)

    def _small(self, writing: Sequence[WorkItem], prompts: Sequence[WorkItem], seconds: float) -> StepPlan:
        return _filled(self._oldest(writing, WRITING_ROWS_MAX), prompts, self.costs.small, EXACT_ROWS_MAX, seconds)

    def _bulk(self, writing: Sequence[WorkItem], prompts: Sequence[WorkItem], most: int, seconds: float) -> StepPlan:
        riders = self._oldest(_inexact(writing), WRITING_ROWS_MAX)
        return _filled(riders, _inexact(prompts), self.costs.bulk, most, seconds)

    def _worth_bulk(self, prompts: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Return the prompts for which a bulk step is worth while: long ones, and those that are a crowd."""
        return [
            lane
            for lane in prompts
            if not lane.exact and (lane.crowding or self._is_long(lane)) and self._affords_bulk(lane)
        ]

    def _with_crowd(self, prompts: Sequence[WorkItem]) -> Sequence[WorkItem]:
        """Return the prompts, of which those that are crowding are inexact where they are a crowd, and else exact."""
        crowd = [lane.rows for lane in prompts if lane.crowding]
        if not crowd:
            return prompts
        exact = len(crowd) == 1 or min(sum(crowd), self._bulk_rows) < BULK_ROWS_LEAST
        return [lane._replace(exact=exact) if lane.crowding else lane for lane in prompts]

    def _is_long(self, lane: WorkItem) -> bool:
        return min(lane.rows, self._bulk_rows) >= BULK_ROWS_MIN and lane.rows + lane.depth >= LONG_TOKENS

    def _affords_bulk(self, lane: WorkItem) -> bool:
        """Tell whether a bulk step of such rows is not too long."""
        bulk = self.costs.bulk
        return bulk.affordable(bulk.left(BULK_SECONDS_MAX, 0, 0), lane.depth) >= BULK_ROWS_MIN

    def _bulk_is_due(self, lanes: Sequence[WorkItem], long: Sequence[WorkItem]) -> bool:
        """Tell whether the next step may be too large for exact lanes."""
        exact = [lane for lane in lanes if lane.exact]
        if not long or not exact:
            return bool(long)
        if self._was_bulk and any(lane.decoding for lane in exact):
            return False
        return self._turn(long[0]) < min(map(self._turn, exact))

    def _oldest(self, lanes: Sequence[WorkItem], most: int) -> Sequence[WorkItem]:
        return lanes if len(lanes) <= most else sorted(lanes, key=self._turn)[:most]


def _work_of(plan: StepPlan) -> tuple[int, float]:
    """Return the rows of a step, and the pairs."""
    total, pairs = 0, 0.0
    for lane, rows in plan:
        total += rows
        pairs += rows * (lane.depth + rows / 2)  # pairs_of, in each step for each stream
    return total, pairs


def _reads(plan: StepPlan) -> bool:
    return any(not lane.decoding for lane, _ in plan)


def _rows_of(plan: StepPlan) -> int:
    return sum(rows for _, rows in plan)


def _inexact(lanes: Sequence[WorkItem]) -> Sequence[WorkItem]:
    return [lane for lane in lanes if not lane.exact]


def _filled(
    writing: Sequence[WorkItem], prompts: Iterable[WorkItem], fit: StepCostModel, most: int, seconds: float
) -> StepPlan:
    """Return a step: one row for each that writes, and for the others, in order, what rows and time are left.

    Lanes of which only a part is read add FILL_SHARE at most to what those before them take.
    """
    plan = [(lane, 1) for lane in writing]
    left = most - len(plan)
    depths = sum(lane.depth for lane in writing)
    taken = fit.cost(len(plan), depths)
    seconds = fit.left(seconds, len(plan), depths) if seconds else 0.0
    for lane in prompts:
        least = max(lane.least, min(lane.rows, ROWS_MIN))
        rows = min(lane.rows, left, fit.affordable(seconds, lane.depth))
        if len(plan) == len(writing):
            whole = lane.rows if not writing and lane.rows <= SMALL_ROWS else least
            rows = max(rows, min(whole, left))
        else:
            if rows < lane.rows:
                rows = min(rows, fit.affordable(FILL_SHARE * taken, lane.depth))
            if rows < least:
                continue
        plan.append((lane, rows))
        left -= rows
        spent = fit.per_row * rows + fit.per_pair * attention_pairs(rows, lane.depth)
        seconds, taken = seconds - spent, taken + spent
    return plan


# --- which waiting job gets its slot in the cache next; the caller knows whether there is room for it -------------------
# A job comes in when the cache can promise all the cells that it may come to need, so that no job runs out of cells
# halfway. Jobs come in by turn time: when they came, later by the cost of their priority. A job that needs more than is
# free lets others pass, so that cells do not lie idle, but at most PASSED_MAX of them: then nobody comes in until there
# is room for it, and there will be, because the jobs inside end. So at most (k + 1) * PASSED_MAX jobs pass one that has
# k jobs before it.
PASSED_MAX = 8


class CacheAdmission:
    """Remembers who waits for room, and how many have passed it."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._first = ""
        self._passed = 0

    def admit(self, keys: Iterable[str], enter: Callable[[str], bool]) -> None:
        """Let jobs in, in this order, while there is room; `enter` tells whether there was for one."""
        waits = False
        for key in keys:
            if waits and self._passed >= PASSED_MAX:
                return
            entered = enter(key)
            if entered and waits:
                self._passed += 1
            elif not entered and not waits:
                waits = True
                self._wait(key)

    def _wait(self, key: str) -> None:
        if key != self._first:
            self._first, self._passed = key, 0
