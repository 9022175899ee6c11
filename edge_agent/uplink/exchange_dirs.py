"""The exchange directories of the uplink, which reads `outbox/` and writes only `receipts/` and `incoming/`.

`incoming/` is laid out like the repository of updates, plus the blobs being downloaded:

    incoming/blobs/.<sha256>.partial    the bytes so far; disk space for the whole blob is allocated
    incoming/blobs/<sha256>             a whole blob with the right hash

A blob is hashed as it arrives, survives a broken connection, a kill and a reboot, and is deleted if it is wrong. Bytes
are synced at the end of each chunk and of each request. A download that resumes after a kill trusts whole chunks only,
so at most one chunk is fetched again. Disk space is allocated before the first byte, so that no download starts for
which there is no room.

A new set of metadata appears atomically: its files are written first, and `timestamp.json`, which refers to all of
them, is renamed into place last. The previous set stays, for a process that is reading it.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import re
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from edge_agent.durable.atomic_files import disk_errors, read_regular, sync_directory, write_durably
from edge_agent.errors import (
    DiskFull,
    DocumentInvalid,
    EdgeAgentError,
    ExchangeDirUnusable,
    HashMismatch,
    SegmentDamaged,
    StateDirUnwritable,
    StoreDamaged,
)
from edge_agent.formats import repository_metadata, segment, signed_document, status_object
from edge_agent.formats.repository_metadata import MetadataFile, MetadataSet
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX

FILE_MODE, FOLDER_MODE = 0o640, 0o750


@dataclass(frozen=True)
class SealedSegment:
    """A segment of the outbox; both files are complete and fit each other."""

    stem: str
    sealed: bytes
    manifest: bytes


@dataclass(frozen=True)
class ExchangeDirs:
    """Folders of one site's files."""

    site: str
    outbox: Path
    receipts: Path

    def files(self) -> dict[str, int]:
        """Return names and sizes of all plain files in the outbox's folder of segments; none if it is missing.

        Raises:
            ExchangeDirUnusable: the folder cannot be read.
        """
        return _files(self.outbox / "segments")

    def segment(self, stem: str) -> SealedSegment | None:
        """Read a segment; None = it is gone, as after a receipt.

        Raises:
            SegmentDamaged, DocumentInvalid, SignatureInvalid: the files do not fit each other or this site.
            ExchangeDirUnusable: the files cannot be read.
        """
        folder = self.outbox / "segments"
        manifest = read_bounded(folder / f"{stem}{segment.MANIFEST_SUFFIX}", DOCUMENT_BYTES_MAX)
        sealed = read_bounded(folder / f"{stem}{segment.SEALED_SUFFIX}", segment.SEALED_BYTES_MAX)
        if manifest is None or sealed is None:
            return None
        signed = segment.verify(manifest, stem, keys=None)
        if signed.body.site != self.site:
            message = f"segment {stem} is of site {signed.body.site!r}; this uplink is for {self.site!r}"
            raise DocumentInvalid(message, remedy="Set 'id' under 'site' in agent.yaml to the site's name.")
        if (signed.body.size_bytes, signed.body.sha256) != (len(sealed), hashlib.sha256(sealed).hexdigest()):
            remedy = "Nothing: the daemon seals the records that it still has again. Check the disk ('dmesg')."
            raise SegmentDamaged(f"segment {stem} differs from its manifest", remedy=remedy)
        return SealedSegment(stem, sealed, manifest)

    def status(self) -> bytes | None:
        """Return the status object; None = there is none yet.

        Raises:
            ExchangeDirUnusable: the status object cannot be read.
        """
        return read_bounded(self.outbox / status_object.FILE_NAME, DOCUMENT_BYTES_MAX)

    def status_mark(self) -> tuple[int, int]:
        """Return time of change and size of the status object, to detect changes; zeros = there is none."""
        try:
            info = (self.outbox / status_object.FILE_NAME).stat()
        except OSError:
            return (0, 0)
        return (info.st_mtime_ns, info.st_size)

    def store_receipts(self, raw: bytes) -> bool:
        """Store receipts for the daemon, which alone can verify their signer; return whether they are new.

        Raises:
            DocumentInvalid, SignatureInvalid: not receipts, or not of this site; the previous ones stay.
            DiskFull, ExchangeDirUnusable: they cannot be written.
        """
        signed = signed_document.verify(raw, segment.Receipts, segment.RECEIPTS_FILE_NAME, keys=None)
        if signed.body.site != self.site:
            message = f"the upstream's receipts are for site {signed.body.site!r}; this is {self.site!r}"
            raise DocumentInvalid(message, remedy="Ask the central team who writes to this site's prefix.")
        path = self.receipts / segment.RECEIPTS_FILE_NAME
        if read_bounded(path, DOCUMENT_BYTES_MAX) == raw:
            return False
        write_exchanged(path, raw)
        return True


@contextmanager
def exchange_errors(path: Path) -> Iterator[None]:
    """Turn errors of disk or permissions into ExchangeDirUnusable; a full disk stays DiskFull."""
    try:
        with disk_errors(path):
            yield
    except (StateDirUnwritable, StoreDamaged) as error:
        raise ExchangeDirUnusable(error.message, path=path) from None


def read_bounded(path: Path, bytes_max: int) -> bytes | None:
    """Return at most the first `bytes_max` + 1 bytes of a file; None = there is no such file.

    Raises:
        ExchangeDirUnusable: the file cannot be read.
    """
    with exchange_errors(path):
        try:
            return read_regular(path, bytes_max)
        except FileNotFoundError:
            return None


def write_exchanged(path: Path, content: bytes) -> None:
    """Write a file that the daemon may read.

    Raises:
        DiskFull, ExchangeDirUnusable: it cannot be written; the previous file stays.
    """
    with exchange_errors(path):
        write_durably(path, content, FILE_MODE)


REPOSITORY_REMEDY = (
    "Have the central team check its repository: 'edge-convert verify-repo'. It is retried automatically."
)
_READ_BYTES = 1024 * 1024


def partial_name(sha256: str) -> str:
    """Return the file name of an incomplete blob."""
    return f".{sha256}.partial"


class BlobDownload:
    """A blob being downloaded. Must be closed."""

    def __init__(self, folder: Path, sha256: str, size_bytes: int, chunk_bytes: int) -> None:
        """Open the partial file, read its whole chunks for the hash, and truncate the rest.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed.
        """
        self.sha256, self.size_bytes = sha256, size_bytes
        self._path = folder / partial_name(sha256)
        self._hash = hashlib.sha256()
        self.received_bytes = 0
        """Bytes so far."""
        self.resumed = False
        """Some bytes are from an earlier process, perhaps from before a power failure."""
        self._chunk_bytes = chunk_bytes
        self._fd = -1
        with self._drop_on_error():
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
            self._resume()

    @property
    def closed(self) -> bool:
        """Whether it was closed, dropped or finished."""
        return self._fd < 0

    def missing(self) -> int:
        """Return how many bytes to request next: up to the end of the chunk or of the blob."""
        return min(self._chunk_bytes - self.received_bytes % self._chunk_bytes, self.size_bytes - self.received_bytes)

    def preallocate(self, reserve_bytes: int) -> None:
        """Allocate disk space for the missing bytes.

        Raises:
            DiskFull, ExchangeDirUnusable: no space, or the disk failed; the bytes so far stay.
        """
        with exchange_errors(self._path):
            preallocate(self._fd, self.size_bytes, reserve_bytes)

    def write(self, piece: bytes) -> None:
        """Write received bytes.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed; the blob is dropped.
        """
        with self._drop_on_error():
            rest = memoryview(piece)
            while rest:
                rest = rest[os.pwrite(self._fd, rest, self.received_bytes + len(piece) - len(rest)) :]
        self._hash.update(piece)
        self.received_bytes += len(piece)

    def sync(self) -> None:
        """Sync the bytes so far.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed; its content is unknown, so the blob is dropped.
        """
        if not self.closed:
            with self._drop_on_error():
                os.fdatasync(self._fd)

    def finish(self) -> None:
        """Check the hash of the complete blob and rename it into place.

        Raises:
            HashMismatch: the hash is wrong; the bytes are dropped.
            DiskFull, ExchangeDirUnusable: the disk failed; the blob is dropped.
        """
        if self._hash.hexdigest() != self.sha256:
            self.drop()
            raise HashMismatch(f"blobs/{self.sha256} has another hash than its name", remedy=REPOSITORY_REMEDY)
        with self._drop_on_error():
            os.fchmod(self._fd, FILE_MODE)
            os.fsync(self._fd)
            self._path.rename(self._path.with_name(self.sha256))
            sync_directory(self._path.parent)
        self.close()

    def drop(self) -> None:
        """Delete the bytes so far and close.

        Raises:
            ExchangeDirUnusable: the disk failed.
        """
        self.close()
        with exchange_errors(self._path):
            self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close; the bytes so far stay."""
        if not self.closed:
            os.close(self._fd)
        self._fd = -1

    def _resume(self) -> None:
        size = os.fstat(self._fd).st_size
        resumed_bytes = size // self._chunk_bytes * self._chunk_bytes if size <= self.size_bytes else 0
        if size != resumed_bytes:
            os.ftruncate(self._fd, resumed_bytes)
        while self.received_bytes < resumed_bytes:
            piece = os.pread(self._fd, min(_READ_BYTES, resumed_bytes - self.received_bytes), self.received_bytes)
            if not piece:
                raise OSError(errno.EIO, "it ends before its end")
            self._hash.update(piece)
            self.received_bytes += len(piece)
        self.resumed = resumed_bytes > 0

    @contextmanager
    def _drop_on_error(self) -> Iterator[None]:
        try:
            with exchange_errors(self._path):
                yield
        except EdgeAgentError:
            self.drop()
            raise


_KEEP_SIZE = 1
"""FALLOC_FL_KEEP_SIZE of fallocate(2): allocate blocks beyond the end of the file without changing its size."""
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_BLOCK_BYTES = 512  # of st_blocks, on every file system: inode(7)

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate64
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


def preallocate(fd: int, size_bytes: int, reserve_bytes: int) -> None:
    """Allocate blocks for a file of that size; where the file system cannot, only check the free space.

    Raises:
        DiskFull: fewer than `reserve_bytes` would stay free.
        OSError: the disk failed.
    """
    missing_bytes = size_bytes - os.fstat(fd).st_blocks * _BLOCK_BYTES
    if missing_bytes <= 0:
        return
    disk = os.fstatvfs(fd)
    free = disk.f_bavail * disk.f_frsize
    if free - missing_bytes < reserve_bytes:
        message = (
            f"a download needs {missing_bytes} more bytes and must leave {reserve_bytes} free, and there are {free}"
        )
        raise DiskFull(
            message,
            remedy="Free some space on the disk of 'incoming_dir', or lower 'disk_reserve_bytes' under 'uplink' in "
            "agent.yaml; it is retried automatically.",
        )
    if _fallocate(fd, _KEEP_SIZE, 0, size_bytes) != 0:
        code = ctypes.get_errno()
        if code not in _UNSUPPORTED:
            raise OSError(code, os.strerror(code))


_BLOB = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.partial")


class IncomingDir:
    """The folder `incoming/` of one site, created by `prepare`."""

    def __init__(self, folder: Path) -> None:
        """Use that folder."""
        self.folder = folder
        self.blobs = folder / "blobs"
        self._metadata = folder / "metadata"

    def prepare(self) -> None:
        """Create the folders.

        Raises:
            DiskFull, ExchangeDirUnusable: they cannot be created.
        """
        for folder in (self._metadata, self.blobs):
            with exchange_errors(folder):
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def current_metadata(self) -> MetadataSet | None:
        """Return the metadata here; None = it is incomplete or inconsistent.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        timestamp = self.read(MetadataFile(repository_metadata.TIMESTAMP, repository_metadata.TIMESTAMP_BYTES_MAX))
        if timestamp is None:
            return None
        traversal = repository_metadata.follow_metadata(timestamp)
        try:
            raw = self.read(next(traversal))
            while raw is not None:
                raw = self.read(traversal.send(raw))
        except StopIteration as end:
            return cast("MetadataSet", end.value)
        except DocumentInvalid:
            pass
        return None

    def read(self, file: MetadataFile) -> bytes | None:
        """Return a file if its size and hash are right; otherwise None.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        raw = read_bounded(self.folder / file.key, file.bytes_max)
        return raw if raw is not None and file.is_this(raw) else None

    def newest_root(self) -> int:
        """Return the last version of an uninterrupted sequence from the oldest root here; 0 = there is no root.

        Raises:
            ExchangeDirUnusable: the folder cannot be read.
        """
        versions = {repository_metadata.root_version(name) for name in _files(self._metadata)} - {0}
        newest = min(versions, default=0)
        while newest + 1 in versions:
            newest += 1
        return newest

    def write_root(self, version: int, raw: bytes) -> None:
        """Write a root.

        Raises:
            DiskFull, ExchangeDirUnusable: it cannot be written.
        """
        write_exchanged(self._metadata / repository_metadata.root_name(version), raw)

    def adopt(self, metadata_set: MetadataSet, previous: MetadataSet | None) -> None:
        """Write a set of metadata; remove files that are neither in it nor in the previous set, except roots.

        Raises:
            DiskFull, ExchangeDirUnusable: it cannot be written; the previous set is still there.
        """
        if metadata_set.plan_sha256:
            write_exchanged(self.blobs / metadata_set.plan_sha256, metadata_set.plan)
        for name, raw in metadata_set.metadata.items():
            write_exchanged(self._metadata / name, raw)
        write_exchanged(self._metadata / repository_metadata.TIMESTAMP, metadata_set.timestamp)
        kept_names = {repository_metadata.TIMESTAMP, *metadata_set.metadata, *(previous.metadata if previous else ())}
        with exchange_errors(self._metadata):
            for name in _files(self._metadata):
                if name not in kept_names and not repository_metadata.root_version(name):
                    (self._metadata / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Return the complete blobs with their sizes in bytes.

        Raises:
            ExchangeDirUnusable: the folder cannot be read.
        """
        return {name: size for name, size in _files(self.blobs).items() if not name.startswith(".")}

    def partial_bytes(self, sha256: str) -> int:
        """Return how many bytes of an incomplete blob are here."""
        try:
            return (self.blobs / partial_name(sha256)).stat(follow_symlinks=False).st_size
        except OSError:
            return 0

    def verify_blob(self, sha256: str) -> bool:
        """Return whether a complete blob has the right hash; otherwise it is removed.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        path = self.blobs / sha256
        with exchange_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:  # noqa: PTH123 - from a descriptor
                is_intact = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if not is_intact:
                path.unlink()
        return is_intact

    def open_download(self, sha256: str, size_bytes: int, chunk_bytes: int) -> BlobDownload:
        """Resume or start a download.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed.
        """
        return BlobDownload(self.blobs, sha256, size_bytes, chunk_bytes)

    def remove_blobs_except(self, hashes: Collection[str]) -> None:
        """Remove all other blobs, complete or partial. Files that are not blobs stay.

        Raises:
            ExchangeDirUnusable: they cannot be removed.
        """
        kept_names = {name for sha256 in hashes for name in (sha256, partial_name(sha256))}
        with exchange_errors(self.blobs):
            for name in _files(self.blobs):
                if name not in kept_names and _BLOB.fullmatch(name):
                    (self.blobs / name).unlink(missing_ok=True)


def _regular_file_sizes(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        try:
            info = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(info.st_mode):
            yield entry.name, info.st_size


def _files(folder: Path) -> dict[str, int]:
    """Return names and sizes of the plain files in a folder; none if it is missing."""
    with exchange_errors(folder):
        try:
            with os.scandir(folder) as entries:
                return dict(_regular_file_sizes(entries))
        except FileNotFoundError:
            return {}
