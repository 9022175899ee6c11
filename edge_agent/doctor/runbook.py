"""The run book on this machine: the text of docs/runbook.md, one entry for each check; and reasons of updates.

The reasons are those of an update's state that are no errors; docs/updates.md has them too."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources

_ENTRY = re.compile(r"^### `(?P<name>[a-z-]+)`: (?P<title>.+)$\n(?P<text>(?:(?!^##).*\n?)*)", re.MULTILINE)
_LINK = re.compile(r"\[([^\]]+)\]\([^)]+\)")


@dataclass(frozen=True)
class RunbookEntry:
    """What the run book says about one check."""

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
        RunbookEntry(found["name"], found["title"], _LINK.sub(r"\1", found["text"]).strip())
        for found in _ENTRY.finditer(text)
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
    """In which states of an update it stands."""
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
        "held",
        "somebody on this site removed the task; nothing answers it",
        f"Import the USB drive again. {_ALLOW}",
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
