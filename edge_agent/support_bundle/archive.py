"""The support bundle's archive: a .tar.gz."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence

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
