"""What the store needs from its disk: names that last, and errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.errors import DiskFull, StateDirUnwritable, StoreDamaged

CHECK_DISK = "Check the disk; the kernel's log ('dmesg') may say more."
# EFBIG: the file system, or a limit of the process, takes no file that large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the store's own disk into DiskFull, StateDirUnwritable or StoreDamaged."""
    try:
        yield
    except OSError as error:
        said = f"cannot use {path}: {error.strerror}"
        if error.errno in _FULL:
            raise DiskFull(said, path=path) from None
        if error.errno in _REFUSED:
            raise StateDirUnwritable(said, path=path) from None
        raise StoreDamaged(said, remedy=CHECK_DISK, path=path) from None


class Ballast:
    """A file of nothing: on a full disk even deleting needs room for the database's log, and this gives it."""

    BYTES = 1 << 20

    def __init__(self, path: Path) -> None:
        """Name the file; `lay` makes it."""
        self._path = path

    def lay(self) -> None:
        """Take the room if there is some; without it the next full disk is only harder to mend."""
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                os.posix_fallocate(fd, 0, self.BYTES)
            finally:
                os.close(fd)
        except OSError:
            self.drop()

    def drop(self) -> None:
        """Give the room back."""
        self._path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file whole or not at all: beside its place, synced, renamed, the directory synced.

    Raises:
        DiskFull, StateDirUnwritable, StoreDamaged: this disk failed; what was at `path` is still there.
    """
    partial = path.with_name(f".{path.name}.partial")
    with disk_errors(path):
        try:
            fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
            with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 - from a descriptor
                rest = memoryview(content)
                while rest:
                    rest = rest[file.write(rest) :]
                os.fchmod(fd, mode)
                os.fsync(fd)
            partial.rename(path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)
