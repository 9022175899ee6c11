"""Folders that only their owner can open, whatever the umask: for decrypted examples and for all that is made of them.

`private_folder` closes a folder and sets the umask of the process for its block. So the files and folders that
libraries and child processes make in the block are closed, too: 0600 and 0700.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal

FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS = 0o077


@contextmanager
def private_folder(folder: Path, *, marks: tuple[str, ...] = ()) -> Iterator[None]:
    """Make a folder for the owner alone; in the block every new file has 0600 and every new folder 0700.

    A folder that exists is closed if it is empty or has one of the files in `marks`, by which this program knows its
    own folders; if others could open it before, everything in it is closed. Another folder of the user keeps its mode.
    The umask belongs to the process: use it in programs that do one thing at a time. Raises OSError.
    """
    make_private(folder, marks=marks)
    before = os.umask(_OTHERS)
    try:
        yield
    finally:
        os.umask(before)


def make_private(folder: Path, *, marks: tuple[str, ...] = ()) -> None:
    """Make a folder, or close one that exists, as `private_folder` does. Raises OSError."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE)
        _close(folder, FOLDER_MODE)  # a default ACL, or the umask, can change the mode of mkdir
        return
    is_ours = any((folder / mark).exists() for mark in marks) or not any(folder.iterdir())
    if is_ours and stat.S_IMODE(folder.stat().st_mode) & _OTHERS:
        close_tree(folder)


def open_private(path: Path, mode: Literal["w", "a"]) -> IO[str]:
    """Open a text file for its owner alone, to write or to append; an existing one is closed. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if mode == "w" else os.O_APPEND)
    fd = os.open(path, flags, FILE_MODE)
    os.fchmod(fd, FILE_MODE)
    return os.fdopen(fd, mode, encoding="utf-8")


def close_tree(folder: Path) -> None:
    """Close a folder and everything in it to others. Raises OSError.

    Links are not followed. A file with a second name elsewhere keeps its mode: it belongs to somebody's model, too.
    """
    _close(folder, FOLDER_MODE)
    for path, folders, names in os.walk(folder):
        for name in folders:
            _close(Path(path, name), FOLDER_MODE)
        for name in names:
            _close(Path(path, name), FILE_MODE)


def _close(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError, FileNotFoundError):  # another user's file, or gone meanwhile
        found = path.lstat()
        shared = stat.S_ISREG(found.st_mode) and found.st_nlink > 1
        if not (shared or stat.S_ISLNK(found.st_mode)) and stat.S_IMODE(found.st_mode) != mode:
            path.chmod(mode)
