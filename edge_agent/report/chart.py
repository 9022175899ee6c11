"""A chart: a picture, a sentence that says what it shows, and the table behind it. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge_agent.report import svg
from edge_agent.report.svg import Sheet
from edge_agent.report.words import percent

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
Legend = tuple[tuple[str, str], ...]
"""Classes of marks, and what they are."""
Rows = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Said:
    """What a chart says in words."""

    title: str
    sentence: str
    legend: Legend
    columns: tuple[str, ...]
    rows: Rows
    words: frozenset[int] = frozenset()
    """Columns that hold words; the others hold numbers, but for the first."""
    at_once: bool = False
    """The table is short, and worth a look beside the picture."""


@dataclass(frozen=True)
class Chart:
    """One chart."""

    said: Said
    picture: str


def chart(name: str, said: Said, sheet: Sheet, marks: Iterable[str]) -> Chart:
    """Put picture and words together; `name` is unique on the page."""
    return Chart(said, svg.picture(name, said.title, said.sentence, sheet, marks))


def upright(sheet: Sheet) -> list[str]:
    """Draw lines from top to bottom at the quarters, which are shares."""
    foot = sheet.height - sheet.bottom
    lines = [svg.line((sheet.x(part),) * 2, (sheet.top, foot), "grid") for part in QUARTERS]
    return [*lines, *(svg.text(sheet.x(part), foot + 18, percent(part), "tick", "middle") for part in QUARTERS)]


def month_and_day(date: str) -> str:
    """Return what a date is called below a chart."""
    return date[5:]
