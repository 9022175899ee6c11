"""One blob that is being downloaded: hashed as it arrives, kept over a cut, a kill and a reboot, deleted if wrong.

    incoming/blobs/.<sha256>.partial    the bytes so far; disk space for all of them is allocated
    incoming/blobs/<sha256>             all bytes, with the right hash

Bytes are synced at the end of each chunk and when a request ends. A download that resumes after a kill trusts whole
chunks only, so at most one chunk is fetched again. Disk space is allocated before the first byte, so that no download
begins that cannot end.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.durable.atomic_files import sync_directory
from edge_agent.errors import DiskFull, EdgeAgentError, HashMismatch
from edge_agent.uplink.exchange_dirs import FILE_MODE, exchange_errors

REPOSITORY_REMEDY = (
    "Have the central team check its repository: 'edge-convert verify-repo'. It is retried automatically."
)
_READ_BYTES = 1024 * 1024


def partial_name(sha256: str) -> str:
    """Return the name of a blob that is not there whole."""
    return f".{sha256}.partial"


class BlobDownload:
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
            raise HashMismatch(f"blobs/{self.sha256} holds other bytes than its name says", remedy=REPOSITORY_REMEDY)
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


_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE of fallocate(2): blocks behind the end of the file, which stays where it is
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BLOCK_BYTES = 512  # of st_blocks, on every file system: inode(7)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def take_room(fd: int, size_bytes: int, reserve_bytes: int) -> None:
    """Take blocks for a file of that size; of a disk that cannot promise them, only ask whether they are free.

    Raises:
        DiskFull: fewer than `reserve_bytes` would stay free for everything else.
        OSError: the disk failed.
    """
    lacking = size_bytes - os.fstat(fd).st_blocks * _BLOCK_BYTES
    if lacking <= 0:
        return
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if free - lacking < reserve_bytes:
        said = f"a download needs {lacking} more bytes and must leave {reserve_bytes} free, and there are {free}"
        raise DiskFull(
            said,
            remedy="Free some space on the disk of 'incoming_dir', or lower 'disk_reserve_bytes' under 'uplink' in "
            "agent.yaml; it is retried automatically.",
        )
    if _fallocate(fd, _KEEP_SIZE, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code not in _UNKNOWN:
            raise OSError(code, os.strerror(code))
