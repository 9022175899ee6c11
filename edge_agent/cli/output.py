"""What the commands print: answers on standard output, errors and questions on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from edge_agent.cli import terminal
from edge_agent.cli.command_group import global_options
from edge_agent.cli.terminal import EscapedTable, Terminal
from edge_agent.client import LargeModel
from edge_agent.errors import InvalidRequest

# People read tables in logs and letters, too; scripts take --json.
_COLUMNS_OFF_TERMINAL = 100
UPDATE_STYLES = {"DONE": "green", "FAILED": "bold red", "ROLLED_BACK": "bold red", "HELD": "yellow"}
LINK_STYLES = {"ONLINE": "green", "PROBING": "yellow", "OFFLINE": "red", "SILENT": "bold red"}
ENGINE_STYLES = {"READY": "green", "FAILED": "bold red", "BACKING_OFF": "red"}
_NO_THRESHOLD = {
    "NOT_CALIBRATED": "not calibrated",
    "NONE_PROVED": "calibrated, no threshold could be proved: always escalates",
    "SCORES_VARY": "no threshold holds on this machine",
}

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def out() -> Console:
    """Return a console on standard output."""
    return Terminal(width=off_terminal_width())


def off_terminal_width() -> int | None:
    """Return how many columns standard output has where it is no terminal; None = it is one, and has its own."""
    return None if sys.stdout.isatty() else _COLUMNS_OFF_TERMINAL


def err() -> Console:
    """Return a console on standard error."""
    return terminal.errors()


def print_done(ctx: typer.Context, *lines: str | Text) -> None:
    """Print what a command has done; nothing with --quiet."""
    if not global_options(ctx).quiet:
        for line in lines:
            if isinstance(line, Text):
                out().print(line, soft_wrap=True)
            else:
                terminal.print_wrapped(out(), line, Text())


def progress(ctx: typer.Context, text: str) -> AbstractContextManager[object]:
    """Show on a terminal what the block is doing; nothing with --quiet."""
    return contextlib.nullcontext() if global_options(ctx).quiet else err().status(text)


def confirm(question: str, consequence: str, *, yes: bool) -> None:
    """Ask before something that cannot be taken back, on standard error; `yes` = do not ask.

    Raises:
        InvalidRequest: standard input is not a terminal, so there is nobody to ask.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        said = f"nothing was done: there is no terminal to ask on. With --yes: {consequence}"
        raise InvalidRequest(said, remedy="Add --yes to go ahead.")
    terminal.print_wrapped(err(), consequence, Text())
    typer.confirm(question, abort=True, err=True)


class RowTable(EscapedTable):
    """A table without lines that fits its terminal and keeps words whole.

    Where the words of the columns that wrap do not fit beside the others, the cells of the widest get lines of their
    own: those of the first column above the rest of their row, others below it. Where that does not help, each cell
    has a line, with the name of its column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it."""
        sizes = [_measured(column, console) for column in self.columns]
        wrapped = [number for number, column in enumerate(self.columns) if not column.no_wrap]
        apart: set[int] = set()
        for number in sorted(wrapped, key=lambda number: (sizes[number][0], number), reverse=True):
            if _needed(sizes, apart) <= options.max_width:
                break
            apart.add(number)
        left = options.max_width - _needed(sizes, apart)
        if left < 0 or len(apart) == len(sizes):
            yield from self._records()
        else:
            self._fit(sizes, apart, left)
            yield from self._rows(apart) if apart else super().__rich_console__(console, options)

    def _fit(self, sizes: Sequence[tuple[int, int]], apart: set[int], left: int) -> None:
        """Give the columns their widths, and what is left to those that wrap, the ones that need least of it first."""
        beside = [number for number in range(len(sizes)) if number not in apart]
        for place, number in enumerate(sorted(beside, key=lambda number: sizes[number][1] - sizes[number][0])):
            least, best = sizes[number]
            more = min(best - least, left // (len(beside) - place))
            self.columns[number].width, left = least + more, left - more

    def _rows(self, apart: set[int]) -> RenderResult:
        """Draw each row, with the names of the columns as the first, in more lines than one."""
        indent = _INDENT if 0 in apart else 0
        for row in (self._heads(), *zip(*(column.cells for column in self.columns), strict=True)):
            yield from (row[number] for number in apart & {0})
            beside = EscapedTable(box=None, show_header=False, pad_edge=False, padding=(0, _GAP, 0, 0))
            for number, column in enumerate(self.columns):
                if number not in apart:
                    beside.add_column(
                        justify=column.justify, no_wrap=column.no_wrap, overflow="fold", width=column.width
                    )
            beside.add_row(*(cell for number, cell in enumerate(row) if number not in apart))
            yield Padding(beside, (0, 0, 0, indent))
            yield from (Padding(row[number], (0, 0, 0, indent + _INDENT)) for number in sorted(apart - {0}))

    def _records(self) -> RenderResult:
        """Draw each cell on a line, after the name of its column."""
        for row in zip(*(column.cells for column in self.columns), strict=True):
            made = EscapedTable.grid(padding=(0, _GAP, 0, 0))
            made.add_column(no_wrap=True)
            made.add_column(overflow="fold")
            for name, cell in zip(self._heads(), row, strict=True):
                made.add_row(name, cell)
            yield made
            yield Text()

    def _heads(self) -> tuple[Text, ...]:
        """Return the names of the columns."""
        heads = [column.header for column in self.columns]
        return tuple(head if isinstance(head, Text) else Text(str(head), style=self.header_style) for head in heads)


def _measured(column: Column, console: Console) -> tuple[int, int]:
    """Return the least and the best width of a column."""
    column.width = None
    options = console.options.update_width(_UNBOUNDED)
    found = [Measurement.get(console, options, each) for each in (column.header, *column.cells)]
    best = max(column.min_width or 0, *(each.maximum for each in found))
    words = max(each.minimum for each in found)
    return best if column.no_wrap else max(words, column.min_width or min(best, _WRAPPED_MIN)), best


def _needed(sizes: Sequence[tuple[int, int]], apart: set[int]) -> int:
    """Return the least width of a table without the columns that stand apart."""
    widths = [least for number, (least, _) in enumerate(sizes) if number not in apart]
    return sum(widths) + _GAP * (len(widths) - 1) + (_INDENT if 0 in apart else 0)


_GAP, _INDENT = 2, 2
_WRAPPED_MIN = 20
"""Least width of running text beside other columns."""
_UNBOUNDED = 10_000


def table(*columns: str, right: tuple[str, ...] = (), wrap: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `right` hold numbers, those in `wrap` give way first.

    Nothing is cut: text that does not fit continues on the next line.
    """
    made = RowTable(box=None, header_style="bold", pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", no_wrap=column not in wrap, overflow="fold"
        )
    return made


def print_facts(console: Console, facts: Mapping[str, str | Text]) -> None:
    """Print names and their values in two columns, a long value whole; a name without a value is left out."""
    grid = EscapedTable.grid(padding=(0, 3, 0, 0))
    grid.add_column()
    grid.add_column(overflow="fold")
    for name, value in facts.items():
        if value:
            grid.add_row(Text(name, style="dim"), Text(value) if isinstance(value, str) else value)
    print_trimmed(console, grid)


def print_trimmed(console: Console, renderable: RenderableType) -> None:
    """Print something without the spaces that rich leaves at the ends of its lines."""
    with console.capture() as captured:
        console.print(renderable)
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def plain(value: Any) -> Any:
    """Turn a dataclass into what JSON can hold."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def print_json(value: Any, *, indent: int | None = None) -> None:
    """Print a value as JSON, dataclasses and times included."""
    terminal.write_exactly(json.dumps(plain(value), ensure_ascii=False, indent=indent, default=_encode))


def _encode(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def duration(seconds: float) -> str:
    """Write a time in words, rounded down."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"


def large_model_state(large: LargeModel) -> Text:
    """Return whether the large model is available, and how long it takes."""
    said = Text.assemble(("online", "green") if large.online else ("offline", "red"))
    if large.usual_ms:
        said.append(f", usually {large.usual_ms:.0f} ms")
    if not large.affordable and large.online:
        said.append(", spent up", "yellow")
    return said


def no_threshold(reason: str) -> str:
    """Return what a person reads of an answer without a threshold, for the reason that answers give."""
    return _NO_THRESHOLD.get(reason, "no threshold")
