"""What updates store in state.db: how far each task has come towards its bundle in the plan, and what is trusted.

A row of the journal is written before the step that it names begins. The step that moves the pointer is written with
its row in one transaction: see `StateDatabase.set_active`. So after a kill the row and the pointer together show which
step was under way.

The trusted roots and version floors are rows as well, because the files of the TUF client next to state.db can be lost
or damaged at any time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field, fields

from edge_agent.durable.sqlite_database import Database
from edge_agent.formats.status_object import UpdateState

JOURNAL_TABLE = (
    "CREATE TABLE updates (task TEXT PRIMARY KEY, candidate TEXT NOT NULL, version TEXT NOT NULL, wish TEXT NOT NULL,"
    " plan_version INTEGER NOT NULL, incumbent TEXT NOT NULL, state TEXT NOT NULL, since REAL NOT NULL,"
    " reason TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL, interruptions INTEGER NOT NULL,"
    " watch TEXT NOT NULL) STRICT"
)
TRUST_TABLES = (
    "CREATE TABLE trust (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE roots (version INTEGER PRIMARY KEY, metadata BLOB NOT NULL) STRICT",
)


@dataclass(frozen=True)
class UpdateProgress:
    """A row of the journal: the columns of the table, in their order."""

    task: str
    candidate: str
    """Digest of the bundle in the plan."""
    version: str
    wish: str
    """What the plan requests, as a hash: a task that failed or is held stays so until it changes."""
    plan_version: int
    incumbent: str
    """Digest of the bundle that answered when the plan first named the candidate; empty = none."""
    state: UpdateState
    since: float
    """When it entered that state, in seconds since 1970 by a clock that may be wrong."""
    reason: str = ""
    message: str = ""
    attempts: int = 0
    """Tries that failed because of this machine."""
    interruptions: int = 0
    """Tries during which the daemon ended."""
    watch: str = ""
    """probation: its counts so far, in the format of its module."""


_NAMES = tuple(column.name for column in fields(UpdateProgress))
_ROWS = f"SELECT {', '.join(_NAMES)} FROM updates ORDER BY task"  # noqa: S608 - names of this module
_WRITE = f"REPLACE INTO updates ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608


class UpdateJournal:
    """The journal of updates, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the table."""
        self._db = database

    def rows(self) -> dict[str, UpdateProgress]:
        """Return all rows, by task."""
        found = (UpdateProgress(**dict(zip(_NAMES, row, strict=True))) for row in self._db.rows(_ROWS))
        return {progress.task: progress for progress in found}

    def write(self, progress: UpdateProgress) -> None:
        """Write the row of a task; inside a transaction."""
        self._db.execute(_WRITE, astuple(progress))

    def record(self, progress: UpdateProgress) -> None:
        """Write the row of a task, in a transaction of its own."""
        with self._db.transaction():
            self.write(progress)

    def forget(self, task: str) -> None:
        """Delete the row of a task."""
        with self._db.transaction():
            self._db.execute("DELETE FROM updates WHERE task = ?", (task,))


@dataclass(frozen=True)
class MetadataFloor:
    """The newest metadata of one role: older metadata is refused while its signers are still trusted."""

    version: int
    signers: tuple[str, ...]
    """Ids of the keys whose signatures made it valid."""
    issued_at: float
    """The newest signing time of the role's metadata, in seconds since 1970."""
    listed: Mapping[str, int] = field(default_factory=dict)
    """snapshot: the version of each metadata file that it names, by file name."""
    sha256: str = ""
    """timestamp: of its signed part; empty = an earlier agent did not store it."""


class TrustTable:
    """The trusted roots and the floors, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the tables."""
        self._db = database

    def roots(self) -> dict[int, bytes]:
        """Return all roots that were ever trusted, by version, the oldest first."""
        return dict(self._db.rows("SELECT version, metadata FROM roots ORDER BY version"))

    def add_roots(self, roots: Mapping[int, bytes], *, replace: bool = False) -> None:
        """Store roots; `replace` deletes the earlier ones, because this site was given another root of trust."""
        with self._db.transaction():
            if replace:
                self._db.execute("DELETE FROM roots")
            self._db.executemany("REPLACE INTO roots (version, metadata) VALUES (?, ?)", roots.items())

    def floors(self) -> dict[str, MetadataFloor]:
        """Return the floors by role. Raises StoreDamaged."""
        floors = {}
        for role, value in self._db.rows("SELECT name, value FROM trust"):
            try:
                read = json.loads(value)
                listed = {str(name): int(version) for name, version in read.get("listed", {}).items()}
                seen = listed, str(read.get("sha256", ""))
                floors[role] = MetadataFloor(
                    int(read["version"]), tuple(read["signers"]), float(read["issued_at"]), *seen
                )
            except (ValueError, TypeError, KeyError, AttributeError):
                raise self._db.damaged(f"{self._db.path} holds an invalid floor of the role '{role}'") from None
        return floors

    def raise_floors(self, floors: Mapping[str, MetadataFloor]) -> None:
        """Write floors, all or none."""
        rows = [(role, json.dumps(asdict(floor))) for role, floor in floors.items()]
        with self._db.transaction():
            self._db.executemany("REPLACE INTO trust (name, value) VALUES (?, ?)", rows)
