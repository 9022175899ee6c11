"""The token file: created once, readable by its owner only."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from edge_agent.errors import WebTokenUnusable

_BYTES = 32
_CHARS_MIN = 32
_READ_BYTES_MAX = 1024


def read_or_create_token(path: Path) -> str:
    """Return the token, which the first call creates. Raises WebTokenUnusable."""
    try:
        return read_token(path)
    except FileNotFoundError:
        return _create(path)


def read_token(path: Path) -> str:
    """Return the existing token. Raises WebTokenUnusable, FileNotFoundError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise WebTokenUnusable(f"cannot read {path}: {error.strerror}", path=path) from None
    with os.fdopen(fd, encoding="ascii", errors="replace") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_mode & 0o077:
            raise WebTokenUnusable(f"other users may read {path}, or it is not a regular file", path=path)
        token = file.read(_READ_BYTES_MAX).strip()
    if len(token) < _CHARS_MIN or not (token.isascii() and token.isprintable()):
        raise WebTokenUnusable(f"{path} does not hold a token", path=path)
    return token


def _create(path: Path) -> str:
    token = secrets.token_urlsafe(_BYTES)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, token)
    except FileExistsError:  # another console created it first
        return read_token(path)
    except OSError as error:
        raise WebTokenUnusable(f"cannot write {path}: {error.strerror}", path=path) from None
    return token


def _write(path: Path, token: str) -> None:
    """Write the file completely, then link it. In another user's folder root gives it to that user."""
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(f"{token}\n")
            if os.geteuid() == 0:
                folder = path.parent.stat()
                os.fchown(fd, folder.st_uid, folder.st_gid)
        os.link(partial, path)
    finally:
        os.unlink(partial)  # noqa: PTH108 - beside os.link
