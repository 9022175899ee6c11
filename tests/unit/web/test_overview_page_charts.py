"""The console's charts."""

import re
from dataclasses import replace

import pytest

from edge_agent.client import BundleRef, FieldReport, Status, Task
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, DayFigures, TaskFigures
from edge_agent.web.daemon_access import MonitoringSnapshot
from edge_agent.web.overview_page import band_answers, confidence_chart, draw_tasks

LEVELS = (
    ConfidenceBand(0.0, 5, ComparisonCount(4, 1)),
    ConfidenceBand(0.5, 15, ComparisonCount(0, 0)),
    ConfidenceBand(0.9, 80, ComparisonCount(10, 10)),
)
FIGURES = TaskFigures(
    "pos", "classify", "local", has_model=True, confident=LEVELS, threshold=0.9, days=(DayFigures("2026-11-25"),)
)


def test_answers_are_drawn_by_their_confidence():
    """The chart has a bar for each band, those below the threshold in another colour, and a sentence with the share
    above it."""
    chart = confidence_chart(FIGURES, "c")
    assert chart is not None
    assert "80% of 100 answers were at the threshold of 0.90 or above." == chart.text.sentence
    bars = re.findall(r'<rect [^>]*class="(\w)"><title>([^<]+)</title>', chart.picture)
    assert [
        ("b", "0.00 to 0.05: 5 answers"),
        ("b", "0.50 to 0.55: 15 answers"),
        ("a", "0.90 to 0.95: 80 answers"),
    ] == bars
    wanted = (("0.00", "5", "5%", "25%"), ("0.50", "15", "15%", "-"), ("0.90", "80", "80%", "100%"))
    assert wanted == chart.text.rows


def test_chart_without_a_threshold_marks_no_answer_as_confident():
    """Of a bundle without a threshold no answer is called sure, and no line is drawn."""
    chart = confidence_chart(replace(FIGURES, threshold=None), "c")
    assert chart is not None
    assert "has no threshold" in chart.text.sentence
    assert 'class="mark"' not in chart.picture


def test_a_band_may_be_cut_by_the_threshold():
    """A band that the threshold divides has confident and other answers; confidence 1.0 is in the last band."""
    levels = tuple(ConfidenceBand(above, 10, ComparisonCount(2, 1)) for above in (0.85, 0.86, 0.87, 0.89, 1.0))
    bands = {round(band.low, 2): band for band in band_answers(levels, 0.87)}
    assert (20, 20, ComparisonCount(8, 4)) == (bands[0.85].confident, bands[0.85].below, bands[0.85].compared)
    assert (10, 0) == (bands[0.95].confident, bands[0.95].below)
    assert 50 == sum(band.answers for band in bands.values())


@pytest.mark.parametrize("levels", [(), (ConfidenceBand(0.5, 0, ComparisonCount()),)])
def test_no_chart_without_confidences(levels):
    """Where nothing was answered with a confidence there is no chart."""
    assert confidence_chart(replace(FIGURES, confident=levels), "c") is None


def test_tasks_without_figures_are_left_out():
    """A task without counts has no charts."""
    ref = BundleRef("pos", "1", "ab" * 32)
    task = Task("pos", "CLASSIFY", ref, (), 1, 0, 1, True, True, None)
    status = Status("0.1.0", None, True, 0, (task,), (), (), 0, 0)  # type: ignore[arg-type]
    report = FieldReport((), (task,), None, {})
    assert [] == draw_tasks(MonitoringSnapshot(report, (), status))
