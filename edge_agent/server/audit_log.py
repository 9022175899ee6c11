"""The audit log: the actions of operators, and denied calls. Lines of JSON, never inputs or outputs.

Each change has a line, which is on the disk before the response is sent. Status calls, lists and denials have a line
the first time and then one per minute with a count, so neither `edge-agent watch` nor an attacker fills the log. The
log is bounded: at half of `audit_bytes_max` the file replaces audit.1.jsonl.

One thread writes, in the order of the lines; the event loop never waits for the disk. `AuditTimeouts` limits how long
a change waits for its line, and a stop for all lines. Status shows that lines are missing; they are written when the
disk works again.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from edge_agent.durable.atomic_files import sync_directory
from edge_agent.durable.disk_thread import DiskThread
from edge_agent.formats.signed_document import format_timestamp
from edge_agent.refusal_log import LogDeduplicator
from edge_agent.server.roles import NOBODY, Caller

log = structlog.get_logger("edge_agent.server")

FILE_NAME, OLDER_NAME = "audit.jsonl", "audit.1.jsonl"
LOGGED_FIELDS = ("task", "bundle", "path", "no_activate", "prediction_id")
"""The fields of requests that are logged."""
VALUE_CHARS_MAX = 300
WAITING_LINES_MAX = 1024
"""Lines that may wait for the disk; beyond it only changes are written, and their callers wait."""


@dataclass(frozen=True)
class AuditTimeouts:
    """How long to wait for a stalled disk."""

    change_seconds_max: float = 10.0
    """The wait of a change for its line."""
    close_seconds_max: float = 5.0
    """The wait of a stop for all lines."""


AUDIT_TIMEOUTS = AuditTimeouts()


@dataclass(frozen=True)
class AuditEntry:
    """One kind of event."""

    caller: Caller
    call: str
    outcome: str
    """OK, or the reason of the error."""


OTHER_ENTRIES = AuditEntry(NOBODY, "others", "various")


class AuditLog:
    """The log of one daemon. One event loop owns it; its own thread writes until `close`."""

    def __init__(
        self,
        state_dir: Path,
        bytes_max: int,
        wall: Callable[[], float] = time.time,
        waiting_lines_max: int = WAITING_LINES_MAX,
        timeouts: AuditTimeouts = AUDIT_TIMEOUTS,
    ) -> None:
        """Append to the file in `state_dir`."""
        self._file = _AuditFile(state_dir, bytes_max // 2)
        self._thread = DiskThread("audit")
        self._timeouts = timeouts
        self._line_slots = threading.Semaphore(waiting_lines_max)
        self._waiting_lines_max = waiting_lines_max
        self._wall = wall
        self._repeats = LogDeduplicator(OTHER_ENTRIES)
        self.denied: Counter[str] = Counter()
        """Denied calls by reason, including those that share a line."""

    @property
    def problem(self) -> str:
        """Why the last line was not written; empty otherwise."""
        return self._file.problem

    async def record_change(self, caller: Caller, call: str, outcome: str, request: Any) -> None:
        """Log a change; the line is on the disk when this returns, or `problem` has the reason.

        The line is also written if the caller is cancelled.
        """
        seconds = self._timeouts.change_seconds_max
        line = self._line(AuditEntry(caller, call, outcome), _logged_fields(request))
        write = asyncio.wrap_future(self._thread.submit(self._file.write, line, durably=True))
        done, _ = await asyncio.wait([write], timeout=seconds)  # a cancelled caller does not cancel the write
        if done:
            write.result()
        else:
            self._file.fail(f"the disk has not taken a line for {seconds:g} s")

    def note(self, caller: Caller, call: str, outcome: str) -> None:
        """Log a read-only call or a denial, unless the same was logged a moment ago."""
        now, entry = time.monotonic(), AuditEntry(caller, call, outcome)
        if outcome != "OK":
            self.denied[outcome] += 1
        self._write_counts(self._repeats.pop_due(now))
        if self._repeats.record(entry, now):
            self._write(entry, {})

    async def close(self) -> bool:
        """Log the events that were only counted so far; tell whether the disk took all lines in time."""
        self._write_counts(self._repeats.pop_due(float("inf")))
        seconds = self._timeouts.close_seconds_max
        closed = await asyncio.to_thread(self._thread.stop, seconds)
        if not closed:
            log.error("audit_not_closed", seconds=seconds)
        return closed

    def _write(self, entry: AuditEntry, fields: dict[str, Any]) -> None:
        if not self._line_slots.acquire(blocking=False):
            self._file.fail(f"{self._waiting_lines_max} lines wait for the disk")
            return
        write = self._thread.submit(self._file.write, self._line(entry, fields))
        write.add_done_callback(self._finish_write)

    def _finish_write(self, write: Future[None]) -> None:
        self._line_slots.release()
        if error := write.exception():
            log.error("audit_broke", error=type(error).__name__, exc_info=error)

    def _write_counts(self, counts: list[tuple[AuditEntry, int]]) -> None:
        for entry, count in counts:
            self._write(entry, {"times_more": count})

    def _line(self, entry: AuditEntry, fields: dict[str, Any]) -> bytes:
        certificate = {"certificate": entry.caller.fingerprint} if entry.caller.fingerprint else {}
        caller = {"who": entry.caller.name, **certificate, "roles": sorted(entry.caller.roles)}
        line = {"at": format_timestamp(self._wall()), **caller, "call": entry.call, "outcome": entry.outcome, **fields}
        return json.dumps(line, ensure_ascii=True).encode() + b"\n"


class _AuditFile:
    """The file and its predecessor. One thread writes; any thread may read `problem`."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._path, self._older_path = folder / FILE_NAME, folder / OLDER_NAME
        self._bytes_max = bytes_max
        self.problem = ""

    def write(self, line: bytes, *, durably: bool = False) -> None:
        """Append a line. A failed write stops no call; status shows it."""
        try:
            self._append(line, durably)
            self.problem = ""
        except OSError as error:
            self.fail(error.strerror or str(error))

    def fail(self, why: str) -> None:
        """Record that a line was not written."""
        if not self.problem:
            log.warning("audit_not_written", error=why)
        self.problem = f"{self._path} cannot be written: {why}"

    def _append(self, line: bytes, durably: bool) -> None:
        size = self._size()
        if size is not None and size + len(line) > self._bytes_max:
            self._path.replace(self._older_path)
            size = None
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if os.write(fd, line) < len(line):  # the disk is full: no partial line stays
                os.ftruncate(fd, size or 0)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if durably:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        if size is None:
            sync_directory(self._path.parent)

    def _size(self) -> int | None:
        """Return the size of the file in bytes; None if it does not exist."""
        try:
            return self._path.lstat().st_size
        except FileNotFoundError:
            return None


def _logged_fields(request: Any) -> dict[str, Any]:
    known = {field.name for field in request.DESCRIPTOR.fields}
    values = {name: getattr(request, name) for name in LOGGED_FIELDS if name in known}
    return {name: each[:VALUE_CHARS_MAX] if isinstance(each, str) else each for name, each in values.items() if each}
