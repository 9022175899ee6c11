"""The console's charts."""

import re
from dataclasses import replace

import pytest

from edge_agent.client import BundleRef, FieldReport, Status, Task
from edge_agent.report.figures import Compared, Confident, Day, Figures
from edge_agent.web.daemon import Field
from edge_agent.web.pictures import confidences, drawn

LEVELS = (
    Confident(0.0, 5, Compared(4, 1)),
    Confident(0.5, 15, Compared(0, 0)),
    Confident(0.9, 80, Compared(10, 10)),
)
FIGURES = Figures(
    "pos", "classify", "local", has_model=True, confident=LEVELS, threshold=0.9, days=(Day("2026-11-25"),)
)


def test_answers_are_drawn_by_their_confidence():
    """A bar for each level, those below the threshold in another colour, and the share above it in words."""
    chart = confidences(FIGURES, "c")
    assert chart is not None
    assert "80 % of 100 answers were at the threshold of 0.90 or above." == chart.said.sentence
    bars = re.findall(r'<rect [^>]*class="(\w)"><title>([^<]+)</title>', chart.picture)
    assert [
        ("b", "from 0.00 on: 5 answers"),
        ("b", "from 0.50 on: 15 answers"),
        ("a", "from 0.90 on: 80 answers"),
    ] == bars
    wanted = (("0.00", "5", "5 %", "25 %"), ("0.50", "15", "15 %", "-"), ("0.90", "80", "80 %", "100 %"))
    assert wanted == chart.said.rows


def test_a_bundle_without_a_threshold_has_no_sure_answers():
    """Of a bundle that is not calibrated no answer is called sure, and no line is drawn."""
    chart = confidences(replace(FIGURES, threshold=None), "c")
    assert chart is not None
    assert "not calibrated" in chart.said.sentence
    assert 'class="mark"' not in chart.picture


@pytest.mark.parametrize("levels", [(), (Confident(0.5, 0, Compared()),)])
def test_without_answers_nothing_is_drawn(levels):
    """Where nothing was answered with a confidence there is no chart."""
    assert confidences(replace(FIGURES, confident=levels), "c") is None


def test_tasks_without_figures_are_left_out():
    """A task of which nothing was counted has no charts; names are escaped where they are drawn."""
    ref = BundleRef("pos", "1", "ab" * 32)
    task = Task("pos", "CLASSIFY", ref, (), 1, 0, 1, True, True, None)
    status = Status("0.1.0", None, True, 0, (task,), (), (), 0, 0)  # type: ignore[arg-type]
    report = FieldReport((), (task,), None, {})
    assert [] == drawn(Field(report, (), status))
