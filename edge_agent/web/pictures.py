"""What is drawn of a task: who answered, how sure the answers were, and all that a report draws. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.report import charts, svg
from edge_agent.report.chart import QUARTERS, Chart, Said, chart
from edge_agent.report.figures import Confident, Figures
from edge_agent.report.gathered import Told, Wanted, gathered
from edge_agent.report.judgement import judge
from edge_agent.report.page import figure, headline, tiles
from edge_agent.report.svg import Sheet
from edge_agent.report.timing import local_ms
from edge_agent.report.words import count, counted, percent
from edge_agent.web.daemon import Field

AT_A_GLANCE = frozenset({"Who answered", "Agreement with the large model"})
"""Charts of the first page, beside the one of confidence."""


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
    told = Told(field.report, field.bundles, local_ms(field.status))
    found = gathered(told, Wanted((task,) if task else ()))
    return [_drawn(figures, f"c{at}", whole=bool(task)) for at, figures in enumerate(found) if figures.days]


def _drawn(figures: Figures, mark: str, *, whole: bool) -> Drawn:
    judged = judge(figures)
    every = charts.charts(judged, mark)
    chosen = [each for each in every if whole or each.said.title in AT_A_GLANCE]
    sure = confidences(figures, f"{mark}-sure")
    return Drawn(
        name=figures.task,
        mark=mark,
        headline=headline(judged),
        because=judged.advice.because,
        then=judged.advice.then,
        tiles=tuple(tiles(judged)),
        figures=tuple(figure(each) for each in [*chosen, *([sure] if sure else [])]),
    )


def confidences(figures: Figures, name: str) -> Chart | None:
    """Draw how many answers came with how much confidence; `name` is unique on the page."""
    levels = figures.confident
    every = sum(level.answers for level in levels)
    if not every:
        return None
    most = max(level.answers for level in levels)
    sheet = Sheet(y_max=svg.round_up(max(4, most)))
    marks = svg.axis(sheet, [(part * sheet.y_max, f"{part * sheet.y_max:g}") for part in QUARTERS])
    marks += _bars(sheet, levels, figures.threshold)
    marks += svg.below(sheet, [(part, f"{part:g}") for part in QUARTERS])
    if figures.threshold is not None:
        marks.append(svg.line((sheet.x(figures.threshold),) * 2, (sheet.top, sheet.y(0)), "mark"))
    said = Said(
        "How sure the answers were",
        _sentence(levels, every, figures.threshold),
        (("a", "sure enough"), ("b", "below the threshold")) if figures.threshold is not None else (),
        ("confidence from", "answers", "of all", "the large model said the same"),
        tuple(_row(level, every) for level in levels),
    )
    return chart(name, said, sheet, marks)


def _bars(sheet: Sheet, levels: Sequence[Confident], threshold: float | None) -> Iterator[str]:
    """Draw each level as wide as it is; above and below the threshold have colours of their own."""
    ends = [*(level.above for level in levels[1:]), 1.0]
    for level, end in zip(levels, ends, strict=True):
        wide = max(sheet.x(end) - sheet.x(level.above), 2.0)
        kind = "b" if threshold is not None and level.above < threshold else "a"
        top = sheet.y(level.answers)
        said = f"from {level.above:.2f} on: {counted(level.answers, 'answer')}"
        yield svg.bar((sheet.x(level.above) + 0.5, top), (wide - 1, sheet.y(0) - top), kind, said)


def _sentence(levels: Sequence[Confident], every: int, threshold: float | None) -> str:
    if threshold is None:
        return f"Of {counted(every, 'answer')}; the bundle is not calibrated, so none counts as sure."
    sure = sum(level.answers for level in levels if level.above >= threshold)
    return f"{percent(sure / every)} of {counted(every, 'answer')} were at the threshold of {threshold:.2f} or above."


def _row(level: Confident, every: int) -> tuple[str, str, str, str]:
    same = percent(level.compared.same / level.compared.rows) if level.compared.rows else "-"
    return f"{level.above:.2f}", count(level.answers), percent(level.answers / every), same
