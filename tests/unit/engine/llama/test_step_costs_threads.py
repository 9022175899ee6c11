"""The number of threads that step_costs.py chooses, on a simulated machine."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_costs import (
    AGAIN_SECONDS,
    GAIN,
    SECONDS_MAX,
    ThreadTuner,
    thread_counts,
)

WORK = 0.02
"""Seconds of a step on one thread."""
WASTE_MAX = 0.1
"""Of the time, beside the better count: what trying costs."""


def quiet(threads: int) -> float:
    """Return the seconds of a step on two cores that no other program uses."""
    return WORK / (1, 1.8, 1.8, 1.8)[threads - 1]


def busy(threads: int) -> float:
    """Return the seconds of a step if another program uses one of the two cores, as measured on such a machine."""
    return WORK * (1.0, 2.9, 2.9, 2.9)[threads - 1]


def one_of_four(threads: int) -> float:
    """Return the seconds of a step on four cores of which another program uses one."""
    return WORK * (1.0, 0.55, 0.4, 1.2)[threads - 1]


@dataclass
class Engine:
    """Steps on a simulated clock; the expected time of a step follows the measured ones, as in `StepCosts`."""

    tuner: ThreadTuner
    machine: Callable[[int], float]
    now: float = 50.0
    expected: float = WORK
    pause: float = 0.0
    sizes: tuple[float, ...] = (1.0,)
    """Of the steps of a job, by turns."""
    noise: Callable[[], float] = lambda: 1.0
    counts: list[int] = field(default_factory=list)

    def step(self) -> None:
        """Compute one step."""
        size, threads, trying = self.sizes[len(self.counts) % len(self.sizes)], self.tuner.threads, self.tuner.trying
        seconds = size * self.machine(threads) * self.noise()
        expected = size * self.expected
        if not trying:
            error = min(seconds, 2 * expected) / size - self.expected
            self.expected += error * (0.25 if error > 0 else 0.5)
        self.now += seconds + self.pause
        self.expected *= self.tuner.record_step(expected, seconds, self.now)
        self.counts.append(threads)

    def steps(self, seconds: float) -> list[int]:
        """Compute for this many seconds; return the thread counts."""
        until, first = self.now + seconds, len(self.counts)
        while self.now < until:
            self.step()
        return self.counts[first:]


def engine(machine: Callable[[int], float], given: int = 2, **more: object) -> Engine:
    """Return an engine that starts with all threads."""
    return Engine(ThreadTuner(thread_counts(given), given, 50.0), machine, expected=machine(given), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "counts"),
    [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 3, 4]), (6, [1, 3, 5, 6]), (8, [1, 2, 4, 7, 8])],
)
def test_candidate_counts_are_all_one_less_and_halves(given: int, counts: list[int]) -> None:
    """The tuner tries all threads, one less and successive halves, never more than the given number; one less leaves a
    core to another program."""
    assert counts == thread_counts(given)


def test_core_used_by_another_program_is_left_to_it() -> None:
    """When another program takes one of two cores, the engine computes with one thread after about a dozen steps, and
    tries two in less than 1% of the steps."""
    runs = engine(quiet)
    assert {2} == set(runs.steps(0.9))
    runs.machine = busy
    runs.steps(AGAIN_SECONDS + 12 * busy(2))
    assert 1 == runs.tuner.threads
    counts = runs.steps(60)
    assert counts.count(2) < 0.01 * len(counts)


def test_core_that_becomes_free_is_used_again() -> None:
    """When the other program ends, the next round of trials finds that two threads are faster again; steps with one
    thread cannot show it."""
    runs = engine(busy)
    runs.steps(30)
    assert 1 == runs.tuner.threads
    runs.machine = quiet
    runs.steps(SECONDS_MAX + 12 * quiet(1))
    assert 2 == runs.tuner.threads


@pytest.mark.parametrize("machine", [quiet, busy])
@pytest.mark.parametrize("sizes", [(1.0,), (1.0, 0.1), (1.0, 0.1, 0.1)])
@pytest.mark.parametrize("pause", [0.0, 0.5])
def test_trials_waste_little_time(machine: Callable[[int], float], sizes: tuple[float, ...], pause: float) -> None:
    """Trials of other thread counts waste at most WASTE_MAX of the time, whatever the sizes of steps and the pauses
    between jobs."""
    runs = engine(machine, sizes=sizes, pause=pause)
    runs.steps(20)
    counts = runs.steps(300)
    done = [sizes[at % len(sizes)] for at in range(len(runs.counts) - len(counts), len(runs.counts))]
    taken = sum(size * machine(count) for size, count in zip(done, counts, strict=True))
    assert taken <= (1 + WASTE_MAX) * sum(done) * min(machine(1), machine(2))


def test_three_threads_compute_if_one_of_four_cores_is_busy() -> None:
    """If another program uses one of four cores, the engine computes with three threads rather than two."""
    runs = engine(one_of_four, given=4)
    runs.steps(20)
    counts = runs.steps(100)
    assert counts.count(3) > 0.95 * len(counts)


def test_noisy_steps_do_not_change_the_thread_count() -> None:
    """With steps that vary by a third, and some that take fifty times as long, all threads stay in use."""
    dice = random.Random(3)
    runs = engine(quiet, noise=lambda: 50.0 if dice.random() < 0.003 else dice.uniform(0.75, 1.35))
    counts = runs.steps(300)
    assert counts.count(2) > 0.97 * len(counts)


def test_single_slow_step_starts_no_trial() -> None:
    """A single step that takes fifty times as long starts no trial; two more slow steps do."""
    runs = engine(quiet)
    runs.steps(0.2)
    runs.noise = lambda: 50.0
    runs.step()
    runs.noise = lambda: 1.0
    assert {2} == set(runs.steps(0.1))
    runs.noise = lambda: 4.0
    assert [2, 2, 1] == [(runs.step(), runs.counts[-1])[1] for _ in range(3)]


def test_single_candidate_count_is_never_changed() -> None:
    """Without other candidate counts, because one thread is given or results would depend on the count, the count
    stays."""
    runs = Engine(ThreadTuner((), 2, 50.0), busy)
    assert {2} == set(runs.steps(100))


@settings(deadline=None, max_examples=30)
@given(
    st.integers(1, 6).flatmap(
        lambda given: st.tuples(
            st.just(given), st.lists(st.floats(0.2, 5.0), min_size=given, max_size=given), st.integers(0, 2**32)
        )
    )
)
def test_final_count_is_nearly_as_fast_as_its_neighbours(case: tuple[int, list[float], int]) -> None:
    """For any step times, no neighbour of the final thread count would save more than GAIN allows, apart from noise."""
    given_threads, costs, seed = case
    dice = random.Random(seed)
    runs = engine(
        lambda threads: WORK * costs[threads - 1], given=given_threads, noise=lambda: dice.uniform(0.97, 1.03)
    )
    runs.steps(150)
    counts = thread_counts(given_threads)
    stays = max(counts, key=runs.steps(40).count)
    at = counts.index(stays)
    beside = [counts[place] for place in (at - 1, at + 1) if 0 <= place < len(counts)]
    assert all(costs[other - 1] > (GAIN - 0.05) * costs[stays - 1] for other in beside)
