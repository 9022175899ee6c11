"""What this box remembers of its enrolment: reading it, and holding it against the disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

from edge_agent.errors import ConfigInvalid, DocumentInvalid
from edge_agent.formats import enrolment
from edge_agent.formats.enrolment import ENROLMENT_BYTES_MAX, Enrolment


def load(path: Path) -> Enrolment | None:
    """Read it; None = this box was never enrolled. Raises ConfigInvalid."""
    try:
        with path.open("rb") as file:
            return enrolment.parse(file.read(ENROLMENT_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Run the command with sudo.") from None
    except DocumentInvalid as error:
        remedy = f"Move it away, and enrol with this box's own kit again: it was {path}."
        raise ConfigInvalid(f"{path} is damaged: {error.message}", remedy=remedy) from None


def intact(known: Enrolment) -> bool:
    """Tell whether every file is as it was written."""
    return all(_sha256_of(Path(path)) == sha256 for path, sha256 in known.files.items())


def _sha256_of(path: Path) -> str:
    """Return the sha256 of a file; empty = it is not there, or cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""
