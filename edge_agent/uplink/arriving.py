"""One blob on its way: hashed while it comes, kept over a cut, a kill and a reboot, and gone when it is another one.

    incoming/blobs/.<sha256>.partial    the bytes so far; its room is taken to the end
    incoming/blobs/<sha256>             all of them, and they are the right ones

Bytes are synced at the end of each chunk, and when a request ends. Whoever goes on after a kill trusts whole chunks
only, so at most one is fetched again.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.durable.atomic_files import sync_directory
from edge_agent.errors import EdgeAgentError, HashMismatch
from edge_agent.uplink.exchange import FILE_MODE, exchange_errors
from edge_agent.uplink.room import take_room

MEND = "Have the centre check its repository: 'edge-convert verify-repo'. It is tried again by itself."
_READ_BYTES = 1024 * 1024


def partial_name(sha256: str) -> str:
    """Return the name of a blob that is not there whole."""
    return f".{sha256}.partial"


class Arriving:
    """A blob that is being written. Close it."""

    def __init__(self, folder: Path, sha256: str, size_bytes: int, chunk_bytes: int) -> None:
        """Open what is there of it and read that to its last whole chunk; what follows is cut off.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed.
        """
        self.sha256, self.size_bytes = sha256, size_bytes
        self._path = folder / partial_name(sha256)
        self._hash = hashlib.sha256()
        self.have = 0
        """Bytes so far."""
        self.resumed = False
        """Some of them are from an earlier process, perhaps from before a power cut."""
        self._chunk_bytes = chunk_bytes
        self._fd = -1
        with self._or_drop():
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            self._go_on()

    @property
    def closed(self) -> bool:
        """Whether it was closed, dropped or finished."""
        return self._fd < 0

    def missing(self) -> int:
        """Return how many bytes to ask for next: up to the end of the chunk, or of the blob."""
        return min(self._chunk_bytes - self.have % self._chunk_bytes, self.size_bytes - self.have)

    def take_room(self, reserve_bytes: int) -> None:
        """Take the room for what is missing.

        Raises:
            DiskFull, ExchangeDirUnusable: there is none, or the disk failed; what has come stays.
        """
        with exchange_errors(self._path):
            take_room(self._fd, self.size_bytes, reserve_bytes)

    def take(self, piece: bytes) -> None:
        """Write what has come.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed; the blob is dropped.
        """
        with self._or_drop():
            rest = memoryview(piece)
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self.have + len(piece) - len(rest)) :]
        self._hash.update(piece)
        self.have += len(piece)

    def sync(self) -> None:
        """Make durable what has come.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed. What of it is there nobody knows: the blob is dropped.
        """
        if not self.closed:
            with self._or_drop():
                os.fdatasync(self._fd)

    def finish(self) -> None:
        """Give it its name, now that all of it is there.

        Raises:
            HashMismatch: these are other bytes; they are dropped.
            DiskFull, ExchangeDirUnusable: the disk failed; the blob is dropped.
        """
        if self._hash.hexdigest() != self.sha256:
            self.drop()
            raise HashMismatch(f"blobs/{self.sha256} holds other bytes than its name says", remedy=MEND)
        with self._or_drop():
            os.fchmod(self._fd, FILE_MODE)
            os.fsync(self._fd)
            self._path.rename(self._path.with_name(self.sha256))
            sync_directory(self._path.parent)
        self.close()

    def drop(self) -> None:
        """Remove what has come, and close it.

        Raises:
            ExchangeDirUnusable: the disk failed.
        """
        self.close()
        with exchange_errors(self._path):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave it as it is."""
        if not self.closed:
            os.close(self._fd)
        self._fd = -1

    def _go_on(self) -> None:
        found = os.fstat(self._fd).st_size
        kept = found // self._chunk_bytes * self._chunk_bytes if found <= self.size_bytes else 0
        if found != kept:
            os.ftruncate(self._fd, kept)
        while self.have < kept:
            piece = os.pread(self._fd, min(_READ_BYTES, kept - self.have), self.have)
            if not piece:
                raise OSError(errno.EIO, "it ends before its end")
            self._hash.update(piece)
            self.have += len(piece)
        self.resumed = kept > 0

    @contextmanager
    def _or_drop(self) -> Iterator[None]:
        try:
            with exchange_errors(self._path):
                yield
        except EdgeAgentError:
            self.drop()
            raise
