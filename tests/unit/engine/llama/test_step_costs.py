"""The learned cost of steps: predictions, refused deadlines and padding."""

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
    """Return the costs learned from streams and prompts on a machine whose step times vary by a tenth."""
    costs, truth = StepCosts(), StepCostModel(*MACHINES[machine])
    for step in range(steps):
        rows = 1 + noise.randrange(8) if step % 3 else 16 + noise.randrange(48)
        pairs = attention_pairs(rows, noise.randrange(2000))
        costs.learn(StepWork(rows, pairs), truth.cost(rows, pairs) * noise.uniform(0.9, 1.1))
    return costs


@pytest.mark.parametrize("machine", MACHINES)
def test_step_cost_is_learned_on_any_machine(machine: str) -> None:
    """After 150 steps the predicted cost of a prompt's step is within a quarter, on machines that differ a
    thousandfold."""
    costs, truth = served(machine, 150, random.Random(7)), StepCostModel(*MACHINES[machine])
    for rows, depth in ((16, 100), (40, 500), (63, 1500)):
        pairs = attention_pairs(rows, depth)
        assert costs.cost(StepWork(rows, pairs)) == pytest.approx(truth.cost(rows, pairs), rel=0.25)


def test_first_step_sets_the_scale_of_predictions() -> None:
    """One measured step scales all predictions, including those of bulk steps."""
    costs = StepCosts()
    guessed, bulk = costs.cost(StepWork(16, 128)), costs.cost(StepWork(200, 0))
    costs.learn(StepWork(16, 128), 10 * guessed)
    assert costs.cost(StepWork(16, 128)) == pytest.approx(10 * guessed)
    assert costs.cost(StepWork(200, 0)) == pytest.approx(10 * bulk)


def test_logits_cost_follows_from_the_model() -> None:
    """Streams compute logits in each row and prompts in one; the times of steps that write predict those of steps that
    read."""
    truth, costs = StepCostModel(0.002, 0.003, 5e-7), StepCosts(logits_rows=2.0)
    writing, reading = StepWork(8, 8 * 300.0, 8), StepWork(48, attention_pairs(48, 0), 1)
    for _ in range(200):
        costs.learn(writing, truth.cost(8 * 3, writing.pairs))
    assert costs.cost(reading) == pytest.approx(truth.cost(48 + 2, reading.pairs), rel=0.25)
    assert costs.cost(reading) < costs.cost(reading._replace(logits=48))


def test_step_with_a_suspended_machine_changes_little() -> None:
    """A step of an hour raises the next prediction by at most a quarter (26%), and ten further steps restore it."""
    costs = served("server", 100, random.Random(1))
    before = costs.cost(StepWork(60, 20_000))
    costs.learn(StepWork(60, 20_000), 3600.0)
    assert before <= costs.cost(StepWork(60, 20_000)) <= 1.26 * before
    for _ in range(10):
        costs.learn(StepWork(60, 20_000), before)
    assert costs.cost(StepWork(60, 20_000)) == pytest.approx(before, rel=0.05)


def test_tenfold_slowdown_is_learned() -> None:
    """After the processor became ten times slower, twenty steps bring the prediction within a fifth."""
    costs = served("server", 100, random.Random(2))
    slow = 10 * costs.cost(StepWork(60, 20_000))
    for _ in range(20):
        costs.learn(StepWork(60, 20_000), slow)
    assert costs.cost(StepWork(60, 20_000)) == pytest.approx(slow, rel=0.2)


def test_small_steps_correct_the_cost_of_bulk_steps() -> None:
    """After bulk steps were measured at a bad moment, one small step limits the cost of a bulk row to that of a small
    step's row."""
    costs = served("server", 100, random.Random(3))
    for _ in range(8):
        costs.learn(StepWork(200, 20_000), 60.0)
    costs.learn(StepWork(40, 800), 0.07)
    assert costs.bulk.per_row <= costs.small.per_row


@given(st.lists(st.tuples(st.integers(1, 512), st.integers(0, 100_000), st.floats(0, 1e6)), max_size=40))
def test_costs_are_never_negative_and_grow_with_rows(steps: list[tuple[int, int, float]]) -> None:
    """After any measurements a step costs more than zero, and more rows never cost less."""
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
    """The affordable rows are the largest number that fits into the given seconds."""
    fit = StepCostModel(*MACHINES[machine])

    def added(rows: int) -> float:
        return fit.cost(rows, attention_pairs(rows, depth)) - fit.base

    rows = fit.affordable(seconds, depth)
    assert added(rows) <= seconds * 1.000001
    assert seconds <= added(rows + 1) * 1.000001


def test_no_rows_are_affordable_without_time() -> None:
    """Zero or negative seconds afford no rows."""
    assert [0, 0] == [StepCosts().small.affordable(seconds, 10) for seconds in (0.0, -1.0)]


def test_lone_job_takes_the_sum_of_its_steps() -> None:
    """The time of a job alone is the sum of its steps, each of which starts at a greater depth than the one before."""
    costs, rows, depth, seconds = StepCosts(), 1000, 0, 0.0
    while rows:
        step = min(rows, EXACT_ROWS_MAX)
        seconds += costs.cost(StepWork(step, attention_pairs(step, depth)))
        rows, depth = rows - step, depth + step
    assert costs.lone_seconds(1000, 0, EXACT_ROWS_MAX) == pytest.approx(seconds)


def measured(costs: StepCosts, rows: int, seconds: float, at: float, times: int = 1) -> None:
    """Record a number of steps that each read this many prompt tokens, the last of them at the given time."""
    for _ in range(times):
        costs.learn(StepWork(rows, attention_pairs(rows, 0)), seconds)
    costs.confirm(StepWork(rows, attention_pairs(rows, 0)), seconds, at)


def test_job_is_refused_only_after_enough_measurements() -> None:
    """The certain duration of a job is half of the predicted one, and zero until TRUSTED_STEPS steps were measured."""
    costs = StepCosts()
    assert 0.0 == costs.certain_seconds(630, 0, 63, 63, 1.0), "nothing has been measured"
    measured(costs, 63, 0.1, 1.0, TRUSTED_STEPS - 1)
    assert 0.0 == costs.certain_seconds(630, 0, 63, 63, 1.0)
    measured(costs, 63, 0.1, 1.0)
    assert costs.certain_seconds(630, 0, 63, 63, 1.0) == pytest.approx(costs.lone_seconds(630, 0, 63) / 2)


def test_unconfirmed_prediction_halves_over_time() -> None:
    """The certain duration halves after each HALF_SECONDS without a step that reads as much; a measured step restores
    it."""
    costs = StepCosts()
    measured(costs, 63, 0.1, 10.0, 50)
    whole = costs.certain_seconds(63, 0, 63, 63, 10.0)
    aged = [costs.certain_seconds(63, 0, 63, 63, 10.0 + halves * HALF_SECONDS) for halves in range(5)]
    assert aged == pytest.approx([whole / 2**halves for halves in range(5)])
    measured(costs, 63, 0.1, 20.0)
    assert whole == pytest.approx(costs.certain_seconds(63, 0, 63, 63, 20.0))


@pytest.mark.parametrize(("rows", "confirms"), [(1, False), (8, False), (15, False), (32, True), (63, True)])
def test_small_steps_do_not_confirm_large_ones(rows: int, confirms: bool) -> None:
    """A step of eight rows does not confirm the prediction for 60 rows, so a long text is tried again."""
    costs = StepCosts()
    measured(costs, 60, 0.1, 10.0, 50)
    measured(costs, rows, costs.cost(StepWork(rows, attention_pairs(rows, 0))), 20.0)
    assert confirms == (costs.certain_seconds(60, 0, 63, 60, 20.0) > 0.01)


def test_fast_step_lowers_the_certain_duration_at_once() -> None:
    """If the last step took a tenth of the prediction, the certain duration falls to that tenth at once, although the
    prediction itself changes more slowly."""
    costs = StepCosts()
    measured(costs, 63, 1.0, 10.0, 50)
    measured(costs, 63, 0.1, 10.0)
    assert costs.lone_seconds(63, 0, 63) > 0.5, "the estimate itself moves more slowly"
    assert costs.certain_seconds(63, 0, 63, 63, 10.0) == pytest.approx(0.05)


def test_late_abort_confirms_the_prediction() -> None:
    """An aborted step that ran longer than the reduced prediction restores it; one that was aborted earlier changes
    nothing."""
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
def test_refused_deadline_is_attainable_after_a_few_retries(
    steps: list[tuple[int, int, float]], rows: int, depth: int, chunk: int, seconds: float
) -> None:
    """After any measurements, a job that was refused for its deadline is tried after the announced pause or at most
    four such pauses."""
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
def test_steps_are_padded_to_groups(groups: int, filled: dict[int, int]) -> None:
    """Steps are padded to multiples of four or sixteen rows, by at most three rows; a step that an exact work item can
    be in stays one."""
    assert filled == {rows: padded_rows(rows, groups) for rows in filled}


@given(st.integers(1, 256), st.sampled_from([0, ROWS_GROUP, ROWS_BLOCK]))
def test_padding_is_bounded_and_idempotent(rows: int, groups: int) -> None:
    """Padding never removes rows, adds at most PADDING_ROWS_MAX, keeps small steps small, and changes nothing when
    applied again."""
    more = padded_rows(rows, groups)
    assert rows <= more <= rows + PADDING_ROWS_MAX
    assert (rows <= EXACT_ROWS_MAX) == (more <= EXACT_ROWS_MAX)
    assert more == padded_rows(more, groups)
