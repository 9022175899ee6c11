"""Writes the bundle: a .tar.gz that only its maker may read, whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path

from edge_agent.support_bundle.gather import Part

MODE = 0o600


def packed(parts: Sequence[Part], folder: str, at: float) -> bytes:
    """Return the archive; `at` in seconds since 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for part in parts:
            if part.content:
                entry = tarfile.TarInfo(f"{folder}/{part.name}")
                entry.size, entry.mode, entry.mtime = len(part.content), MODE, int(at)
                archive.addfile(entry, io.BytesIO(part.content))
    return buffer.getvalue()


def write(path: Path, content: bytes) -> None:
    """Write a file that was not there. Raises OSError; then nothing is left of it."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, MODE)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(fd)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
