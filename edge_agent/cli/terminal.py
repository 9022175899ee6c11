"""Terminal output of both commands: no control sequences from data reach the terminal.

A string or Text is one line: a line break in it is shown as `\\n`. Our own lines are printed one by one, or in a Group.
Markup is off, because a label may look like it; styles are set on Text. Output for programs is written unchanged, by
`write_exactly`.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Column, Table
from rich.text import Text

from edge_agent.errors.base import (
    CONTROL_CHARACTERS,
    escape_character,
    one_line,
    printable,
    printable_lines,
    with_sudo,
    works_by_sudo,
)

_PROSE_MIN, _PROSE_MAX = 40, 100
_QUOTED = re.compile(r"(?<!\w)'[^'\n]+'")
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Terminal(Console):
    """A rich console that escapes control characters in everything it prints."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of rich's console."""
        super().__init__(**{"highlight": False, "emoji": False, "markup": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a string into a text."""
        return super().render_str(printable(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Return printable segments."""
        if isinstance(renderable, Text):
            renderable = printable_text(renderable)
        for segment in super().render(renderable, options):
            clean = segment.control or segment.text.isprintable()
            yield segment if clean else segment._replace(text=printable_lines(segment.text))


class EscapedTable(Table):
    """A table that reserves width for escaped characters, and folds long cells instead of cutting them."""

    def __init__(self, *headers: str, **settings: Any) -> None:
        """Take the headers and settings of rich's table."""
        super().__init__(*headers, **settings)
        for column in self.columns:
            column.overflow = "fold"

    def add_column(self, header: RenderableType = "", **settings: Any) -> None:  # type: ignore[override]
        """Add a column."""
        super().add_column(header, **{"overflow": "fold", **settings})

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row."""
        super().add_row(*(printable_text(cell) if isinstance(cell, Text) else cell for cell in cells), **settings)


class RowTable(EscapedTable):
    """A table without lines that fits its terminal and keeps words whole.

    Where the words of the columns that wrap do not fit beside the others, the cells of the widest get lines of their
    own: those of the first column above the rest of their row, others below it. Where that does not help, each cell
    has a line, with the name of its column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        sizes = [_measure_column(column, console) for column in self.columns]
        wrapping = [number for number, column in enumerate(self.columns) if not column.no_wrap]
        separate: set[int] = set()
        for number in sorted(wrapping, key=lambda number: (sizes[number][0], number), reverse=True):
            if _width_needed(sizes, separate) <= options.max_width:
                break
            separate.add(number)
        spare_width = options.max_width - _width_needed(sizes, separate)
        if spare_width < 0 or len(separate) == len(sizes):
            yield from self._records()
        else:
            self._fit(sizes, separate, spare_width)
            yield from self._rows(separate) if separate else super().__rich_console__(console, options)

    def _fit(self, sizes: Sequence[tuple[int, int]], separate: set[int], spare_width: int) -> None:
        """Give the columns their widths, and what is left to those that wrap, the ones that need least of it first."""
        inline = [number for number in range(len(sizes)) if number not in separate]
        for position, number in enumerate(sorted(inline, key=lambda number: sizes[number][1] - sizes[number][0])):
            minimum, preferred = sizes[number]
            extra = min(preferred - minimum, spare_width // (len(inline) - position))
            self.columns[number].width, spare_width = minimum + extra, spare_width - extra

    def _rows(self, separate: set[int]) -> RenderResult:
        """Draw each row, with the names of the columns as the first, in more lines than one."""
        indent = _INDENT if 0 in separate else 0
        for row in (self._headers(), *zip(*(column.cells for column in self.columns), strict=True)):
            yield from (row[number] for number in separate & {0})
            inline_cells = EscapedTable(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
            for number, column in enumerate(self.columns):
                if number not in separate:
                    inline_cells.add_column(justify=column.justify, no_wrap=column.no_wrap, width=column.width)
            inline_cells.add_row(*(cell for number, cell in enumerate(row) if number not in separate))
            yield Padding(inline_cells, (0, 0, 0, indent))
            yield from (Padding(row[number], (0, 0, 0, indent + _INDENT)) for number in sorted(separate - {0}))

    def _records(self) -> RenderResult:
        """Draw each cell on a line, after the name of its column."""
        for row in zip(*(column.cells for column in self.columns), strict=True):
            grid = EscapedTable.grid(padding=(0, _GAP, 0, 0))
            grid.add_column(no_wrap=True)
            grid.add_column()
            for name, cell in zip(self._headers(), row, strict=True):
                grid.add_row(name, cell)
            yield grid
            yield Text()

    def _headers(self) -> tuple[Text, ...]:
        """Return the names of the columns."""
        cells = [column.header for column in self.columns]
        return tuple(cell if isinstance(cell, Text) else Text(str(cell), style=self.header_style) for cell in cells)


def prose_width(console: Console) -> int:
    """Return how many columns sentences may take: no more than people read well, and no fewer than words need."""
    return max(_PROSE_MIN, min(console.width, _PROSE_MAX))


def _measure_column(column: Column, console: Console) -> tuple[int, int]:
    """Return the minimum and the preferred width of a column."""
    column.width = None
    options = console.options.update_width(_UNBOUNDED)
    measurements = [Measurement.get(console, options, cell) for cell in (column.header, *column.cells)]
    preferred = max(column.min_width or 0, *(measurement.maximum for measurement in measurements))
    word_width = max(measurement.minimum for measurement in measurements)
    return preferred if column.no_wrap else max(word_width, column.min_width or min(preferred, _WRAPPED_MIN)), preferred


def _width_needed(sizes: Sequence[tuple[int, int]], separate: set[int]) -> int:
    """Return the minimum width of a table without the columns in `separate`."""
    widths = [minimum for number, (minimum, _) in enumerate(sizes) if number not in separate]
    return sum(widths) + _GAP * (len(widths) - 1) + (_INDENT if 0 in separate else 0)


_GAP, _INDENT = 2, 2
_WRAPPED_MIN = 20
"""Minimum width of running text next to other columns."""
_UNBOUNDED = 10_000


def table(*columns: str, right: tuple[str, ...] = (), wrap: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `right` hold numbers, those in `wrap` give way first.

    Nothing is cut: text that does not fit continues on the next line.
    """
    row_table = RowTable(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        row_table.add_column(column, justify="right" if column in right else "left", no_wrap=column not in wrap)
    return row_table


def printable_text(text: Text) -> Text:
    """Return a text on one line, in its styles, with control characters escaped."""
    if text.plain.isprintable():
        return text
    result, start = text.blank_copy(), 0
    for match in CONTROL_CHARACTERS.finditer(text.plain):
        result.append_text(text[start : match.start()]).append(escape_character(match))
        start = match.end()
    return result.append_text(text[start : len(text.plain)])


FULL_BLOCK = "█"
PARTIAL_BLOCKS = " ▏▎▍▌▋▊▉"
"""Eighths of a cell."""


def draw_bar(share: float, cells: int, full: str = FULL_BLOCK, parts: str = PARTIAL_BLOCKS) -> str:
    """Return a bar for a share from 0 to 1, filled up with spaces; `parts` are the characters of the last cell."""
    whole, part = divmod(round(min(max(share, 0.0), 1.0) * cells * len(parts)), len(parts))
    return (full * whole + (parts[part] if part else "")).ljust(cells)


def errors() -> Terminal:
    """Return a terminal on standard error."""
    return Terminal(stderr=True, soft_wrap=True)


def report(message: str, remedy: str, details: Iterable[str] = ()) -> None:
    """Print an error, its details line by line, and the remedy."""
    terminal = errors()
    print_wrapped(terminal, one_line(message), Text("error: ", style="bold red"))
    for line in details:
        print_wrapped(terminal, printable(line), Text("  "))
    if remedy:
        print_wrapped(terminal, one_line(advice(remedy)), Text("  what to do: ", style="bold"))


def advice(text: str) -> str:
    """Return a sentence with the commands for this user: with sudo, if this command runs through sudo."""
    return with_sudo(text) if works_by_sudo(os.environ, os.geteuid()) else text


def print_wrapped(console: Console, text: str, head: Text) -> None:
    """Print a sentence after its head: on a terminal in lines of whole words and whole quoted commands.

    Elsewhere it is one line, so that a log can be searched.
    """
    lines = wrap_sentence(text, console.width, head.cell_len) if console.is_terminal else [text]
    for number, line in enumerate(lines or [""]):
        console.print(Text.assemble(head if number == 0 else Text("  "), line), soft_wrap=True)


def wrap_sentence(text: str, width: int, head_cells: int = 0) -> list[str]:
    """Break a sentence at blanks; a quoted command stays on one line if it fits."""
    unbroken = _QUOTED.sub(lambda match: match[0].replace(" ", _NO_BREAK) if len(match[0]) < width else match[0], text)
    filler = "x" * head_cells
    lines = textwrap.wrap(
        f"{filler}{unbroken}", max(20, width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [
        line.removeprefix(filler if number == 0 else "  ").replace(_NO_BREAK, " ") for number, line in enumerate(lines)
    ]


def say(text: str, *, err: bool = False) -> None:
    """Print lines unwrapped: for people, and for scripts that split lines."""
    typer.echo(printable_lines(text), err=err)


def write_answer(text: str) -> None:
    """Write a part of an answer to standard output: exactly into a file or pipe, printable on a terminal."""
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_exactly(text: str, *, end: str = "\n") -> None:
    """Write what a program reads, such as JSON, to standard output."""
    typer.echo(text + end, nl=False)
