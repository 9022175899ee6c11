"""Files and links that are there whole or not at all, and last through a power cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

MODE = 0o644


def write(path: Path, content: bytes, mode: int = MODE) -> None:
    """Write a file beside its place and rename it there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    with partial.open("wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    sync_folder(path.parent)


def link(path: Path, target: Path | str) -> None:
    """Let a link lead to a target, in one step wherever it led before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(path)
    sync_folder(path.parent)


def partial_path(path: Path) -> Path:
    """Return where a file or a link is made before it is renamed; a setup that was killed can leave it there."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; it may be gone already. A mount point is emptied, and stays."""
    if path.is_dir() and path.is_mount():
        for each in path.iterdir():
            remove(each)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Make everything durable on the disk of a folder."""
    subprocess.run(["sync", "-f", str(folder)], check=True)  # noqa: S603, S607 - coreutils; Python has no syncfs(2)


def size_of(folder: Path) -> int:
    """Return the bytes in a folder, or of a file; 0 when it is not there. Raises PermissionError."""
    if folder.is_file():
        return folder.lstat().st_size
    listed = (Path(at) / name for at, _, names in os.walk(folder, onerror=_raise_denied) for name in names)
    return sum(path.lstat().st_size for path in listed if path.is_file() and not path.is_symlink())


def _raise_denied(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error
