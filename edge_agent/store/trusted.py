"""What trust in updates must not forget, in state.db: roots, and how far each role's metadata had come.

The files that TUF's client keeps beside it may be lost or damaged at any time; these rows may not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from edge_agent.durable.database import Database

TABLES = (
    "CREATE TABLE trust (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE roots (version INTEGER PRIMARY KEY, metadata BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True)
class Floor:
    """How far the metadata of one role had come: nothing older is believed while its signers still count."""

    version: int
    signers: tuple[str, ...]
    """Ids of the keys whose signatures made it count."""
    issued_at: float
    """Newest time that the role's metadata were signed with, in seconds since 1970."""
    listed: Mapping[str, int] = field(default_factory=dict)
    """snapshot: the version of each metadata file that it names, by file name."""
    sha256: str = ""
    """timestamp: of what is signed in it; empty = an earlier agent did not write it down."""


class Trusted:
    """The tables, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the tables."""
        self._db = database

    def roots(self) -> dict[int, bytes]:
        """Return all roots that were ever believed, by version, the oldest first."""
        return dict(self._db.rows("SELECT version, metadata FROM roots ORDER BY version"))

    def add_roots(self, roots: Mapping[int, bytes], *, anew: bool = False) -> None:
        """Remember roots; `anew` forgets those before: this site was given another root of trust."""
        with self._db.transaction():
            if anew:
                self._db.execute("DELETE FROM roots")
            self._db.executemany("REPLACE INTO roots (version, metadata) VALUES (?, ?)", roots.items())

    def floors(self) -> dict[str, Floor]:
        """Return the floors by role. Raises StoreDamaged."""
        floors = {}
        for role, value in self._db.rows("SELECT name, value FROM trust"):
            try:
                read = json.loads(value)
                listed = {str(name): int(version) for name, version in read.get("listed", {}).items()}
                seen = listed, str(read.get("sha256", ""))
                floors[role] = Floor(int(read["version"]), tuple(read["signers"]), float(read["issued_at"]), *seen)
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self._db.damaged(f"{self._db.path} says nonsense of the role '{role}'") from None
        return floors

    def raise_floors(self, floors: Mapping[str, Floor]) -> None:
        """Write floors, all or none."""
        rows = [(role, json.dumps(asdict(floor))) for role, floor in floors.items()]
        with self._db.transaction():
            self._db.executemany("REPLACE INTO trust (name, value) VALUES (?, ?)", rows)
