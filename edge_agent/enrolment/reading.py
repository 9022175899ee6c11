"""A kit's file: a stick may hold anything, so a link is not followed, and no pipe is waited for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from edge_agent.errors import KitInvalid
from edge_agent.formats.kit import KIT_BYTES_MAX

_REMEDY = "Name the file that the centre made: SITE.kit. 'lsblk' shows where a stick is mounted."


def read(path: Path) -> bytes:
    """Return the bytes of a file, at most one more than a kit may have. Raises KitInvalid."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise KitInvalid(f"{path} is no regular file", remedy=_REMEDY)
            return file.read(KIT_BYTES_MAX + 1)
    except OSError as error:
        raise KitInvalid(f"cannot read {path}: {error.strerror}", remedy=_REMEDY) from None
