"""Content-addressed files: `sha256/<2 hex>/<64 hex>` below one directory.

A blob gets its name only when all its bytes are on the disk: it is written to `staging/` and hashed, synced, renamed,
and the directory synced. Files that a power cut leaves in `staging/` are deleted when the store is opened. One process
owns the directory, and one thread at a time uses it.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from edge_agent.durable.atomic_files import disk_errors, sync_directory
from edge_agent.errors import HashMismatch

_NAME = re.compile(r"[0-9a-f]{64}")


class BlobStore:
    """The blobs below one directory."""

    def __init__(self, root: Path) -> None:
        """Create the directories, and delete the files that an interrupted install left in staging."""
        self._blobs, self._staging = root / "sha256", root / "staging"
        with disk_errors(root):
            for folder in (root, self._blobs, self._staging):
                folder.mkdir(mode=0o700, exist_ok=True)
            sync_directory(root.parent)
            sync_directory(root)
            for leftover in self._staging.iterdir():
                leftover.unlink()

    @property
    def folder(self) -> Path:
        """The folder of all blobs; it exists."""
        return self._blobs

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be."""
        return self._blobs / sha256[:2] / sha256

    def size(self, sha256: str) -> int:
        """Return the bytes of a blob; -1 if there is none."""
        with disk_errors(self.path(sha256)):
            try:
                return self.path(sha256).stat().st_size
            except FileNotFoundError:
                return -1

    def put(self, artifact: str, sha256: str, chunks: Iterable[bytes]) -> None:
        """Store a file's bytes unless an intact blob is there; a damaged one is replaced.

        The chunks are always read and hashed, so that a bad bundle is refused whatever the store holds already.

        Raises:
            HashMismatch: the chunks are not the file; `artifact` is its name in the bundle.
            DiskFull, StateDirUnwritable, StoreDamaged: this disk failed. Nothing is left behind.
        """
        if self.intact(sha256):
            hasher = hashlib.sha256()
            for chunk in chunks:
                hasher.update(chunk)
            _check_sha256(artifact, sha256, hasher.hexdigest())
            return
        target, staged = self.path(sha256), self._staging / sha256
        try:
            _check_sha256(artifact, sha256, _write(staged, chunks))
            with disk_errors(target):
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._blobs)
                staged.rename(target)
                sync_directory(target.parent)
        finally:
            with disk_errors(staged):
                staged.unlink(missing_ok=True)

    def collect(self, keep: set[str]) -> int:
        """Delete every blob that is not in `keep`; return the bytes freed."""
        freed = 0
        for path, size in self._blobs_and_sizes():
            if path.name not in keep:
                with disk_errors(path):
                    path.unlink()
                freed += size
        return freed

    def used_bytes(self) -> int:
        """Return the bytes of all blobs."""
        return sum(size for _, size in self._blobs_and_sizes())

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write to the disk."""
        with disk_errors(self._blobs):
            status = os.statvfs(self._blobs)
        return status.f_bavail * status.f_frsize

    def _blobs_and_sizes(self) -> Iterator[tuple[Path, int]]:
        with disk_errors(self._blobs):
            for path in list(self._blobs.glob("[0-9a-f][0-9a-f]/*")):
                if _NAME.fullmatch(path.name):
                    yield path, path.stat().st_size

    def intact(self, sha256: str) -> bool:
        """Tell whether a blob has the right bytes; reads all of it. One that cannot be read is not intact either."""
        try:
            with self.path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False


def _write(staged: Path, chunks: Iterable[bytes]) -> str:
    """Write and sync a new file; return the sha256 of its bytes."""
    hasher = hashlib.sha256()
    with disk_errors(staged), staged.open("xb", buffering=0) as file:
        for chunk in chunks:
            hasher.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
    return hasher.hexdigest()


def _check_sha256(artifact: str, expected: str, actual: str) -> None:
    if actual != expected:
        message = f"{artifact} has sha256 {actual}; the manifest says {expected}"
        raise HashMismatch(message, path=artifact, expected=expected, actual=actual)
