"""What the commands write: answers to standard output, errors to standard error. No colours off a terminal."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from edge_agent.cli import terminal
from edge_agent.cli.exits import REMEDIES, exit_code
from edge_agent.cli.terminal import Rows, Terminal
from edge_agent.client import CallFailed
from edge_agent.errors import EdgeAgentError

# A table in a log or a letter is still read by people; scripts take --json.
_COLUMNS_OFF_TERMINAL = 100


def out() -> Console:
    """Return a console on standard output."""
    return Terminal(width=None if sys.stdout.isatty() else _COLUMNS_OFF_TERMINAL)


def err() -> Console:
    """Return a console on standard error."""
    return terminal.errors()


def report(error: EdgeAgentError | CallFailed) -> None:
    """Print an error and what to do about it."""
    details = error.details if isinstance(error, EdgeAgentError) else ()
    terminal.report(error.message, error.remedy or REMEDIES[exit_code(error.reason)], details)


def table(*columns: str, right: tuple[str, ...] = (), wrap: tuple[str, ...] = ()) -> Table:
    """Return an empty table; the columns named in `right` hold numbers, those in `wrap` give way first.

    Nothing is cut: what does not fit goes on below.
    """
    made = Rows(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        made.add_column(
            column, justify="right" if column in right else "left", no_wrap=column not in wrap, overflow="fold"
        )
    return made


def print_facts(console: Console, facts: Mapping[str, str]) -> None:
    """Print names and what is to be said of each, in two columns; what has nothing to say is left out."""
    grid = Rows.grid(padding=(0, 3, 0, 0))
    for name, said in facts.items():
        if said:
            grid.add_row(name, Text(said))
    print_trimmed(console, grid)


def print_trimmed(console: Console, thing: RenderableType) -> None:
    """Print something without the spaces that rich leaves at the ends of its lines."""
    with console.capture() as captured:
        console.print(thing)
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
