"""Files and links that are written whole or not at all, and survive a power cut."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

MODE = 0o644


def write(path: Path, content: bytes, mode: int = MODE) -> None:
    """Write a file next to its path, and rename it."""
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
    """Make a link point to a target; an earlier link is replaced in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_path(path)
    partial.unlink(missing_ok=True)
    partial.symlink_to(target)
    partial.replace(path)
    sync_folder(path.parent)


def partial_path(path: Path) -> Path:
    """Return the temporary path of a file or link before its rename; a killed setup can leave it behind."""
    return path.with_name(f".{path.name}.partial")


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder; it need not exist. A mount point is emptied, and stays."""
    if path.is_dir() and path.is_mount():
        for child in path.iterdir():
            remove(child)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_folder(path: Path) -> None:
    """Sync the names in a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """Sync the whole file system of a folder."""
    subprocess.run(["sync", "-f", str(folder)], check=True)  # noqa: S603, S607 - coreutils; Python has no syncfs(2)


def size_of(folder: Path) -> int:
    """Return the bytes in a folder, or of a file; 0 if it does not exist. Raises PermissionError."""
    if folder.is_file():
        return folder.lstat().st_size
    files = (Path(parent) / name for parent, _, names in os.walk(folder, onerror=_raise_denied) for name in names)
    return sum(path.lstat().st_size for path in files if path.is_file() and not path.is_symlink())


def _raise_denied(error: OSError) -> None:
    if isinstance(error, PermissionError):
        raise error
