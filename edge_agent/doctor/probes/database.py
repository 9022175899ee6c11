"""Reads state.db in a copy: whoever opens the daemon's own file leaves files beside it that the daemon may not use."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.probes.place import content
from edge_agent.errors import EdgeAgentError
from edge_agent.store.state_database import StateDatabase
from edge_agent.store.update_records import UpdateProgress

COPY_BYTES_MAX = 64 * 2**20


@dataclass(frozen=True)
class Stored:
    """What state.db remembers."""

    signed: float | None
    """Newest time that the fleet has signed, in seconds since 1970."""
    journal: Mapping[str, UpdateProgress]


def stored(path: Path) -> Stored | Unseen:
    """Read it."""
    try:
        return _read_copy(path)
    except PermissionError:
        return Unseen(f"this user may not read {path}")
    except FileNotFoundError:
        return Stored(None, {})
    except OSError as error:
        return Unseen(f"{path} cannot be read: {error.strerror}")
    except EdgeAgentError as error:
        return Unseen(error.message)


def damage(path: Path) -> str:
    """Return what SQLite finds wrong with it; empty = nothing."""
    try:
        _read_copy(path)
    except EdgeAgentError as error:
        return error.message
    return ""


def _read_copy(path: Path) -> Stored:
    """Copy a database with its log, and read it. Raises OSError, SiteError."""
    with tempfile.TemporaryDirectory(prefix="edge-doctor-") as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if not suffix or source.exists():
                _copy(source, copy.with_name(copy.name + suffix))
        try:
            state = StateDatabase(copy, may_create=False)
        except EdgeAgentError as error:
            error.message = error.message.replace(str(copy), str(path))
            raise
        try:
            floors = state.trusted.floors().values()
            return Stored(max((floor.issued_at for floor in floors), default=None), state.journal.rows())
        finally:
            state.close()


def _copy(source: Path, target: Path) -> None:
    copied = content(source, COPY_BYTES_MAX + 1)
    if len(copied) > COPY_BYTES_MAX:
        raise OSError(0, f"it has more than {COPY_BYTES_MAX} bytes")
    target.write_bytes(copied)
