"""The audit log: who did what as an operator, and who was denied what. Lines of JSON, never inputs or outputs.

What changes something has a line each time, on the disk before the answer goes out. Looking (status, lists) and denials
have a line the first time and then one a minute with a count: neither `status --watch` nor an attacker fills it.
It is bounded: at half of `audit_bytes_max` the file becomes audit.1.jsonl, in place of the one before.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from edge_agent.formats.document import timestamp
from edge_agent.service.callers import NOBODY, Caller
from edge_agent.service.repeats import Repeats

log = structlog.get_logger("edge_agent.service")

FILE_NAME, OLDER_NAME = "audit.jsonl", "audit.1.jsonl"
TOLD = ("task", "bundle", "path", "no_activate", "prediction_id")
"""Fields of requests that say what was done; no others are written down."""
VALUE_CHARS_MAX = 300


@dataclass(frozen=True)
class Entry:
    """One kind of thing that happened."""

    caller: Caller
    call: str
    outcome: str
    """OK, or the reason of the error."""


OTHERS = Entry(NOBODY, "others", "various")


class Audit:
    """The log of one daemon. One event loop owns it."""

    def __init__(self, state_dir: Path, bytes_max: int, wall: Callable[[], float] = time.time) -> None:
        """Go on where the file ends."""
        self._path, self._older = state_dir / FILE_NAME, state_dir / OLDER_NAME
        self._half = bytes_max // 2
        self._wall = wall
        self._repeats = Repeats(OTHERS)
        self.problem = ""
        """Why the last line was not written; empty otherwise."""
        self.denied: Counter[str] = Counter()
        """Calls that were denied, by reason: all of them, also where a line stands for many."""

    def changed(self, caller: Caller, call: str, outcome: str, request: Any) -> None:
        """Write down that an operator did something, and have it on the disk."""
        self._write(self._line(Entry(caller, call, outcome), _told(request)), durably=True)

    def seen(self, caller: Caller, call: str, outcome: str) -> None:
        """Write down that somebody looked or was denied, unless it was written a moment ago."""
        now, entry = time.monotonic(), Entry(caller, call, outcome)
        if outcome != "OK":
            self.denied[outcome] += 1
        self._tell_counts(self._repeats.due(now))
        if self._repeats.first(entry, now):
            self._write(self._line(entry, {}))

    def close(self) -> None:
        """Write down what was only counted so far."""
        self._tell_counts(self._repeats.rest())

    def _tell_counts(self, counted: list[tuple[Entry, int]]) -> None:
        for entry, count in counted:
            self._write(self._line(entry, {"times_more": count}))

    def _line(self, entry: Entry, more: dict[str, Any]) -> dict[str, Any]:
        certificate = {"certificate": entry.caller.fingerprint} if entry.caller.fingerprint else {}
        who = {"who": entry.caller.name, **certificate, "roles": sorted(entry.caller.roles)}
        return {"at": timestamp(self._wall()), **who, "call": entry.call, "outcome": entry.outcome, **more}

    def _write(self, line: dict[str, Any], *, durably: bool = False) -> None:
        """Append a line. A disk that fails stops no call: status says so."""
        raw = json.dumps(line, ensure_ascii=True).encode() + b"\n"
        try:
            self._append(raw, durably)
            self.problem = ""
        except OSError as error:
            if not self.problem:
                log.warning("audit_not_written", error=error.strerror)
            self.problem = f"{self._path} cannot be written: {error.strerror}"

    def _append(self, raw: bytes, durably: bool) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        fd = os.open(self._path, flags, 0o600)
        try:
            if os.fstat(fd).st_size + len(raw) > self._half:
                self._path.replace(self._older)
                os.close(fd)
                fd = os.open(self._path, flags, 0o600)
            os.write(fd, raw)
            if durably:
                os.fdatasync(fd)
        finally:
            os.close(fd)


def _told(request: Any) -> dict[str, Any]:
    known = {field.name for field in request.DESCRIPTOR.fields}
    said = {name: getattr(request, name) for name in TOLD if name in known}
    return {name: _short(value) for name, value in said.items() if value}


def _short(value: Any) -> Any:
    return value[:VALUE_CHARS_MAX] if isinstance(value, str) else value
