"""The audit log: who did what as an operator, and who was denied what. Lines of JSON, never inputs or outputs.

What changes something has a line each time, on the disk before the answer goes out. Looking (status, lists) and denials
have a line the first time and then one a minute with a count: neither `status --watch` nor an attacker fills it.
It is bounded: at half of `audit_bytes_max` the file becomes audit.1.jsonl, in place of the one before.

One thread writes, in the order in which lines came; the event loop never waits for the disk. A change waits for its
line, and a stop for all lines, no longer than `AuditTimeouts` says: status shows that lines are missing, and they are
written if the disk comes back.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import structlog

from edge_agent.durable.atomic_files import sync_directory
from edge_agent.durable.disk_thread import DiskThread
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.server.callers import NOBODY, Caller

log = structlog.get_logger("edge_agent.server")

FILE_NAME, OLDER_NAME = "audit.jsonl", "audit.1.jsonl"
TOLD = ("task", "bundle", "path", "no_activate", "prediction_id")
"""Fields of requests that say what was done; no others are written down."""
VALUE_CHARS_MAX = 300
WAITING_LINES_MAX = 1024
"""Lines that wait for the disk; one more of what was only seen is not written. Changes wait with their callers."""


@dataclass(frozen=True)
class AuditTimeouts:
    """How long a disk is waited for that takes no lines."""

    change_seconds_max: float = 10.0
    """By a change, for its line."""
    close_seconds_max: float = 5.0
    """By a stop, for all lines."""


AUDIT_TIMEOUTS = AuditTimeouts()


@dataclass(frozen=True)
class AuditEntry:
    """One kind of thing that happened."""

    caller: Caller
    call: str
    outcome: str
    """OK, or the reason of the error."""


OTHER_ENTRIES = AuditEntry(NOBODY, "others", "various")


class AuditLog:
    """The log of one daemon. One event loop owns it, and a thread of its own writes, until `close`."""

    def __init__(
        self,
        state_dir: Path,
        bytes_max: int,
        wall: Callable[[], float] = time.time,
        waiting_lines_max: int = WAITING_LINES_MAX,
        patience: AuditTimeouts = AUDIT_TIMEOUTS,
    ) -> None:
        """Go on where the file ends."""
        self._file = _AuditFile(state_dir, bytes_max // 2)
        self._thread = DiskThread("audit")
        self._patience = patience
        self._waiting = threading.Semaphore(waiting_lines_max)
        self._waiting_max = waiting_lines_max
        self._wall = wall
        self._repeats = LogDeduplicator(OTHER_ENTRIES)
        self.denied: Counter[str] = Counter()
        """Calls that were denied, by reason: all of them, also where a line stands for many."""

    @property
    def problem(self) -> str:
        """Why the last line was not written; empty otherwise."""
        return self._file.problem

    async def record_change(self, caller: Caller, call: str, outcome: str, request: Any) -> None:
        """Write down that an operator did something; it is on the disk when this returns, or `problem` says why not.

        The line is written also when the caller does not wait for it.
        """
        seconds = self._patience.change_seconds_max
        line = self._line(AuditEntry(caller, call, outcome), _told(request))
        written = asyncio.wrap_future(self._thread.submit(self._file.write, line, durably=True))
        done, _ = await asyncio.wait([written], timeout=seconds)  # leaves the line to be written when this is cancelled
        if done:
            written.result()
        else:
            self._file.fail(f"the disk has not taken a line for {seconds:g} s")

    def note(self, caller: Caller, call: str, outcome: str) -> None:
        """Write down that somebody looked or was denied, unless it was written a moment ago."""
        now, entry = time.monotonic(), AuditEntry(caller, call, outcome)
        if outcome != "OK":
            self.denied[outcome] += 1
        self._tell_counts(self._repeats.due(now))
        if self._repeats.first(entry, now):
            self._tell(entry, {})

    async def close(self) -> bool:
        """Write down what was only counted so far; tell whether the disk took all that waits, in the time it has."""
        self._tell_counts(self._repeats.rest())
        seconds = self._patience.close_seconds_max
        closed = await asyncio.to_thread(self._thread.stop, seconds)
        if not closed:
            log.error("audit_not_closed", seconds=seconds)
        return closed

    def _tell(self, entry: AuditEntry, more: dict[str, Any]) -> None:
        if not self._waiting.acquire(blocking=False):
            self._file.fail(f"{self._waiting_max} lines wait for the disk")
            return
        written = self._thread.submit(self._file.write, self._line(entry, more))
        written.add_done_callback(self._written)

    def _written(self, line: Future[None]) -> None:
        self._waiting.release()
        if error := line.exception():
            log.error("audit_broke", error=type(error).__name__, exc_info=error)

    def _tell_counts(self, counted: list[tuple[AuditEntry, int]]) -> None:
        for entry, count in counted:
            self._tell(entry, {"times_more": count})

    def _line(self, entry: AuditEntry, more: dict[str, Any]) -> bytes:
        certificate = {"certificate": entry.caller.fingerprint} if entry.caller.fingerprint else {}
        who = {"who": entry.caller.name, **certificate, "roles": sorted(entry.caller.roles)}
        line = {"at": format_timestamp(self._wall()), **who, "call": entry.call, "outcome": entry.outcome, **more}
        return json.dumps(line, ensure_ascii=True).encode() + b"\n"


class _AuditFile:
    """The file and the one before it. One thread writes; `problem` may be read by any."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._path, self._older = folder / FILE_NAME, folder / OLDER_NAME
        self._bytes_max = bytes_max
        self.problem = ""

    def write(self, line: bytes, *, durably: bool = False) -> None:
        """Append a line. A disk that fails stops no call: status says so."""
        try:
            self._append(line, durably)
            self.problem = ""
        except OSError as error:
            self.fail(error.strerror or str(error))

    def fail(self, why: str) -> None:
        """Note that a line was not written."""
        if not self.problem:
            log.warning("audit_not_written", error=why)
        self.problem = f"{self._path} cannot be written: {why}"

    def _append(self, line: bytes, durably: bool) -> None:
        size = self._size()
        if size is not None and size + len(line) > self._bytes_max:
            self._path.replace(self._older)
            size = None
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.write(fd, line) < len(line):  # the disk is full: a line is there whole or not at all
                os.ftruncate(fd, size or 0)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durably:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        if size is None:
            sync_directory(self._path.parent)

    def _size(self) -> int | None:
        """Return how long the file is; None = there is none."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return None


def _told(request: Any) -> dict[str, Any]:
    known = {field.name for field in request.DESCRIPTOR.fields}
    said = {name: getattr(request, name) for name in TOLD if name in known}
    return {name: _short(value) for name, value in said.items() if value}


def _short(value: Any) -> Any:
    return value[:VALUE_CHARS_MAX] if isinstance(value, str) else value


# What happens over and over, written down once and then counted. Pure.
#
# The first of a kind is told at once; what follows within a window is counted, and told in one line once the window has
# ended. The table is bounded: with too many kinds at a time the rest are one kind.
WINDOW_SECONDS = 60.0
KINDS_MAX = 256

Kind = TypeVar("Kind", bound=Hashable)


@dataclass
class _RepeatedEvent:
    until: float
    count: int = 0


class LogDeduplicator(Generic[Kind]):
    """The table. `now` is in seconds on a clock that does not go back."""

    def __init__(self, others: Kind) -> None:
        """Name the kind that stands for all that find no place of their own."""
        self._others = others
        self._seen: dict[Kind, _RepeatedEvent] = {}

    def first(self, kind: Kind, now: float) -> bool:
        """Note one; tell whether it is to be told now. Otherwise it is counted until `due`."""
        if kind not in self._seen and len(self._seen) >= KINDS_MAX:
            kind = self._others
        seen = self._seen.get(kind)
        if seen is None:
            self._seen[kind] = _RepeatedEvent(now + WINDOW_SECONDS)
            return True
        seen.count += 1
        return False

    def due(self, now: float) -> list[tuple[Kind, int]]:
        """Forget the kinds whose window has ended; return those that came again in it, and how often."""
        over = [kind for kind, seen in self._seen.items() if seen.until <= now]
        counted = [(kind, self._seen.pop(kind).count) for kind in over]
        return [(kind, count) for kind, count in counted if count]

    def rest(self) -> list[tuple[Kind, int]]:
        """Forget everything; return what was counted."""
        return self.due(float("inf"))
