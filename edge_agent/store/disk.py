"""What the store needs from its disk: names that last, and errors that say what to do."""

from __future__ import annotations

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


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
