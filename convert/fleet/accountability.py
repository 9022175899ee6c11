"""The log of what people decided about personal data: who accepted a key, recorded consent, erased or purged what.

It is append-only and hash-chained (edge_agent/durable/chained_log.py), beside the registry of sites in the collection.
A consent counts until it is withdrawn; the log is where it is recorded, and nowhere else.
"""

from __future__ import annotations

import getpass
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from edge_agent.durable import chained_log
from edge_agent.formats.signed_document import format_timestamp

FILE_NAME = "accountability.jsonl"
Action = Literal[
    "key accepted",
    "key retired",
    "key rejected",
    "site revoked",
    "site restored",
    "consent recorded",
    "consent withdrawn",
    "records erased",
    "records purged",
]
SUBJECTS_MAX = 1000
"""Records that one entry names; the number is always there."""


@dataclass(frozen=True)
class DecisionEntry:
    """One entry of the log."""

    number: int
    at: str
    actor: str
    """User and machine; `collect` where the program decided by a rule, such as the first key of a new site."""
    action: str
    subjects: tuple[str, ...]
    """A site, or records as SITE/PREDICTION_ID."""
    details: Mapping[str, Any]
    sha256: str


def record(folder: Path, action: Action, subjects: Iterable[str], *, actor: str = "", **details: Any) -> str:
    """Add an entry; it is on the disk when this returns. Returns its hash. Raises OSError."""
    named = list(subjects)
    fields = {
        "at": format_timestamp(time.time()),
        "actor": actor or current_actor(),
        "action": action,
        "count": len(named),
        "subjects": named[:SUBJECTS_MAX],
        "details": details,
    }
    folder.mkdir(parents=True, exist_ok=True)
    return chained_log.append(folder / FILE_NAME, fields)


def current_actor() -> str:
    """Return the user and the machine."""
    return f"{getpass.getuser()}@{socket.gethostname()}"


def entries(folder: Path) -> list[DecisionEntry]:
    """Return the entries, the oldest first; those of another form are left out."""
    found = []
    for each in chained_log.read(folder / FILE_NAME):
        fields = each.fields
        subjects = fields.get("subjects")
        texts = [fields.get(key) for key in ("at", "actor", "action")]
        if isinstance(subjects, list) and all(isinstance(text, str) for text in texts):
            at, actor, action = map(str, texts)
            details = fields.get("details")
            known = details if isinstance(details, dict) else {}
            found.append(DecisionEntry(each.number, at, actor, action, tuple(map(str, subjects)), known, each.sha256))
    return found


def consents(folder: Path) -> frozenset[str]:
    """Return the records, as SITE/PREDICTION_ID, whose consent is recorded and not withdrawn."""
    found: set[str] = set()
    for each in entries(folder):
        if each.action == "consent recorded":
            found.update(each.subjects)
        elif each.action in ("consent withdrawn", "records erased"):
            found.difference_update(each.subjects)
    return frozenset(found)
