"""Which files and folders others than their owner can open."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def open_umask() -> Iterator[None]:
    """Make new files open to everybody, where nothing else closes them."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


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
