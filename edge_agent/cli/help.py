"""`edge-agent help`: the run book's entry of a check of doctor, or what an error's reason means. Needs no daemon."""

from __future__ import annotations

import difflib
import re
import textwrap
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.command_group import UsageError
from edge_agent.cli.output import out
from edge_agent.doctor.runbook import UPDATE_REASONS, RunbookEntry, read_entries
from edge_agent.errors import BY_REASON, EdgeAgentError

WIDTH_MAX = 100
_PART = re.compile(r"^- \*\*(look|do|alert)\*\* (.*)$")
_CODE = re.compile(r"`([^`]+)`")


def run(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A check of doctor, or the reason of an error or of an update.")
    ] = "",
) -> None:
    """Explain a finding of doctor, or the reason of an error: where to look, and what to do.

    Without a name it lists the names. Needs no network and no daemon.

    Example: [bold]edge-agent help socket[/bold]
    """
    entries = read_entries()
    if not name:
        _show_names(out(), entries)
    elif name in entries:
        show_entry(out(), entries[name])
    elif name.upper() in BY_REASON:
        show_reason(out(), BY_REASON[name.upper()])
    elif name.upper() in UPDATE_REASONS:
        show_update_reason(out(), name.upper())
    else:
        near = difflib.get_close_matches(name, [*entries, *BY_REASON, *UPDATE_REASONS], 1, 0.5)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        raise UsageError(f"there is no entry '{name}'.{hint} 'edge-agent help' lists the names.")


def show_entry(console: Console, entry: RunbookEntry) -> None:
    """Print an entry of the run book: symptom, commands to look with, what to do."""
    console.print(Text(f"{entry.name}: {entry.title}", style="bold"))
    for line in _joined(entry.text):
        part = _PART.match(line)
        if part:
            _block(console, f"  {part[1]:<6}", part[2])
        elif line:
            _block(console, "", line.removeprefix("- "))


def show_reason(console: Console, kind: type[EdgeAgentError]) -> None:
    """Print what a reason means, who acts, and the remedy."""
    meaning = (kind.__doc__ or "").split("\n", 1)[0]
    family = (kind.__mro__[1].__doc__ or "").split("\n", 1)[0]
    console.print(Text(f"{kind.reason}: {meaning}", style="bold"))
    _block(console, "  who   ", family)
    _block(console, "  do    ", kind.remedy_default)


def show_update_reason(console: Console, name: str) -> None:
    """Print what the reason of an update's state means, and what to do."""
    reason = UPDATE_REASONS[name]
    console.print(Text(f"{name}: {reason.meaning}", style="bold"))
    _block(console, "  state ", reason.states)
    _block(console, "  do    ", reason.remedy)


def _show_names(console: Console, entries: dict[str, RunbookEntry]) -> None:
    console.print(Text("Checks of doctor", style="bold"))
    for entry in entries.values():
        _block(console, f"  {entry.name:<20}", entry.title)
    console.print(Text("Reasons of errors", style="bold"))
    _block(console, "  ", ", ".join(sorted(BY_REASON)))
    console.print(Text("Reasons of an update's state", style="bold"))
    _block(console, "  ", ", ".join(sorted(UPDATE_REASONS)))


def _joined(text: str) -> list[str]:
    """Return paragraphs and list items as one line each."""
    return re.sub(r"\n(?!\n|- )", " ", text).replace("\n\n", "\n").split("\n")


def _block(console: Console, mark: str, text: str) -> None:
    """Print wrapped text behind a mark; what the run book writes in backquotes is bold, and never broken."""
    kept = _CODE.sub(lambda found: found[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    width = max(40, min(console.width, WIDTH_MAX)) - len(mark)
    for number, line in enumerate(textwrap.wrap(kept, width, break_long_words=False, break_on_hyphens=False)):
        shown = Text(mark if number == 0 else " " * len(mark), style="dim")
        for at, piece in enumerate(_CODE.split(line)):
            shown.append(piece.replace("\N{NO-BREAK SPACE}", " "), style="bold" if at % 2 else "")
        console.print(shown, soft_wrap=True)
