"""Tables in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; all columns but the first hold numbers."""
    marks = ["---", *["---:"] * (len(columns) - 1)]
    return "\n".join(map(_line, (columns, marks, *rows)))


def _line(cells: Sequence[object]) -> str:
    return f"| {' | '.join(map(_cell, cells))} |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")
