"""The charts of a task: those of the report, and one of how confident its answers were. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.report import charts
from edge_agent.report.charts import QUARTERS, Chart, ChartText, DrawingArea, compose_chart
from edge_agent.report.daemon_figures import DaemonReports, ReportRequest, collect_figures, usual_local_ms
from edge_agent.report.judgement import headline, judge_task, summary_tiles
from edge_agent.report.number_format import count, counted, percent
from edge_agent.report.report_page import render_figure
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, TaskFigures
from edge_agent.web.daemon_access import MonitoringSnapshot

AT_A_GLANCE = frozenset({"Who answered", "Agreement with the large model"})
"""Charts of the first page, in addition to the one of confidence."""
BANDS = 20
"""Number of bands of confidence, each 0.05 wide."""


@dataclass(frozen=True)
class TaskDrawing:
    """The charts and figures of one task."""

    name: str
    """TASK, or TASK/QUESTION of a question of a decide task."""
    task: str
    question: str
    """Empty for a task that is one question."""
    html_id: str
    """Unique on the page."""
    headline: str
    because: str
    then: str
    tiles: tuple[tuple[str, str, str], ...]
    figures: tuple[str, ...]
    """HTML of each chart, with its sentence and table."""


def draw_tasks(monitoring: MonitoringSnapshot, task: str = "") -> list[TaskDrawing]:
    """Draw all charts of one task, or a few of every task. Raises ValueError: a figure is not a number."""
    reports = DaemonReports(monitoring.report, monitoring.bundles, usual_local_ms(monitoring.status))
    found = collect_figures(reports, ReportRequest((task,) if task else ()))
    return [_draw_task(figures, f"c{at}", whole=bool(task)) for at, figures in enumerate(found) if figures.days]


def _draw_task(figures: TaskFigures, html_id: str, *, whole: bool) -> TaskDrawing:
    judged = judge_task(figures)
    every = charts.task_charts(judged, html_id)
    chosen = [each for each in every if whole or each.said.title in AT_A_GLANCE]
    confidence = confidence_chart(figures, f"{html_id}-confidence")
    return TaskDrawing(
        name=figures.subject,
        task=figures.task,
        question=figures.question,
        html_id=html_id,
        headline=headline(judged),
        because=judged.advice.because,
        then=judged.advice.then,
        tiles=tuple(summary_tiles(judged)),
        figures=tuple(render_figure(each) for each in [*chosen, *([confidence] if confidence else [])]),
    )


def confidence_chart(figures: TaskFigures, name: str) -> Chart | None:
    """Draw the distribution of confidence; None without answers. `name` is unique on the page."""
    bands = band_answers(figures.confident, figures.threshold)
    every = sum(band.answers for band in bands)
    if not every:
        return None
    sheet = DrawingArea(y_max=charts.round_up(max(4, *(band.answers for band in bands))))
    marks = charts.axis(sheet, [(part * sheet.y_max, f"{part * sheet.y_max:g}") for part in QUARTERS])
    for band in bands:
        marks += _bars(sheet, band)
    marks += charts.below(sheet, [(part, f"{part:g}") for part in QUARTERS])
    if figures.threshold is not None:
        marks.append(charts.line((sheet.x(figures.threshold),) * 2, (sheet.top, sheet.y(0)), "mark"))
    text = ChartText(
        "Confidence of the answers",
        _sentence(bands, every, figures.threshold),
        (("a", "at or above the threshold"), ("b", "below the threshold")) if figures.threshold is not None else (),
        ("confidence from", "answers", "of all", "the large model agreed"),
        tuple(_row(band, every) for band in bands if band.answers),
    )
    return compose_chart(name, text, sheet, marks)


@dataclass(frozen=True)
class ChartBand:
    """Answers with about the same confidence."""

    low: float
    confident: int
    """Answers at or above the threshold."""
    below: int
    """Answers below the threshold."""
    compared: ComparisonCount

    @property
    def answers(self) -> int:
        """All answers of the band."""
        return self.confident + self.below


def band_answers(levels: Sequence[ConfidenceBand], threshold: float | None) -> list[ChartBand]:
    """Sum counts of answers by hundredths of confidence into bands of five."""
    found = [ChartBand(number / BANDS, 0, 0, ComparisonCount()) for number in range(BANDS)]
    for level in levels:
        at = min(BANDS - 1, int(level.above * BANDS + 1e-9))
        band, is_below = found[at], threshold is not None and level.above < threshold
        confident, below = band.confident + level.answers * (not is_below), band.below + level.answers * is_below
        found[at] = ChartBand(band.low, confident, below, band.compared + level.compared)
    return found


def _bars(sheet: DrawingArea, band: ChartBand) -> Iterator[str]:
    """Draw a band: confident answers on top of those below the threshold."""
    left, wide = sheet.x(band.low) + 1, sheet.x(1 / BANDS) - sheet.x(0) - 2
    for kind, beneath, number in (("b", 0, band.below), ("a", band.below, band.confident)):
        if number:
            upper, lower = sheet.y(beneath + number), sheet.y(beneath)
            label = f"{band.low:.2f} to {band.low + 1 / BANDS:.2f}: {counted(number, 'answer')}"
            yield charts.bar((left, upper), (wide, lower - upper), kind, label)


def _sentence(bands: Sequence[ChartBand], every: int, threshold: float | None) -> str:
    if threshold is None:
        return f"Of {counted(every, 'answer')}; the bundle has no threshold, so no answer counts as confident."
    confident = sum(band.confident for band in bands)
    return (
        f"{percent(confident / every)} of {counted(every, 'answer')} were at the threshold of {threshold:.2f} or above."
    )


def _row(band: ChartBand, every: int) -> tuple[str, str, str, str]:
    same = percent(band.compared.same / band.compared.rows) if band.compared.rows else "-"
    return f"{band.low:.2f}", count(band.answers), percent(band.answers / every), same
