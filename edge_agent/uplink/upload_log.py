"""The uplink's own notes: what it has brought up already. Unsigned, and no receipt: they only save it from asking.

    notes_dir/lock             held while an uplink works
    notes_dir/uploaded.jsonl   one line for each segment that is verified upstream
    notes_dir/uplink.json      what the uplink says of itself (formats/uplink_state.py)

A line is written and synced after the upload was verified. A note that is lost costs one question to the upstream; a
torn or foreign one is dropped. The first line names the upstream: for another one the notes count for nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Self

from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import StateDirInUse
from edge_agent.formats import segment
from edge_agent.uplink.exchange_dirs import FILE_MODE, FOLDER_MODE, exchange_errors

SCHEMA = "edge-agent/uplink-notes/v1"
STALE_LINES_MAX = 1000
"""Lines of segments that are gone, before the file is written again."""


class UploadLog:
    """Notes of one uplink, locked. Close them."""

    def __init__(self, folder: Path, upstream: str) -> None:
        """Lock the folder, which is made if need be, and read what was noted for this upstream.

        Raises:
            StateDirInUse: another process holds it.
            DiskFull, ExchangeDirUnusable: it cannot be used.
        """
        self.folder = folder
        self._upstream = upstream
        self._path = folder / "uploaded.jsonl"
        with exchange_errors(folder):
            folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._fd = -1
        try:
            _take(self._lock, folder)
            self._noted = self._read()
            self._rewrite()
        except BaseException:
            self.close()
            raise

    def add(self, stem: str, at: float) -> None:
        """Note durably that a segment is up; `at` is seconds since 1970.

        Raises:
            DiskFull, ExchangeDirUnusable: it could not be written; it is not noted.
        """
        if self._fd < 0:
            self._rewrite()
        with exchange_errors(self._path):
            try:
                _write_all(self._fd, _line(stem, at))
                os.fsync(self._fd)
            except OSError:
                # What of it is on the disk nobody knows: the whole file is written before the next line is.
                os.close(self._fd)
                self._fd = -1
                raise
        self._noted[stem] = at

    def is_settled(self, stem: str, now: float, recheck_seconds: float) -> bool:
        """Tell whether a segment is up and need not be looked for; a clock that was wrong only costs a question."""
        noted = self._noted.get(stem)
        return noted is not None and 0 <= now - noted < recheck_seconds

    def keep(self, stems: Collection[str]) -> None:
        """Forget segments that are gone from the outbox.

        Raises:
            DiskFull, ExchangeDirUnusable: the notes could not be written again.
        """
        gone = self._noted.keys() - set(stems)
        if len(gone) > STALE_LINES_MAX:
            for stem in gone:
                del self._noted[stem]
            self._rewrite()

    def close(self) -> None:
        """Give the lock back."""
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close."""
        self.close()

    def _read(self) -> dict[str, float]:
        try:
            with exchange_errors(self._path):
                lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        except FileNotFoundError:
            lines = []
        head, *rest = [_parsed(line) for line in lines] or [{}]
        if head.get("schema") != SCHEMA or head.get("upstream") != self._upstream:
            return {}
        found = {}
        for each in rest:
            stem, at = each.get("segment"), each.get("at")
            if isinstance(stem, str) and segment.parse_name(stem) and isinstance(at, int | float):
                found[stem] = float(at)
        return found

    def _rewrite(self) -> None:
        head = json.dumps({"schema": SCHEMA, "upstream": self._upstream}).encode() + b"\n"
        lines = [_line(stem, at) for stem, at in sorted(self._noted.items())]
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with exchange_errors(self._path):
            write_durably(self._path, b"".join([head, *lines]), FILE_MODE)
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        remedy = "Stop the other uplink; one site needs one."
        raise StateDirInUse(f"{folder} is in use by process {owner}", remedy=remedy, pid=owner) from None
    with contextlib.suppress(OSError):  # the number is for people; a full disk must not be in the way
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _write_all(fd: int, line: bytes) -> None:
    """Write a line, of which a disk that gets full may take a part."""
    while line:
        line = line[os.write(fd, line) :]


def _line(stem: str, at: float) -> bytes:
    return json.dumps({"segment": stem, "at": round(at, 3)}).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, object]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
