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
        self._named, self._staging = root / "sha256", root / "staging"
        with disk_errors(root):
            for folder in (root, self._named, self._staging):
                folder.mkdir(mode=0o700, exist_ok=True)
            sync_directory(root.parent)
            sync_directory(root)
            for left in self._staging.iterdir():
                left.unlink()

    @property
    def folder(self) -> Path:
        """The folder of all blobs; it exists."""
        return self._named

    def path(self, sha256: str) -> Path:
        """Return where a blob is or would be."""
        return self._named / sha256[:2] / sha256

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
            _check(artifact, sha256, _digest(chunks))
            return
        target, staged = self.path(sha256), self._staging / sha256
        try:
            _check(artifact, sha256, _write(staged, chunks))
            with disk_errors(target):
                target.parent.mkdir(mode=0o700, exist_ok=True)
                sync_directory(self._named)
                staged.rename(target)
                sync_directory(target.parent)
        finally:
            with disk_errors(staged):
                staged.unlink(missing_ok=True)

    def collect(self, keep: set[str]) -> int:
        """Delete every blob that is not in `keep`; return the bytes freed."""
        freed = 0
        for path, size in self._all():
            if path.name not in keep:
                with disk_errors(path):
                    path.unlink()
                freed += size
        return freed

    def used_bytes(self) -> int:
        """Return the bytes of all blobs."""
        return sum(size for _, size in self._all())

    def free_bytes(self) -> int:
        """Return the bytes that this process may still write to the disk."""
        with disk_errors(self._named):
            status = os.statvfs(self._named)
        return status.f_bavail * status.f_frsize

    def _all(self) -> Iterator[tuple[Path, int]]:
        with disk_errors(self._named):
            for path in list(self._named.glob("[0-9a-f][0-9a-f]/*")):
                if _NAME.fullmatch(path.name):
                    yield path, path.stat().st_size

    def intact(self, sha256: str) -> bool:
        """Tell whether a blob has the right bytes; reads all of it. One that cannot be read is not intact either."""
        try:
            with self.path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            return False


def _digest(chunks: Iterable[bytes]) -> str:
    hashed = hashlib.sha256()
    for chunk in chunks:
        hashed.update(chunk)
    return hashed.hexdigest()


def _write(staged: Path, chunks: Iterable[bytes]) -> str:
    """Write and sync a new file; return the sha256 of its bytes."""
    hashed = hashlib.sha256()
    with disk_errors(staged), staged.open("xb", buffering=0) as file:
        for chunk in chunks:
            hashed.update(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[file.write(rest) :]
        os.fchmod(file.fileno(), 0o400)
        os.fsync(file.fileno())
    return hashed.hexdigest()


def _check(artifact: str, expected: str, actual: str) -> None:
    if actual != expected:
        message = f"{artifact} has sha256 {actual}; the manifest says {expected}"
        raise HashMismatch(message, path=artifact, expected=expected, actual=actual)
