"""`edge-agent help` and `edge-agent version`, which need no daemon.

Help prints the entry of docs/runbook.md for a check of doctor, what the reason of an error means, or what the reason of
an update's state means; docs/updates.md has the last ones too.
"""

from __future__ import annotations

import difflib
import platform
import re
import sys
import textwrap
from dataclasses import dataclass
from importlib import resources
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_agent import __version__
from edge_agent.cli.command_group import UsageError, global_options
from edge_agent.cli.output import AsJson, out, print_facts, print_json
from edge_agent.cli.terminal import prose_width
from edge_agent.errors import BY_REASON, EdgeAgentError

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
        matches = difflib.get_close_matches(name, [*entries, *BY_REASON, *UPDATE_REASONS], 1, 0.5)
        hint = f" Did you mean '{matches[0]}'?" if matches else ""
        raise UsageError(f"there is no entry '{name}'.{hint} 'edge-agent help' lists the names.")


def show_entry(console: Console, entry: RunbookEntry) -> None:
    """Print an entry of the run book: symptom, commands to look with, what to do."""
    console.print(Text(f"{entry.name}: {entry.title}", style="bold"))
    # Paragraphs and list items as one line each.
    for line in re.sub(r"\n(?!\n|- ) *", " ", entry.text).replace("\n\n", "\n").split("\n"):
        part = _PART.match(line)
        if part:
            _print_block(console, f"  {part[1]:<6}", part[2])
        elif line:
            _print_block(console, "", line.removeprefix("- "))


def show_reason(console: Console, error_class: type[EdgeAgentError]) -> None:
    """Print what a reason means, who acts, and the remedy."""
    meaning = _CODE.sub(r"\1", (error_class.__doc__ or "").split("\n", 1)[0])
    family = (error_class.__mro__[1].__doc__ or "").split("\n", 1)[0]
    console.print(Text(f"{error_class.reason}: {meaning}", style="bold"))
    _print_block(console, "  who   ", family)
    _print_block(console, "  do    ", error_class.remedy_default)


def show_update_reason(console: Console, name: str) -> None:
    """Print what the reason of an update's state means, and what to do."""
    reason = UPDATE_REASONS[name]
    console.print(Text(f"{name}: {reason.meaning}", style="bold"))
    _print_block(console, "  state ", reason.states)
    _print_block(console, "  do    ", reason.remedy)


def _show_names(console: Console, entries: dict[str, RunbookEntry]) -> None:
    console.print(Text("Checks of doctor", style="bold"))
    for entry in entries.values():
        _print_block(console, f"  {entry.name:<20}", entry.title)
    console.print(Text("Reasons of errors", style="bold"))
    _print_block(console, "  ", ", ".join(sorted(BY_REASON)))
    console.print(Text("Reasons of an update's state", style="bold"))
    _print_block(console, "  ", ", ".join(sorted(UPDATE_REASONS)))


def _print_block(console: Console, mark: str, text: str) -> None:
    """Print wrapped text after a mark; text in backquotes is bold and never broken."""
    unbroken = _CODE.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), text)
    width = prose_width(console) - len(mark)
    for number, line in enumerate(textwrap.wrap(unbroken, width, break_long_words=False, break_on_hyphens=False)):
        styled_line = Text(mark if number == 0 else " " * len(mark), style="dim")
        for index, piece in enumerate(_CODE.split(line)):
            styled_line.append(piece.replace("\N{NO-BREAK SPACE}", " "), style="bold" if index % 2 else "")
        console.print(styled_line, soft_wrap=True)


_ENTRY = re.compile(r"^### `(?P<name>[a-z-]+)`: (?P<title>.+)$\n(?P<text>(?:(?!^##).*\n?)*)", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@dataclass(frozen=True)
class RunbookEntry:
    """The entry of the run book for one check."""

    name: str
    title: str
    text: str
    """Markdown: sentences, then lines `- **look** …`, `- **do** …`."""


def read_entries() -> dict[str, RunbookEntry]:
    """Return all entries by the name of their check, in the order of the run book."""
    text = resources.files("edge_agent.doctor").joinpath("runbook.md").read_text(encoding="utf-8")
    return {entry.name: entry for entry in parse_entries(text)}


def parse_entries(text: str) -> list[RunbookEntry]:
    """Parse the run book; links become their text."""
    return [
        RunbookEntry(match["name"], match["title"], _LINK.sub(r"\1", match["text"]).strip())
        for match in _ENTRY.finditer(text)
    ]


_IMPORT = "Insert the USB drive again and import it: 'sudo edge-agent media import /media/usb'. Nothing is lost."
_CENTRAL = "Ask the central team: its plan decides this."
_REPORT = "Tell the central team. The site tries the version again when the plan changes for this task."
_NOTHING = "Nothing: the daemon continues automatically."
_ALLOW = "To use the planned version again: 'sudo edge-agent bundles allow TASK'."


@dataclass(frozen=True)
class UpdateReason:
    """One reason."""

    states: str
    """The states of an update that can have it."""
    meaning: str
    """The end of "the update is waiting: "."""
    remedy: str


UPDATE_REASONS = {
    "WAVE_LATER": UpdateReason("waiting", "this site's wave has not begun", _CENTRAL),
    "NO_WAVE": UpdateReason("waiting", "no wave of the plan includes this site", _CENTRAL),
    "HALTED": UpdateReason("waiting", "the central team has stopped the rollout", _CENTRAL),
    "HARDWARE_UNMET": UpdateReason("waiting", "no bundle in the plan fits this machine", _CENTRAL),
    "FILES_MISSING": UpdateReason("waiting", "files are not on this machine, and no uplink brings them", _IMPORT),
    "INTERRUPTED": UpdateReason(
        "waiting, failed", "the daemon or the machine stopped while it was copied or tested", _IMPORT
    ),
    "WINDOW_CLOSED": UpdateReason("staged", "the plan allows the switch at other hours only", _NOTHING),
    "STOPPING": UpdateReason("staged", "the daemon was stopped during the update", _NOTHING),
    "BY_HAND": UpdateReason("held, done", "somebody on this site chose the version", _ALLOW),
    "REMOVED": UpdateReason(
        "held", "somebody on this site removed the task; nothing answers it", f"Import the USB drive again. {_ALLOW}"
    ),
    "GOLDEN_DIFFERS": UpdateReason("failed", "its answers here differ from those recorded where it was made", _REPORT),
    "SELF_TEST_TOO_LONG": UpdateReason(
        "failed", "the self-test, or one answer in it, took longer than 'selftest_seconds_max'", _REPORT
    ),
    "MEMORY_GROWS": UpdateReason("failed", "it uses more memory than computed, or more with every call", _REPORT),
    "SLOWER": UpdateReason(
        "failed, rolled_back", "it is slower than the plan allows, compared with the previous version", _REPORT
    ),
    "CRASHES": UpdateReason("failed, rolled_back", "its process died", _REPORT),
    "ERRORS": UpdateReason("rolled_back", "it failed more calls than the plan allows", _REPORT),
    "NOT_ANSWERING": UpdateReason("rolled_back", "it does not answer, and cannot recover without help", _REPORT),
}


def version(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the version of the program and of what it runs on.

    Example: [bold]edge-agent version --json[/bold]
    """
    facts = {
        "edge-agent": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "program": sys.prefix,
    }
    if as_json:
        print_json(facts, indent=2)
    elif global_options(ctx).quiet:
        out().print(__version__)
    else:
        print_facts(out(), facts)
