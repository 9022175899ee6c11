"""What happened between two looks, from what was counted."""

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.status_watch import WINDOW_SECONDS, RateWindow, rates_of
from edge_agent.client import Durations, Status, TaskCounts
from edge_agent.metrics.answer_counts import SECONDS, Histogram
from edge_agent.report.daemon_figures import histogram_quantile

START = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = Durations(SECONDS, (0,) * 17, 0.0)


def durations(*values: float) -> Durations:
    """Return what a daemon says of these times."""
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    return Durations(histogram.bounds, tuple(histogram.counts), histogram.total)


def counts(task: str = "till", total: Durations = NOTHING, **more: Any) -> TaskCounts:
    fields = {"answers": {}, "errors": {}, "graded": 0, "below_threshold": 0, "output_tokens": 0, "queue": NOTHING}
    return TaskCounts(task=task, total=total, **{**fields, **more})


def status(*counted: TaskCounts, start: datetime = START) -> Status:
    return Status("0.1.0", start, True, 0, (), (), (), 0, 0, counts=counted)


def test_rates_are_differences():
    """Rates and shares are of what came since the first look, not of what was counted before it."""
    before = counts(answers={"local": 100}, errors={"QUEUE_FULL": 7}, graded=100, below_threshold=90)
    errors = {"QUEUE_FULL": 7, "INPUT_EMPTY": 1}
    after = counts(answers={"local": 112, "abstained": 4}, errors=errors, graded=116, below_threshold=94)
    rates = rates_of(before, after, 2.0)
    assert (8.0, 0.5, 0.25, 0.25) == (rates.answers, rates.errors, rates.below, rates.abstained)


def test_of_nothing_there_is_no_share():
    """Where nothing was answered, rates are zero, and shares and quantiles are not known."""
    rates = rates_of(None, counts(), 1.0)
    assert (0.0, 0.0, None, None) == (rates.answers, rates.errors, rates.below, rates.total_p95)


@pytest.mark.parametrize(
    ("share", "values", "expected"),
    [
        (0.5, [0.003] * 10, 0.0025 + 0.0025 * 0.5),
        (0.95, [0.003] * 100, 0.0025 + 0.0025 * 0.95),
        (0.5, [0.003, 0.2], 0.005),
        (1.0, [0.003, 0.2], 0.25),
        (0.5, [99.0], 60.0),
        (0.5, [0.0001], 0.00025),
    ],
)
def test_a_quantile_is_that_of_prometheus(share, values, expected):
    """Inside a bucket times are taken to be spread evenly; above the last bound, the bound is the answer."""
    assert pytest.approx(expected) == histogram_quantile(share, NOTHING, durations(*values))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=50), st.lists(st.floats(0, 50), max_size=50), st.floats(0.01, 1))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values, earlier, share):
    """The quantile of what came in between is in the bucket in which the true one is, whatever was counted before."""
    found = histogram_quantile(share, durations(*earlier), durations(*earlier, *values))
    true = sorted(values)[max(0, math.ceil(len(values) * share - 1e-9) - 1)]
    bounds = (0.0, *SECONDS)
    above = next(bound for bound in bounds[1:] if true <= bound)
    assert found is not None
    assert bounds[bounds.index(above) - 1] - 1e-12 <= found <= above + 1e-12


def test_a_window_is_the_last_seconds():
    """Rates are over the last ten seconds or so, however long one looks."""
    window = RateWindow()
    for second in range(60):
        window.add(status(counts(answers={"local": 5 * second if second < 50 else 250})), float(second))
    assert WINDOW_SECONDS == window.seconds
    assert 0.5 == window.rates()["till"].answers


def test_one_look_has_no_rates():
    """Before there is a second look nothing is said."""
    window = RateWindow()
    assert ({}, 0.0) == (window.rates(), window.seconds)
    window.add(status(counts(answers={"local": 5})), 3.0)
    assert {} == window.rates()


def test_a_restart_begins_anew():
    """A daemon that was started again counts from zero: no rate is negative."""
    window = RateWindow()
    window.add(status(counts(answers={"local": 500})), 1.0)
    window.add(status(counts(answers={"local": 2}), start=START + timedelta(hours=1)), 2.0)
    assert {} == window.rates()
    window.add(status(counts(answers={"local": 5}), start=START + timedelta(hours=1)), 3.0)
    assert 3.0 == window.rates()["till"].answers


def test_a_task_that_is_new_counts_from_zero():
    """What a task has counted that was not there at the first look, came in between."""
    window = RateWindow()
    window.add(status(), 0.0)
    window.add(status(counts("new", answers={"local": 4})), 2.0)
    assert 2.0 == window.rates()["new"].answers
