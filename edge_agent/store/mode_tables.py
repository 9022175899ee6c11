"""Which mode each task is in, by the plan and the operator, and which tasks an alarm has demoted. Part of state.db.

The mode in the plan is stored, so that a site whose metadata has expired stays in its mode. An operator's mode holds
until the plan names another mode than it did when the operator chose, as with bundles.

A demotion to shadow by an alarm is stored in addition to the modes of the plan and the operator, never in their place,
so that everyone can see its origin. Each alarm demotes a bundle once: when the operator takes that back, the same alarm
does not overrule them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from edge_agent.durable.sqlite_database import Database
from edge_agent.formats.plan import Mode
from edge_agent.formats.status_object import Alarm

_MODES = (
    "CREATE TABLE IF NOT EXISTS modes"
    " (task TEXT PRIMARY KEY, planned TEXT NOT NULL, said TEXT NOT NULL, against TEXT NOT NULL) STRICT"
)
_DEMOTIONS = (
    "CREATE TABLE IF NOT EXISTS demotions (task TEXT PRIMARY KEY, permitted TEXT NOT NULL, digest TEXT NOT NULL,"
    " alarm TEXT NOT NULL, seen TEXT NOT NULL, at REAL NOT NULL, against TEXT NOT NULL, taken INTEGER NOT NULL) STRICT"
)


@dataclass(frozen=True)
class RecordedModes:
    """Modes by task, as the plan and the operator set them; a task without one is in the mode of agent.yaml."""

    planned: Mapping[str, Mode]
    said: Mapping[str, Mode]
    """By the operator, as far as it still holds."""

    def of(self, task: str, configured: Mode) -> Mode:
        """Return the mode of a task."""
        return self.said.get(task) or self.planned.get(task) or configured


class ModeTable:
    """The table of modes, in an open database. An empty text = no mode."""

    def __init__(self, database: Database) -> None:
        """Add the table if it is missing; an older agent, to which a site may go back, ignores it."""
        self._db = database
        database.execute(_MODES)

    def read(self) -> RecordedModes:
        """Return the modes that hold."""
        rows = self._db.rows("SELECT task, planned, said, against FROM modes ORDER BY task")
        planned = {task: mode for task, mode, _, _ in rows if mode}
        said = {task: mode for task, now, mode, against in rows if mode and now == against}
        return RecordedModes(planned, said)

    def plan(self, wanted: Mapping[str, Mode]) -> None:
        """Store the modes of all tasks in the plan; writes only changes."""
        before = self.read().planned
        changed = {task: wanted.get(task, "") for task in before.keys() | wanted.keys()}
        rows = [(task, mode) for task, mode in changed.items() if mode != before.get(task, "")]
        if rows:
            with self._db.transaction():
                self._db.executemany(
                    "INSERT INTO modes (task, planned, said, against) VALUES (?, ?, '', '')"
                    " ON CONFLICT (task) DO UPDATE SET planned = excluded.planned",
                    rows,
                )

    def say(self, task: str, mode: Mode | None) -> None:
        """Store the operator's mode of a task; None = the operator no longer sets one."""
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO modes (task, planned, said, against) VALUES (?, '', ?, '')"
                " ON CONFLICT (task) DO UPDATE SET said = excluded.said, against = planned",
                (task, mode or ""),
            )


@dataclass(frozen=True)
class Demotion:
    """The demotion of one task, and which alarms may demote it."""

    permitted: frozenset[str] = frozenset()
    """Alarms that may put it into shadow, by the plan."""
    digest: str = ""
    """Of the bundle that was demoted; empty = the task was never demoted."""
    alarm: Alarm = "errors"
    """Which alarm demoted it."""
    seen: frozenset[str] = frozenset()
    """Alarms that were raised then: none of them demotes it again."""
    at: float = 0.0
    """Seconds since 1970."""
    against: str = ""
    """The mode in the plan then; empty = the plan set none."""
    taken: bool = False
    """The operator has set a mode since."""

    def holds(self, digest: str, planned: str) -> bool:
        """Tell whether it is in force for the bundle that answers, with the mode that the plan sets now."""
        same = bool(digest) and self.digest == digest and self.against == planned
        return same and not self.taken and self.alarm in self.permitted

    def due(self, digest: str, standing: Sequence[Alarm]) -> Alarm | None:
        """Return the alarm that may demote that bundle now, or None."""
        known = self.seen if self.digest == digest else frozenset()
        return next((alarm for alarm in standing if alarm in self.permitted and alarm not in known), None)


class DemotionTable:
    """The table of demotions, in an open database."""

    def __init__(self, database: Database) -> None:
        """Add the table if it is missing; an older agent, to which a site may go back, ignores it."""
        self._db = database
        database.execute(_DEMOTIONS)

    def read(self) -> dict[str, Demotion]:
        """Return the demotions by task, without those by alarms of a newer agent."""
        rows = self._db.rows("SELECT task, permitted, digest, alarm, seen, at, against, taken FROM demotions")
        return {
            task: Demotion(
                frozenset(permitted.split()), digest, alarm, frozenset(seen.split()), at, against, bool(taken)
            )
            for task, permitted, digest, alarm, seen, at, against, taken in rows
            if alarm in get_args(Alarm)
        }

    def permit(self, wanted: Mapping[str, Sequence[Alarm]]) -> None:
        """Store which alarms the plan permits to demote each task; writes only changes."""
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
        """Store that an alarm put a task into shadow; the plan's permission stays as it is."""
        with self._db.transaction():
            self._db.execute(
                "UPDATE demotions SET digest = ?, alarm = ?, seen = ?, at = ?, against = ?, taken = 0 WHERE task = ?",
                (now.digest, now.alarm, " ".join(sorted(now.seen)), now.at, now.against, task),
            )

    def take_back(self, task: str) -> None:
        """Store that the operator has set a mode."""
        with self._db.transaction():
            self._db.execute("UPDATE demotions SET taken = 1 WHERE task = ?", (task,))
