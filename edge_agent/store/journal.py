"""The journal of updates: how far each task has come on its way to the bundle that the plan wants. Part of state.db.

A row is written before the step that it names begins. The step that moves the pointer is written with it, in one
transaction: see State.set_active. So after a kill the row and the pointer say together what was under way.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

from edge_agent.durable.database import Database
from edge_agent.formats.status_object import UpdateState

UPDATES = (
    "CREATE TABLE updates (task TEXT PRIMARY KEY, candidate TEXT NOT NULL, version TEXT NOT NULL, wish TEXT NOT NULL,"
    " plan_version INTEGER NOT NULL, incumbent TEXT NOT NULL, state TEXT NOT NULL, since REAL NOT NULL,"
    " reason TEXT NOT NULL, message TEXT NOT NULL, attempts INTEGER NOT NULL, interruptions INTEGER NOT NULL,"
    " watch TEXT NOT NULL) STRICT"
)


@dataclass(frozen=True)
class Progress:
    """One row: the columns of the table, in their order."""

    task: str
    candidate: str
    """Digest of the bundle that the plan wants."""
    version: str
    wish: str
    """What exactly the plan wants, as a hash: what failed or is held stays so until it changes."""
    plan_version: int
    incumbent: str
    """Digest of the bundle that answered when the plan began to want this; empty = none."""
    state: UpdateState
    since: float
    """When it came into that state, in seconds since 1970 by a clock that may be wrong."""
    reason: str = ""
    message: str = ""
    attempts: int = 0
    """Tries that something on this machine stopped."""
    interruptions: int = 0
    """Tries in which the daemon itself ended."""
    watch: str = ""
    """probation: what was counted so far, in the words of its module."""


_NAMES = tuple(field.name for field in fields(Progress))
_ROWS = f"SELECT {', '.join(_NAMES)} FROM updates ORDER BY task"  # noqa: S608 - names of this module
_WRITE = f"REPLACE INTO updates ({', '.join(_NAMES)}) VALUES ({', '.join('?' * len(_NAMES))})"  # noqa: S608


class Journal:
    """The table, in an open database."""

    def __init__(self, database: Database) -> None:
        """Use a database that has the table."""
        self._db = database

    def rows(self) -> dict[str, Progress]:
        """Return all rows, by task."""
        found = (Progress(**dict(zip(_NAMES, row, strict=True))) for row in self._db.rows(_ROWS))
        return {progress.task: progress for progress in found}

    def write(self, progress: Progress) -> None:
        """Write the row of a task; inside a transaction."""
        self._db.execute(_WRITE, astuple(progress))

    def record(self, progress: Progress) -> None:
        """Write the row of a task, in a transaction of its own."""
        with self._db.transaction():
            self.write(progress)

    def forget(self, task: str) -> None:
        """Delete the row of a task."""
        with self._db.transaction():
            self._db.execute("DELETE FROM updates WHERE task = ?", (task,))
