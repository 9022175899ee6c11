"""Uploads objects, each at most once and never over another one, and keeps notes of the uploaded ones.

An object counts as uploaded only after it was seen in the store. The notes are not receipts; they only save requests:

    notes_dir/lock             locked while an uplink runs
    notes_dir/uploaded.jsonl   one line for each segment that is verified upstream
    notes_dir/uplink.json      the state of the uplink (formats/uplink_state.py)

A line is written and synced after the upload was verified. A lost line costs one request to the store; an incomplete or
foreign line is dropped. The first line names the store: for another store, the notes are ignored.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Self

import structlog

from edge_agent.config import UplinkConfig
from edge_agent.durable.atomic_files import stat_or_none
from edge_agent.errors import (
    DiskFull,
    EdgeAgentError,
    ExchangeDirUnusable,
    ExchangeError,
    StateDirInUse,
    UploadConflict,
    UpstreamFailed,
)
from edge_agent.formats import segment
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX
from edge_agent.uplink import transfer_schedule
from edge_agent.uplink.exchange_dirs import FOLDER_MODE, ExchangeDirs, SealedSegment, exchange_errors, write_exchanged
from edge_agent.uplink.object_store import ObjectMetadata, ObjectStore, SiteObjectKeys
from edge_agent.uplink.transfer_schedule import SET_ASIDE_SECONDS, Clocks, TransferState

SCHEMA = "edge-agent/uplink-notes/v1"
STALE_LINES_MAX = 1000
"""Lines of removed segments after which the file is rewritten."""


class UploadLog:
    """The locked notes of one uplink. Must be closed."""

    def __init__(self, folder: Path, upstream: str) -> None:
        """Create the folder if necessary, lock it, and read the notes for this store.

        Raises:
            StateDirInUse: another process has locked the folder.
            DiskFull, ExchangeDirUnusable: the folder cannot be used.
        """
        self.folder = folder
        self._upstream = upstream
        self._path = folder / "uploaded.jsonl"
        with exchange_errors(folder):
            # The state directory, if the uplink starts before the daemon, which creates it with the same mode.
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._fd = -1
        try:
            _take_lock(self._lock, folder)
            self._uploaded_at = self._read()
            self._rewrite()
        except BaseException:
            self.close()
            raise

    def add(self, stem: str, at: float) -> None:
        """Record durably that a segment is uploaded; `at` is seconds since 1970.

        Raises:
            DiskFull, ExchangeDirUnusable: the line could not be written.
        """
        if self._fd < 0:
            self._rewrite()
        line = _line(stem, at)
        with exchange_errors(self._path):
            try:
                while line:  # a disk that becomes full may take only a part of it
                    line = line[os.write(self._fd, line) :]
                os.fsync(self._fd)
            except OSError:
                # The content on the disk is unknown: the whole file is rewritten before the next line.
                os.close(self._fd)
                self._fd = -1
                raise
        self._uploaded_at[stem] = at

    def is_settled(self, stem: str, now: float, recheck_seconds: float) -> bool:
        """Return whether a segment is uploaded and needs no check; a wrong clock only costs a request."""
        uploaded_at = self._uploaded_at.get(stem)
        return uploaded_at is not None and 0 <= now - uploaded_at < recheck_seconds

    def keep(self, stems: Collection[str]) -> None:
        """Forget segments that are no longer in the outbox.

        Raises:
            DiskFull, ExchangeDirUnusable: the notes could not be rewritten.
        """
        stale = self._uploaded_at.keys() - set(stems)
        if len(stale) > STALE_LINES_MAX:
            for stem in stale:
                del self._uploaded_at[stem]
            self._rewrite()

    def close(self) -> None:
        """Release the lock."""
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
        with exchange_errors(self._path):
            lines = self._path.read_bytes().splitlines() if stat_or_none(self._path) else []
        head, *rest = [_parse_line(line) for line in lines] or [{}]
        if head.get("schema") != SCHEMA or head.get("upstream") != self._upstream:
            return {}
        uploaded_at = {}
        for entry in rest:
            stem, at = entry.get("segment"), entry.get("at")
            if isinstance(stem, str) and segment.parse_name(stem) and isinstance(at, int | float):
                uploaded_at[stem] = float(at)
        return uploaded_at

    def _rewrite(self) -> None:
        head = json.dumps({"schema": SCHEMA, "upstream": self._upstream}).encode() + b"\n"
        lines = [_line(stem, at) for stem, at in sorted(self._uploaded_at.items())]
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        write_exchanged(self._path, b"".join([head, *lines]))
        with exchange_errors(self._path):
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)


def _take_lock(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
        remedy = "Stop the other uplink; one site needs one."
        raise StateDirInUse(f"{folder} is in use by process {owner}", remedy=remedy, pid=owner) from None
    with contextlib.suppress(OSError):  # the process id is informative only; a full disk must not prevent the start
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)


def _line(stem: str, at: float) -> bytes:
    return json.dumps({"segment": stem, "at": round(at, 3)}).encode() + b"\n"


def _parse_line(line: bytes) -> dict[str, object]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}


log = structlog.get_logger("edge_agent.uplink")


class OutboxUploader:
    """Uploads the outbox of one site, and fetches its receipts. One task uses it."""

    def __init__(
        self,
        config: UplinkConfig,
        exchange: ExchangeDirs,
        store: ObjectStore,
        upload_log: UploadLog,
        clocks: Clocks,
        state: TransferState,
    ) -> None:
        """Upload to a store; the outcomes go into `state`."""
        self._config, self._exchange, self._store, self._log = config, exchange, store, upload_log
        self._clocks, self._state = clocks, state
        self._keys = SiteObjectKeys(exchange.site)

    def scan(self) -> None:
        """Look for segments that are not uploaded yet. Raises ExchangeDirUnusable, DiskFull."""
        state, wall = self._state, self._clocks.now()
        files = self._exchange.files()
        state.waiting = transfer_schedule.unsent_segments(
            files,
            lambda stem: stem in state.set_aside or self._log.is_settled(stem, wall, self._config.recheck_seconds),
        )
        self._log.keep([name.partition(".")[0] for name in files])
        state.status_mark = self._exchange.status_mark()

    async def send_segment(self, stem: str) -> bool:
        """Upload a segment; return whether the store answered."""
        try:
            sealed_segment = self._exchange.segment(stem)
        except ExchangeError as error:
            self._state.defer(stem, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return False
        if sealed_segment is None:
            self._state.waiting.pop(stem, None)
            return False
        try:
            sent_bytes = await upload_segment(self._store, self._keys, sealed_segment)
        except UploadConflict as error:
            self._state.defer(stem, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return True
        self._state.sent_bytes += sent_bytes
        self._log.add(stem, self._clocks.now())
        self._state.waiting.pop(stem, None)
        self._state.sent_segments += 1
        log.info("segment_sent", segment=stem, bytes=sent_bytes)
        return True

    async def send_status(self) -> bool:
        """Upload the status object; return whether the store answered."""
        mark, raw = self._exchange.status_mark(), self._exchange.status()
        self._state.status_mark = self._state.status_sent = mark
        self._state.heartbeat_at = self._clocks.running() + self._config.heartbeat_seconds
        if raw is None:
            return False
        try:
            self._state.sent_bytes += await upload_replacing(self._store, self._keys.status(), raw)
        except EdgeAgentError:
            self._state.status_sent = (0, 0)
            raise
        return True

    async def fetch_receipts(self) -> bool:
        """Fetch the receipts of the central team; return whether the store answered."""
        state = self._state
        state.receipts_at = self._clocks.running() + self._config.receipts_seconds
        state.receipts_unwritten = False
        fetched = await self._store.get(self._keys.receipts(), DOCUMENT_BYTES_MAX, state.receipts_tag)
        if fetched is None or fetched.same:
            return True
        try:
            if self._exchange.store_receipts(fetched.content):
                log.info("receipts_fetched", bytes=len(fetched.content))
        except ExchangeError as error:
            self._state.defer(segment.RECEIPTS_FILE_NAME, error, self._clocks.running() + SET_ASIDE_SECONDS)
            return True
        except (DiskFull, ExchangeDirUnusable):
            state.receipts_unwritten = True
            raise
        state.set_aside.pop(segment.RECEIPTS_FILE_NAME, None)
        state.receipts_tag = fetched.tag
        return True


async def upload_segment(store: ObjectStore, keys: SiteObjectKeys, sealed_segment: SealedSegment) -> int:
    """Upload the sealed file, then its manifest; return the bytes sent.

    Raises:
        UploadConflict: the store holds something else under one of the names; it is left alone.
        UpstreamFailed: the object in the store is not the one that was sent.
        CapacityError, SiteError: the store does not accept it now.
    """
    sent_bytes = await upload_immutable(store, keys.sealed(sealed_segment.stem), sealed_segment.sealed)
    return sent_bytes + await upload_immutable(store, keys.manifest(sealed_segment.stem), sealed_segment.manifest)


async def upload_immutable(store: ObjectStore, key: str, content: bytes) -> int:
    """Put content that never changes; return the bytes sent, 0 = the store already had it.

    A store that is not atomic may contain only the beginning of the content after an interrupted upload, which is
    replaced; any other object is a conflict.
    """
    existing = await store.head(key)
    if existing is not None:
        is_same = existing.matches(content)
        if is_same is None or (is_same is False and existing.size < len(content)):
            fetched = await store.get(key, len(content))
            is_same = None if fetched is None else fetched.content == content
            if is_same is False and fetched is not None and content.startswith(fetched.content):
                is_same = None
        if is_same:
            return 0
        if is_same is False:
            message = f"{store.name}: {key} holds {existing.size} other bytes; {len(content)} were to be sent"
            raise UploadConflict(message, key=key)
    return await upload_replacing(store, key, content)


async def upload_replacing(store: ObjectStore, key: str, content: bytes) -> int:
    """Put content that may replace other content; return the bytes sent.

    Raises:
        UpstreamFailed: the object in the store is not the one that was sent.
        CapacityError, SiteError: the store does not accept it now.
    """
    tag = await store.put(key, content)
    existing = await store.head(key)
    if existing is None or not await _holds(store, key, existing, content, tag):
        size = "nothing" if existing is None else f"{existing.size} bytes"
        message = f"{store.name}: {key} has {size} after the upload of {len(content)} bytes, or other content"
        raise UpstreamFailed(message, key=key)
    return len(content)


async def _holds(store: ObjectStore, key: str, existing: ObjectMetadata, content: bytes, tag: str) -> bool:
    is_same = existing.matches(content)
    if is_same is not None:
        return is_same
    if tag and existing.tag:
        # The object is the one from this request, which TLS or the request signature protected.
        return tag == existing.tag
    fetched = await store.get(key, len(content))
    return fetched is not None and fetched.content == content
