"""edge_agent/engine/runtimes/llama/step_costs.py"""

from __future__ import annotations

import random
from itertools import pairwise
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_costs import (
    BULK_ROWS_MIN,
    EXACT_ROWS_MAX,
    HALF_SECONDS,
    PADDING_ROWS_MAX,
    RETRY_SECONDS_MAX,
    ROWS_BLOCK,
    ROWS_GROUP,
    TRUSTED_STEPS,
    StepCostModel,
    StepCosts,
    StepWork,
    attention_pairs,
    padded_rows,
    retry_seconds,
)

# Seconds of a step, of a row and of a pair: a server's core, a small board, a card.
MACHINES = {"server": (0.004, 0.0016, 9e-7), "board": (0.09, 0.02, 4e-6), "card": (0.002, 2e-5, 1e-9)}


def served(machine: str, steps: int, noise: random.Random) -> StepCosts:
    """Return what is learnt from streams and prompts on a machine whose steps vary by a tenth."""
    costs, truth = StepCosts(), StepCostModel(*MACHINES[machine])
    for step in range(steps):
        rows = 1 + noise.randrange(8) if step % 3 else 16 + noise.randrange(48)
        pairs = attention_pairs(rows, noise.randrange(2000))
        costs.learn(StepWork(rows, pairs), truth.cost(rows, pairs) * noise.uniform(0.9, 1.1))
    return costs


@pytest.mark.parametrize("machine", MACHINES)
def test_the_cost_of_steps_is_learnt_on_any_machine(machine: str) -> None:
    """After 150 steps the cost of a prompt's step is known to a quarter, on machines that differ a thousandfold."""
    costs, truth = served(machine, 150, random.Random(7)), StepCostModel(*MACHINES[machine])
    for rows, depth in ((16, 100), (40, 500), (63, 1500)):
        pairs = attention_pairs(rows, depth)
        assert costs.cost(StepWork(rows, pairs)) == pytest.approx(truth.cost(rows, pairs), rel=0.25)


def test_the_first_step_tells_how_fast_the_machine_is() -> None:
    """One measured step sets the scale of all that is guessed, of bulk steps as well."""
    costs = StepCosts()
    guessed, bulk = costs.cost(StepWork(16, 128)), costs.cost(StepWork(200, 0))
    costs.learn(StepWork(16, 128), 10 * guessed)
    assert costs.cost(StepWork(16, 128)) == pytest.approx(10 * guessed)
    assert costs.cost(StepWork(200, 0)) == pytest.approx(10 * bulk)


def test_logits_cost_what_the_models_matrices_say() -> None:
    """Streams that write have logits in each row, prompts in one: what one kind of step takes tells of the other."""
    truth, costs = StepCostModel(0.002, 0.003, 5e-7), StepCosts(logits_rows=2.0)
    writing, reading = StepWork(8, 8 * 300.0, 8), StepWork(48, attention_pairs(48, 0), 1)
    for _ in range(200):
        costs.learn(writing, truth.cost(8 * 3, writing.pairs))
    assert costs.cost(reading) == pytest.approx(truth.cost(48 + 2, reading.pairs), rel=0.25)
    assert costs.cost(reading) < costs.cost(reading._replace(logits=48))


def test_a_step_during_which_the_machine_slept_changes_little() -> None:
    """An hour in one step makes the next prediction at most a quarter dearer, and ten more steps mend it."""
    costs = served("server", 100, random.Random(1))
    before = costs.cost(StepWork(60, 20_000))
    costs.learn(StepWork(60, 20_000), 3600.0)
    assert before <= costs.cost(StepWork(60, 20_000)) <= 1.26 * before
    for _ in range(10):
        costs.learn(StepWork(60, 20_000), before)
    assert costs.cost(StepWork(60, 20_000)) == pytest.approx(before, rel=0.05)


def test_a_machine_that_became_ten_times_slower_is_followed() -> None:
    """A throttled processor is known after twenty steps."""
    costs = served("server", 100, random.Random(2))
    slow = 10 * costs.cost(StepWork(60, 20_000))
    for _ in range(20):
        costs.learn(StepWork(60, 20_000), slow)
    assert costs.cost(StepWork(60, 20_000)) == pytest.approx(slow, rel=0.2)


def test_what_bulk_steps_are_held_to_cost_is_mended_by_small_ones() -> None:
    """A row of a bulk step that was measured at a bad moment costs no more than a row of a small step soon."""
    costs = served("server", 100, random.Random(3))
    for _ in range(8):
        costs.learn(StepWork(200, 20_000), 60.0)
    costs.learn(StepWork(40, 800), 0.07)
    assert costs.bulk.per_row <= costs.small.per_row


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(0, 100_000), st.floats(0, 1e6)), max_size=40))
def test_costs_are_never_negative_and_grow_with_rows(steps: list[tuple[int, int, float]]) -> None:
    """Whatever is measured, a step costs more than nothing, and more rows never cost less."""
    costs = StepCosts()
    for rows, depth, seconds in steps:
        costs.learn(StepWork(rows, attention_pairs(rows, depth)), seconds)
    for few, many in pairwise((1, 8, EXACT_ROWS_MAX)):
        assert (
            0
            < costs.cost(StepWork(few, attention_pairs(few, 100)))
            <= costs.cost(StepWork(many, attention_pairs(many, 100)))
        )
    assert 0 < costs.cost(StepWork(BULK_ROWS_MIN, 0)) <= costs.cost(StepWork(256, 0))


@given(st.sampled_from(sorted(MACHINES)), st.floats(1e-4, 2.0), st.integers(0, 100_000))
def test_affordable_rows_fit_and_one_more_does_not(machine: str, seconds: float, depth: int) -> None:
    """As many rows as these seconds allow are given, to the row."""
    fit = StepCostModel(*MACHINES[machine])

    def added(rows: int) -> float:
        return fit.cost(rows, attention_pairs(rows, depth)) - fit.base

    rows = fit.affordable(seconds, depth)
    assert added(rows) <= seconds * 1.000001
    assert seconds <= added(rows + 1) * 1.000001


def test_no_time_affords_no_rows() -> None:
    """Time that is used up buys nothing."""
    assert [0, 0] == [StepCosts().small.affordable(seconds, 10) for seconds in (0.0, -1.0)]


def test_a_job_alone_takes_longer_than_its_rows_at_the_surface() -> None:
    """What a job takes is the sum of its steps, each of which stands deeper than the one before."""
    costs, rows, depth, seconds = StepCosts(), 1000, 0, 0.0
    while rows:
        step = min(rows, EXACT_ROWS_MAX)
        seconds += costs.cost(StepWork(step, attention_pairs(step, depth)))
        rows, depth = rows - step, depth + step
    assert costs.lone_seconds(1000, 0, EXACT_ROWS_MAX) == pytest.approx(seconds)


def measured(costs: StepCosts, rows: int, seconds: float, at: float, times: int = 1) -> None:
    """Take steps that read so many tokens of a prompt, the last of them at that time."""
    for _ in range(times):
        costs.learn(StepWork(rows, attention_pairs(rows, 0)), seconds)
    costs.confirm(StepWork(rows, attention_pairs(rows, 0)), seconds, at)


def test_a_job_is_given_up_only_for_sure() -> None:
    """What takes less than half of what is predicted is tried, and nothing is predicted before much was measured."""
    costs = StepCosts()
    assert 0.0 == costs.certain_seconds(630, 0, 63, 63, 1.0), "nothing has been measured"
    measured(costs, 63, 0.1, 1.0, TRUSTED_STEPS - 1)
    assert 0.0 == costs.certain_seconds(630, 0, 63, 63, 1.0)
    measured(costs, 63, 0.1, 1.0)
    assert costs.certain_seconds(630, 0, 63, 63, 1.0) == pytest.approx(costs.lone_seconds(630, 0, 63) / 2)


def test_what_nothing_confirms_counts_less_and_less() -> None:
    """Half as much after each HALF_SECONDS without a step that reads as much; a step that was measured restores it."""
    costs = StepCosts()
    measured(costs, 63, 0.1, 10.0, 50)
    whole = costs.certain_seconds(63, 0, 63, 63, 10.0)
    aged = [costs.certain_seconds(63, 0, 63, 63, 10.0 + halves * HALF_SECONDS) for halves in range(5)]
    assert aged == pytest.approx([whole / 2**halves for halves in range(5)])
    measured(costs, 63, 0.1, 20.0)
    assert whole == pytest.approx(costs.certain_seconds(63, 0, 63, 63, 20.0))


@pytest.mark.parametrize(("rows", "confirms"), [(1, False), (8, False), (15, False), (32, True), (63, True)])
def test_small_steps_confirm_nothing_about_large_ones(rows: int, confirms: bool) -> None:
    """A step of eight rows says what a step costs, and little of what a row costs: a long text must be tried again."""
    costs = StepCosts()
    measured(costs, 60, 0.1, 10.0, 50)
    measured(costs, rows, costs.cost(StepWork(rows, attention_pairs(rows, 0))), 20.0)
    assert confirms == (costs.certain_seconds(60, 0, 63, 60, 20.0) > 0.01)


def test_a_fast_step_says_how_much_of_an_estimate_is_left() -> None:
    """Where the last step took a tenth of what was expected, a job is judged by that tenth at once."""
    costs = StepCosts()
    measured(costs, 63, 1.0, 10.0, 50)
    measured(costs, 63, 0.1, 10.0)
    assert costs.lone_seconds(63, 0, 63) > 0.5, "the estimate itself moves more slowly"
    assert costs.certain_seconds(63, 0, 63, 63, 10.0) == pytest.approx(0.05)


def test_a_step_that_was_cut_off_late_confirms_the_estimate() -> None:
    """It was tried because the estimate had lost weight; cut off sooner than that it says nothing."""
    costs, pairs = StepCosts(), attention_pairs(63, 0)
    measured(costs, 63, 1.0, 10.0, 50)
    now = 10.0 + 3 * HALF_SECONDS
    left = costs.certain_seconds(63, 0, 63, 63, now)
    costs.record_abort(StepWork(63, pairs), left * 0.9, now)
    assert left == costs.certain_seconds(63, 0, 63, 63, now)
    costs.record_abort(StepWork(63, pairs), left * 1.1, now)
    assert 8 * left == pytest.approx(costs.certain_seconds(63, 0, 63, 63, now))


@given(
    st.lists(st.tuples(st.integers(1, 512), st.integers(0, 9000), st.floats(0, 1e4)), min_size=20, max_size=60),
    st.integers(1, 5000),
    st.integers(0, 9000),
    st.sampled_from([EXACT_ROWS_MAX, 256]),
    st.floats(0.01, 100.0),
)
def test_every_deadline_is_tried_again_after_a_pause(
    steps: list[tuple[int, int, float]], rows: int, depth: int, chunk: int, seconds: float
) -> None:
    """Whatever was measured: after as long as the refusal tells to wait, or some such pauses, the job is tried."""
    costs = StepCosts()
    for step, at, took in steps:
        costs.learn(StepWork(step, attention_pairs(step, at)), took)
        costs.confirm(StepWork(step, attention_pairs(step, at)), took, 0.0)
    now, pauses = 0.0, 0
    while (certain := costs.certain_seconds(rows, depth, chunk, min(rows, chunk), now)) >= seconds:
        pause = retry_seconds(certain, seconds)
        assert HALF_SECONDS <= pause <= RETRY_SECONDS_MAX
        now, pauses = now + pause * 1.001, pauses + 1
    assert pauses <= 4
    assert now <= HALF_SECONDS * (1 + max(0.0, log2(max(costs.lone_seconds(rows, depth, chunk), 1e-9) / seconds)))


@pytest.mark.parametrize(
    ("groups", "filled"),
    [
        (0, {1: 1, 3: 3, 15: 15, 30: 30}),
        (ROWS_BLOCK, {3: 3, 12: 12, 13: 16, 15: 16, 16: 16, 30: 30, 63: 63, 127: 127}),
        (ROWS_GROUP, {1: 1, 2: 2, 3: 4, 4: 4, 11: 12, 12: 12, 13: 16, 27: 28, 29: 32, 30: 32, 32: 32, 33: 33, 35: 36}),
        (ROWS_GROUP, {61: 61, 62: 62, 63: 63, 64: 64, 99: 100, 125: 128, 254: 256}),
    ],
)
def test_steps_are_filled_up_where_more_rows_take_less_time(groups: int, filled: dict[int, int]) -> None:
    """To fours and sixteens, by three rows at most; a step that scores may be in stays one."""
    assert filled == {rows: padded_rows(rows, groups) for rows in filled}


@given(st.integers(1, 256), st.sampled_from([0, ROWS_GROUP, ROWS_BLOCK]))
def test_what_is_filled_up_stays_what_it_is(rows: int, groups: int) -> None:
    """Never fewer, never more than room is kept for, and full once it is filled."""
    more = padded_rows(rows, groups)
    assert rows <= more <= rows + PADDING_ROWS_MAX
    assert (rows <= EXACT_ROWS_MAX) == (more <= EXACT_ROWS_MAX)
    assert more == padded_rows(more, groups)
