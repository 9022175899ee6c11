"""The run book on this machine: the text of docs/runbook.md, one entry for each check of doctor."""

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
