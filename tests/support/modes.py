"""Finds files and folders that users other than their owner can open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path


@contextmanager
def umask(mask: int) -> Iterator[None]:
    """Make new files without these rights, where nothing else sets their mode."""
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


def open_umask() -> AbstractContextManager[None]:
    """Make new files open to everybody, where nothing else closes them."""
    return umask(0)


def not_private(folder: Path) -> list[str]:
    """Return what in a folder, itself included, is not 0600 or 0700; hard links of files elsewhere do not count."""
    found = []
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        wanted = 0o700 if stat.S_ISDIR(status.st_mode) else 0o600
        linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
        if stat.S_IMODE(status.st_mode) != wanted and not (linked or stat.S_ISLNK(status.st_mode)):
            found.append(f"{path}: {stat.S_IMODE(status.st_mode):o}")
    return found
