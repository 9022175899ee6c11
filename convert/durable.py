"""Files that are whole and last: written beside their place, synced, then renamed into it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of what is being written: after a crash it may be deleted."""
FULL_BYTES = 1024 * 1024
"""A disk with less room than this is full."""


def check_room(path: Path) -> None:
    """Raise OSError if the disk of a file is full: for libraries that fail to write it and do not say why."""
    if shutil.disk_usage(path.parent).free < FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def write(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file: after a crash at any point the old one is there, or the new one. Raises OSError."""
    with replacing(path) as partial:
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` when it is left without an error."""
    partial = path.with_name(path.name + PARTIAL)
    try:
        yield partial
        sync(partial)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync(path: Path) -> None:
    """Make a file's content last."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_directory(path: Path) -> None:
    """Make the names in a directory last."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
