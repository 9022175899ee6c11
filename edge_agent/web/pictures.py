"""What is drawn of a task: who answered, how sure the answers were, and all that a report draws. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.report import charts, svg
from edge_agent.report.charts import QUARTERS, Chart, ChartText, compose_chart
from edge_agent.report.daemon_figures import DaemonReports, ReportRequest, collect_figures, usual_local_ms
from edge_agent.report.judgement import judge_task
from edge_agent.report.number_format import count, counted, percent
from edge_agent.report.report_page import headline, render_figure, summary_tiles
from edge_agent.report.svg import DrawingArea
from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, TaskFigures
from edge_agent.web.daemon import Field

AT_A_GLANCE = frozenset({"Who answered", "Agreement with the large model"})
"""Charts of the first page, beside the one of confidence."""
BANDS = 20
"""Of confidence, each a twentieth wide."""


@dataclass(frozen=True)
class Drawn:
    """One task's figures, drawn."""

    name: str
    mark: str
    """Unique on the page."""
    headline: str
    because: str
    then: str
    tiles: tuple[tuple[str, str, str], ...]
    figures: tuple[str, ...]
    """Each with its sentence, picture and table, as HTML."""


def drawn(field: Field, task: str = "") -> list[Drawn]:
    """Draw one task in full, or all of them at a glance. Raises ValueError: a figure is none."""
    told = DaemonReports(field.report, field.bundles, usual_local_ms(field.status))
    found = collect_figures(told, ReportRequest((task,) if task else ()))
    return [_drawn(figures, f"c{at}", whole=bool(task)) for at, figures in enumerate(found) if figures.days]


def _drawn(figures: TaskFigures, mark: str, *, whole: bool) -> Drawn:
    judged = judge_task(figures)
    every = charts.task_charts(judged, mark)
    chosen = [each for each in every if whole or each.said.title in AT_A_GLANCE]
    sure = confidences(figures, f"{mark}-sure")
    return Drawn(
        name=figures.task,
        mark=mark,
        headline=headline(judged),
        because=judged.advice.because,
        then=judged.advice.then,
        tiles=tuple(summary_tiles(judged)),
        figures=tuple(render_figure(each) for each in [*chosen, *([sure] if sure else [])]),
    )


def confidences(figures: TaskFigures, name: str) -> Chart | None:
    """Draw how many answers came with how much confidence; `name` is unique on the page."""
    bands = banded(figures.confident, figures.threshold)
    every = sum(band.answers for band in bands)
    if not every:
        return None
    sheet = DrawingArea(y_max=svg.round_up(max(4, *(band.answers for band in bands))))
    marks = svg.axis(sheet, [(part * sheet.y_max, f"{part * sheet.y_max:g}") for part in QUARTERS])
    for band in bands:
        marks += _bars(sheet, band)
    marks += svg.below(sheet, [(part, f"{part:g}") for part in QUARTERS])
    if figures.threshold is not None:
        marks.append(svg.line((sheet.x(figures.threshold),) * 2, (sheet.top, sheet.y(0)), "mark"))
    said = ChartText(
        "How sure the answers were",
        _sentence(bands, every, figures.threshold),
        (("a", "sure enough"), ("b", "below the threshold")) if figures.threshold is not None else (),
        ("confidence from", "answers", "of all", "the large model said the same"),
        tuple(_row(band, every) for band in bands if band.answers),
    )
    return compose_chart(name, said, sheet, marks)


@dataclass(frozen=True)
class Band:
    """Answers with about the same confidence."""

    low: float
    sure: int
    unsure: int
    """Below the threshold."""
    compared: ComparisonCount

    @property
    def answers(self) -> int:
        """All of them."""
        return self.sure + self.unsure


def banded(levels: Sequence[ConfidenceBand], threshold: float | None) -> list[Band]:
    """Put answers, which are counted by hundredths, into bands of five."""
    found = [Band(number / BANDS, 0, 0, ComparisonCount()) for number in range(BANDS)]
    for level in levels:
        at = min(BANDS - 1, int(level.above * BANDS + 1e-9))
        band, unsure = found[at], threshold is not None and level.above < threshold
        sure, doubted = band.sure + level.answers * (not unsure), band.unsure + level.answers * unsure
        found[at] = Band(band.low, sure, doubted, band.compared + level.compared)
    return found


def _bars(sheet: DrawingArea, band: Band) -> Iterator[str]:
    """Draw a band: what is sure enough on what is not."""
    left, wide = sheet.x(band.low) + 1, sheet.x(1 / BANDS) - sheet.x(0) - 2
    for kind, beneath, number in (("b", 0, band.unsure), ("a", band.unsure, band.sure)):
        if number:
            upper, lower = sheet.y(beneath + number), sheet.y(beneath)
            said = f"{band.low:.2f} to {band.low + 1 / BANDS:.2f}: {counted(number, 'answer')}"
            yield svg.bar((left, upper), (wide, lower - upper), kind, said)


def _sentence(bands: Sequence[Band], every: int, threshold: float | None) -> str:
    if threshold is None:
        return f"Of {counted(every, 'answer')}; the bundle is not calibrated, so none counts as sure."
    sure = sum(band.sure for band in bands)
    return f"{percent(sure / every)} of {counted(every, 'answer')} were at the threshold of {threshold:.2f} or above."


def _row(band: Band, every: int) -> tuple[str, str, str, str]:
    same = percent(band.compared.same / band.compared.rows) if band.compared.rows else "-"
    return f"{band.low:.2f}", count(band.answers), percent(band.answers / every), same
