"""Which tasks were put into shadow by an alarm, and which alarms the plan lets do that. Part of state.db.

It is remembered beside what the plan and the operator say, never in their place, so that everyone can see who did it.
Each alarm does it once for a bundle: who takes it back is not overruled by the same alarm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from edge_agent.durable.database import Database
from edge_agent.formats.status_object import Alarm

_TABLE = (
    "CREATE TABLE IF NOT EXISTS demotions (task TEXT PRIMARY KEY, permitted TEXT NOT NULL, digest TEXT NOT NULL,"
    " alarm TEXT NOT NULL, seen TEXT NOT NULL, at REAL NOT NULL, against TEXT NOT NULL, taken INTEGER NOT NULL) STRICT"
)


@dataclass(frozen=True)
class Demotion:
    """What is remembered of a task."""

    permitted: frozenset[str] = frozenset()
    """Alarms that may put it into shadow, as the plan says."""
    digest: str = ""
    """Of the bundle that was demoted; empty = none was."""
    alarm: Alarm = "errors"
    """Which one did it."""
    seen: frozenset[str] = frozenset()
    """Alarms that stood then: none of them does it again."""
    at: float = 0.0
    """Seconds since 1970."""
    against: str = ""
    """The mode that the plan wanted then; empty = it said none."""
    taken: bool = False
    """The operator has spoken since."""

    def holds(self, digest: str, planned: str) -> bool:
        """Tell whether it is in force for the bundle that answers, with what the plan says now."""
        same = bool(digest) and self.digest == digest and self.against == planned
        return same and not self.taken and self.alarm in self.permitted

    def due(self, digest: str, standing: Sequence[Alarm]) -> Alarm | None:
        """Return the alarm that may demote that bundle now; None = none may."""
        known = self.seen if self.digest == digest else frozenset()
        return next((alarm for alarm in standing if alarm in self.permitted and alarm not in known), None)


class DemotionTable:
    """The table, in an open database."""

    def __init__(self, database: Database) -> None:
        """Add the table if need be: an older agent, to which a site may go back, does not mind it."""
        self._db = database
        database.execute(_TABLE)

    def read(self) -> dict[str, Demotion]:
        """Return what is remembered, by task; alarms of a newer agent are left out."""
        rows = self._db.rows("SELECT task, permitted, digest, alarm, seen, at, against, taken FROM demotions")
        return {
            task: Demotion(
                frozenset(permitted.split()), digest, alarm, frozenset(seen.split()), at, against, bool(taken)
            )
            for task, permitted, digest, alarm, seen, at, against, taken in rows
            if alarm in get_args(Alarm)
        }

    def permit(self, wanted: Mapping[str, Sequence[Alarm]]) -> None:
        """Remember what the plan permits of all tasks; writes only what is new."""
        before = {task: each.permitted for task, each in self.read().items()}
        changed = {
            task: wanted.get(task, ())
            for task in before.keys() | wanted.keys()
            if frozenset(wanted.get(task, ())) != before.get(task, frozenset())
        }
        if changed:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT INTO demotions VALUES (?, ?, '', 'errors', '', 0, '', 0)"
                    " ON CONFLICT (task) DO UPDATE SET permitted = excluded.permitted",
                    [(task, " ".join(alarms)) for task, alarms in changed.items()],
                )

    def demote(self, task: str, now: Demotion) -> None:
        """Remember that an alarm put a task into shadow; the plan's permission stays as it is."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE demotions SET digest = ?, alarm = ?, seen = ?, at = ?, against = ?, taken = 0 WHERE task = ?",
                (now.digest, now.alarm, " ".join(sorted(now.seen)), now.at, now.against, task),
            )

    def take_back(self, task: str) -> None:
        """Remember that the operator has spoken."""
        with self._db.transaction():
            self._db.execute("UPDATE demotions SET taken = 1 WHERE task = ?", (task,))
