"""Calls with a deadline while another program uses the processor, on a simulated clock.

The scheduler plans; the simulated machine reports how long each step took.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_costs import EXACT_ROWS_MAX, StepCostModel, StepWork, attention_pairs
from edge_agent.engine.runtimes.llama.step_scheduler import StepScheduler, WorkItem

QUIET = StepCostModel(0.004, 0.0016, 9e-7)
ROWS, DEPTH = 30, 234
ALONE = QUIET.cost(ROWS, attention_pairs(ROWS, DEPTH))
LONG_ROWS = 600
AGAIN_SECONDS = 2.0
"""After the load has gone calls are answered within so long."""
TRIES = 2
"""And as many calls as come to nothing meanwhile: where a call takes seconds they count."""


@dataclass
class Machine:
    """An engine with one scheduler; `slower` is the slowdown that another program causes."""

    scheduler: StepScheduler = field(default_factory=lambda: StepScheduler(EXACT_ROWS_MAX))
    now: float = 100.0
    slower: float = 1.0
    speed: float = 1.0
    """What steps take on the machine itself is divided by it."""
    streams: int = 0
    """So many write meanwhile, without end."""
    refused: int = 0

    def _streams(self) -> list[WorkItem]:
        return [WorkItem(f"s{n}", "", 1, decoding=True, exact=False, depth=300) for n in range(self.streams)]

    def idle(self, seconds: float) -> None:
        """Advance the clock without calls, while streams write."""
        until = self.now + seconds
        while self.streams and self.now < until:
            self._step(self._streams(), until)
        self.now = max(self.now, until)

    def call(self, seconds: float, rows: int = ROWS) -> bool:
        """Call with one input and a deadline; tell whether it was answered in time."""
        deadline, left, depth = self.now + seconds, rows, DEPTH
        while left:
            items = [*self._streams(), WorkItem("call", "", left, depth=depth, arrived_at=self.now, deadline=deadline)]
            if self.scheduler.unattainable(items, self.now):
                self.refused += 1
                return False
            read = self._step(items, deadline)
            if not read:
                return False
            left, depth = left - read, depth + read
        return self.now <= deadline

    def _step(self, items: list[WorkItem], deadline: float) -> int:
        """Compute a step, which is aborted when the deadline passes; return how many tokens of the call it read."""
        plan = self.scheduler.plan(items, self.now)
        rows = sum(count for _, count in plan)
        took = (
            self.slower / self.speed * QUIET.cost(rows, sum(attention_pairs(count, item.depth) for item, count in plan))
        )
        reads = any(not item.decoding for item, _ in plan)
        if reads and self.now + took > deadline:
            self.scheduler.record_abort(plan, deadline - self.now)
            self.now = deadline
            return 0
        self.scheduler.record_step(plan, took)
        self.now += took
        return sum(count for item, count in plan if not item.decoding)

    def seconds_until_answered(self, seconds: float, pause: float) -> float:
        """Call repeatedly; return the seconds until a call was answered."""
        began = self.now
        while not self.call(seconds):
            assert self.now - began < 60, "for ever"
            self.idle(pause)
        return self.now - began


def warm(streams: int = 0, speed: float = 1.0, rows: int = ROWS) -> Machine:
    """Return a machine that has answered calls for a while."""
    machine = Machine(streams=streams, speed=speed)
    for _ in range(40):
        assert machine.call(1e6, rows)
        machine.idle(0.1)
    return machine


def loaded(machine: Machine, slower: float) -> None:
    """Start another program, next to which calls without a tight deadline are answered and others are not."""
    machine.slower = slower
    for _ in range(30):
        assert machine.call(1e6)


@settings(deadline=None)
@given(
    slower=st.floats(1.0, 100.0),
    tightness=st.floats(1.3, 20.0),
    pause=st.floats(0.001, 0.3),
    streams=st.integers(0, 8),
    stays=st.integers(0, 30),
    speed=st.sampled_from([0.05, 0.2, 1.0, 5.0]),
)
def test_calls_are_answered_soon_after_a_load_ends(
    slower: float, tightness: float, pause: float, streams: int, stays: int, speed: float
) -> None:
    """Within AGAIN_SECONDS and TRIES calls after another program's load ends, a call is answered, and all later calls
    are, too. This holds for any load, any deadline that a quiet machine keeps, with streams running, and on a machine
    so slow that a step reads only a few rows."""
    machine = warm(streams, speed)
    machine.scheduler.costs.learn(StepWork(1, 300.0), QUIET.cost(1, 300.0) / speed)
    quiet = machine.now
    assert machine.call(1e6)
    deadline = tightness * (machine.now - quiet)
    loaded(machine, slower)
    for _ in range(stays):  # a till goes on calling meanwhile
        machine.call(deadline)
        machine.idle(pause)
    machine.slower = 1.0
    assert machine.seconds_until_answered(deadline, pause) <= AGAIN_SECONDS + TRIES * deadline
    for _ in range(20):
        machine.idle(pause)
        assert machine.call(deadline)


def test_daemon_started_under_load_recovers() -> None:
    """A daemon that starts while another program loads the machine answers calls once that load has ended."""
    machine = Machine()
    loaded(machine, 30.0)
    assert not machine.call(3 * ALONE)
    machine.slower = 1.0
    assert machine.seconds_until_answered(3 * ALONE, 0.1) <= AGAIN_SECONDS


def test_repeated_load_does_not_block_calls_in_between() -> None:
    """After each of ten loads, with step times that vary, calls with a deadline are answered again."""
    machine, dice = warm(), random.Random(7)
    for _ in range(10):
        loaded(machine, dice.uniform(5, 50))
        machine.slower = dice.uniform(0.8, 1.2)
        assert machine.seconds_until_answered(3 * ALONE, 0.05) <= AGAIN_SECONDS
        assert all(machine.call(3 * ALONE) for _ in range(20))


@pytest.mark.parametrize("slower", [8.0, 20.0, 100.0])
def test_unattainable_deadlines_are_refused_under_load(slower: float) -> None:
    """While ten calls per second with an unattainable deadline arrive under load, the engine refuses at least half and
    computes for less than a quarter of the time."""
    machine = warm()
    loaded(machine, slower)
    began, idle = machine.now, 0.0
    for _ in range(300):
        assert not machine.call(1.3 * ALONE)
        machine.idle(0.1)
        idle += 0.1
    assert machine.refused >= 150
    assert (machine.now - began - idle) / (machine.now - began) < 0.25


@pytest.mark.parametrize("streams", [0, 4])
@pytest.mark.parametrize("speed", [0.01, 0.05, 0.2, 1.0, 5.0])
def test_unattainable_deadline_is_refused_on_any_machine(speed: float, streams: int) -> None:
    """A text that takes four times as long as its caller waits is refused without computing, however few rows a step
    reads on that machine."""
    machine = warm(streams, speed, LONG_ROWS)
    assert machine.call(1e6, LONG_ROWS)
    began = machine.now
    assert not machine.call(QUIET.cost(LONG_ROWS, attention_pairs(LONG_ROWS, DEPTH)) / speed / 4, LONG_ROWS)
    assert (1, began) == (machine.refused, machine.now)
