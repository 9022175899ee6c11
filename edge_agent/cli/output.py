"""What the commands print: answers on standard output, errors and questions on standard error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
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
    """Ask before an irreversible action, on standard error; `yes` = do not ask.

    Raises:
        InvalidRequest: standard input is not a terminal.
        typer.Abort: the answer is no.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        message = f"nothing was done: there is no terminal to ask on. With --yes: {consequence}"
        raise InvalidRequest(message, remedy="Add --yes to go ahead.")
    terminal.print_wrapped(err(), consequence, Text())
    typer.confirm(question, abort=True, err=True)


def print_facts(console: Console, facts: Mapping[str, str | Text]) -> None:
    """Print names and their values in two columns, a long value whole; a name without a value is left out."""
    grid = EscapedTable.grid(padding=(0, 3, 0, 0))
    grid.add_column()
    grid.add_column()
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


def large_model_state(large_model: LargeModel) -> Text:
    """Return whether the large model is available, and how long it takes."""
    state = Text.assemble(("online", "green") if large_model.online else ("offline", "red"))
    if large_model.usual_ms:
        state.append(f", usually {large_model.usual_ms:.0f} ms")
    if not large_model.affordable and large_model.online:
        state.append(", spent up", "yellow")
    return state


def no_threshold(reason: str) -> str:
    """Return the text for people of a `no_threshold_reason`."""
    return _NO_THRESHOLD.get(reason, "no threshold")
