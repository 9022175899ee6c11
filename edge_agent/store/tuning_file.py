"""settings.json: which settings of its engines suit this machine, by name of what they were measured for.

Nothing depends on it: what cannot be read is measured again. A file of its own, because engines report while state.db
is in other hands, and an agent to which a site may go back does not look at it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from edge_agent.durable.atomic_files import write_durably

StoredTuning = dict[str, dict[str, str]]


class TuningFile:
    """The file; it need not be there."""

    def __init__(self, path: Path) -> None:
        """Name it."""
        self._path = path

    def read(self) -> StoredTuning:
        """Return what is in it; nothing if it is missing, cannot be read or is not what `write` writes."""
        try:
            found = json.loads(self._path.read_bytes())
            return {
                str(key): {str(name): str(value) for name, value in settings.items()} for key, settings in found.items()
            }
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}

    def write(self, settings: Mapping[str, Mapping[str, str]]) -> None:
        """Write all of it. Raises DiskFull, StateDirUnwritable or StoreDamaged."""
        write_durably(self._path, json.dumps(settings, indent=1).encode())
