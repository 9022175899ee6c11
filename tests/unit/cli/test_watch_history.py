"""The rates and events between two polls of the daemon, computed from its counters."""

import dataclasses
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.cli.watch_history import (
    CURVE_CELLS,
    CURVE_SECONDS,
    TOTAL,
    WINDOW_SECONDS,
    AnswerCurve,
    RefusalCount,
    TaskRates,
    TransferRates,
    WatchHistory,
    rates_of,
)
from edge_agent.client import (
    BundleRef,
    Durations,
    Status,
    Task,
    TaskCounts,
    UpdatesStatus,
    UplinkDownloads,
    UplinkStatus,
)
from edge_agent.metrics.metric_catalogue import SECONDS, Histogram
from edge_agent.report.task_figures import histogram_quantile

START = datetime(2026, 1, 1, tzinfo=UTC)
NOTHING = Durations(SECONDS, (0,) * 17, 0.0)


def durations(*values: float) -> Durations:
    """Return the histogram that a daemon reports for these times."""
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    return Durations(histogram.bounds, tuple(histogram.counts), histogram.total)


def counts(task: str = "till", total: Durations = NOTHING, **more: Any) -> TaskCounts:
    fields = {"answers": {}, "errors": {}, "graded": 0, "below_threshold": 0, "output_tokens": 0, "queue": NOTHING}
    return TaskCounts(task=task, total=total, **{**fields, **more})


def status(*counted: TaskCounts, start: datetime = START, **more: Any) -> Status:
    return Status("0.1.0", start, True, 0, (), (), (), 0, 0, counts=counted, **more)


def test_rates_cover_the_time_between_two_polls():
    """Rates and shares cover only what was counted after the first poll."""
    before = counts(answers={"local": 100}, errors={"QUEUE_FULL": 7}, graded=100, below_threshold=90)
    errors = {"QUEUE_FULL": 7, "INPUT_EMPTY": 1}
    after = counts(answers={"local": 112, "abstained": 4}, errors=errors, graded=116, below_threshold=94)
    rates = rates_of(before, after, 2.0)
    assert (8.0, 0.5, 0.75, 0.25) == (rates.answers, rates.errors, rates.confident, rates.abstained)


def test_shares_and_quantiles_are_unknown_without_answers():
    """Without answers, rates are zero, and shares and quantiles are None."""
    rates = rates_of(None, counts(), 1.0)
    assert (0.0, 0.0, None, None) == (rates.answers, rates.errors, rates.confident, rates.total_p95)


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
def test_quantile_is_interpolated_as_in_prometheus(share, values, expected):
    """A quantile is interpolated linearly inside its bucket, as in Prometheus; above the last bound, the result is that
    bound."""
    assert pytest.approx(expected) == histogram_quantile(share, NOTHING, durations(*values))


@given(st.lists(st.floats(0, 50), min_size=1, max_size=50), st.lists(st.floats(0, 50), max_size=50), st.floats(0.01, 1))
def test_quantile_is_in_the_bucket_of_the_exact_one(values, earlier, share):
    """The quantile of the values between two polls is in the bucket of the exact one, whatever was counted before."""
    found = histogram_quantile(share, durations(*earlier), durations(*earlier, *values))
    true = sorted(values)[max(0, math.ceil(len(values) * share - 1e-9) - 1)]
    bounds = (0.0, *SECONDS)
    above = next(bound for bound in bounds[1:] if true <= bound)
    assert found is not None
    assert bounds[bounds.index(above) - 1] - 1e-12 <= found <= above + 1e-12


def test_rates_cover_only_the_last_seconds():
    """Rates cover the last `WINDOW_SECONDS`, however long the watch has lasted."""
    history = WatchHistory()
    for second in range(60):
        history.add(status(counts(answers={"local": 5 * second if second < 50 else 250})), float(second))
    assert WINDOW_SECONDS == history.seconds
    assert 0.5 == history.rates()["till"].answers


def test_one_poll_has_no_rates():
    """Before the second poll there are no rates."""
    history = WatchHistory()
    assert ({}, 0.0) == (history.rates(), history.seconds)
    history.add(status(counts(answers={"local": 5})), 3.0)
    assert {} == history.rates()


def test_daemon_restart_resets_the_rates():
    """A restarted daemon counts from zero: rates start again with its second poll, and none is negative."""
    history = WatchHistory()
    history.add(status(counts(answers={"local": 500})), 1.0)
    history.add(status(counts(answers={"local": 2}), start=START + timedelta(hours=1)), 2.0)
    assert {} == history.rates()
    history.add(status(counts(answers={"local": 5}), start=START + timedelta(hours=1)), 3.0)
    assert 3.0 == history.rates()["till"].answers


def test_new_task_counts_from_zero():
    """All answers of a task that did not exist at the first poll count as given since then."""
    history = WatchHistory()
    history.add(status(), 0.0)
    history.add(status(counts("new", answers={"local": 4})), 2.0)
    assert 2.0 == history.rates()["new"].answers


def test_total_rates_cover_all_tasks():
    """The total has the rates of all tasks and quantiles over all answers; a task without calls has a rate of zero."""
    history = WatchHistory()
    idle = Task("idle", "CLASSIFY", BundleRef("idle", "1", "a"), (), 1, 0, 1, True, True, None)
    history.add(dataclasses.replace(status(), tasks=(idle,)), 0.0)
    answers = {"local": 6, "upstream": 2}
    one = counts("a", durations(*[0.003] * 8), answers=answers, graded=8, below_threshold=2)
    other = counts("b", durations(*[0.2] * 2), answers={"local": 2}, graded=2)
    history.add(dataclasses.replace(status(one, other), tasks=(idle,)), 2.0)
    total = history.rates()[TOTAL]
    assert (5.0, 0.8, 0.2) == (total.answers, total.confident, total.escalated)
    assert pytest.approx(histogram_quantile(0.95, NOTHING, durations(*[0.003] * 8, 0.2, 0.2))) == total.total_p95
    assert TaskRates() == history.rates()["idle"]


def test_curve_has_the_rate_of_each_part_of_the_last_minute():
    """Each cell of the curve has the rate of its part of the last minute; the time before the first poll is empty, and
    older polls are dropped."""
    curve = AnswerCurve()
    for second in range(31):
        curve.add(10 * second, float(second))
    assert [None, None, None, None, 10.0, 10.0, 10.0, 10.0] == [
        cell if cell is None else round(cell, 6) for cell in curve.cells(30.0)
    ]
    for second in range(31, 200):
        curve.add(300, float(second))
    assert [0.0] * CURVE_CELLS == [cell if cell is None else round(cell, 6) for cell in curve.cells(199.0)]


@given(st.lists(st.tuples(st.floats(0.01, 20), st.integers(0, 100)), min_size=2, max_size=60))
def test_curve_counts_each_answer_once(looks: list[tuple[float, int]]) -> None:
    """However irregular the polls, the cells of a curve add up to the answers of the last minute."""
    curve, now, count = AnswerCurve(), 0.0, 0
    curve.add(0, 0.0)
    for pause, more in looks:
        now, count = now + pause, count + more
        curve.add(count, now)
    span = CURVE_SECONDS / CURVE_CELLS
    ends = [now - CURVE_SECONDS + span * (number + 1) for number in range(CURVE_CELLS)]
    cells = curve.cells(now)
    seen = sum(cell * min(span, end) for cell, end in zip(cells, ends, strict=True) if cell is not None)
    assert all(cell is None or cell >= 0 for cell in cells)
    assert seen <= count + 1e-6
    assert now > CURVE_SECONDS or pytest.approx(count, abs=1e-6) == seen


def test_refusal_has_reason_count_and_time():
    """A refusal from before the watch has no time; a new one is listed first with its recent count and its age."""
    history = WatchHistory()
    history.add(status(counts(errors={"QUEUE_FULL": 7}), denied={"ROLE_MISSING": 2}), 0.0)
    assert {("till", "QUEUE_FULL", 7, 0, None), ("", "ROLE_MISSING", 2, 0, None)} == {
        (one.task, one.reason, one.count, one.recent, one.seconds_ago) for one in history.snapshot(0.0).refusals
    }
    history.add(status(counts(errors={"QUEUE_FULL": 7}), denied={"ROLE_MISSING": 3}), 1.0)
    assert RefusalCount("", "ROLE_MISSING", 3, 1, 4.0) == history.snapshot(5.0).refusals[0]


def test_restart_clears_refusals():
    """After a restart the refusals start again from zero, the restart is counted, and a refusal of the new daemon has
    its time."""
    history = WatchHistory()
    history.add(status(counts(errors={"QUEUE_FULL": 7})), 0.0)
    later = START + timedelta(hours=1)
    history.add(status(start=later), 1.0)
    assert (1, ()) == (history.snapshot(1.0).restarts, history.snapshot(1.0).refusals)
    history.add(status(counts(errors={"QUEUE_FULL": 1}), start=later), 2.0)
    assert (RefusalCount("till", "QUEUE_FULL", 1, 1, 0.0),) == history.snapshot(2.0).refusals


def test_unreachable_daemon_is_silent_since_the_first_failed_poll():
    """While polls fail, the last status stays and the time of silence grows from the first failure; the next answer
    ends it."""
    history = WatchHistory()
    history.add(status(), 0.0)
    history.fail("no daemon", 3.0)
    history.fail("no daemon", 4.0, "Start it.")
    away = history.snapshot(9.0)
    assert ("no daemon", 6.0, START) == (away.problem, away.silent_seconds, away.status.start_time)
    assert "Start it." == away.remedy
    history.add(status(), 10.0)
    assert ("", 0.0) == (history.snapshot(10.0).problem, history.snapshot(10.0).silent_seconds)


def uplink(sent: int, fetched: int) -> UplinkStatus:
    downloads = UplinkDownloads("ONLINE", "s3://x", None, None, None, 1, 100, 0, fetched)
    return UplinkStatus("ONLINE", "s3://x", None, None, None, 0, 1, 9, 0, sent, 1.0, (), downloads)


def test_transfers_have_bytes_per_second():
    """Uploads, downloads and copies from a drive have a rate; after a restart of the uplink, the rate of its upload
    counter is unknown."""
    history = WatchHistory()
    history.add(status(uplink=uplink(0, 0), updates=UpdatesStatus("stable", 1, "", ())), 0.0)
    assert TransferRates() == history.snapshot(0.0).transfers
    copying = UpdatesStatus("stable", 1, "", (), "till 2.0.0", 500, 1000)
    history.add(status(uplink=uplink(100, 4000), updates=copying), 2.0)
    assert TransferRates(50.0, 2000.0, 250.0) == history.snapshot(2.0).transfers
    started_again = WatchHistory()
    started_again.add(status(uplink=uplink(100, 4000)), 0.0)
    started_again.add(status(uplink=uplink(7, 9000)), 2.0)
    assert TransferRates(None, 2500.0, None) == started_again.snapshot(2.0).transfers
