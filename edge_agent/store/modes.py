"""Which mode each task is in, as the plan and the operator said last. Part of state.db.

What the plan says is remembered, so that a site whose metadata has expired stays in its mode. An operator's word holds
until the plan says something else than it did when the operator spoke, as with bundles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.durable.database import Database
from edge_agent.formats.plan import Mode

_TABLE = (
    "CREATE TABLE IF NOT EXISTS modes"
    " (task TEXT PRIMARY KEY, planned TEXT NOT NULL, said TEXT NOT NULL, against TEXT NOT NULL) STRICT"
)


@dataclass(frozen=True)
class Modes:
    """Modes by task, by whom they were set; a task that neither names is in the mode of agent.yaml."""

    planned: Mapping[str, Mode]
    said: Mapping[str, Mode]
    """By the operator, where that holds."""

    def of(self, task: str, configured: Mode) -> Mode:
        """Return the mode of a task."""
        return self.said.get(task) or self.planned.get(task) or configured


class ModeTable:
    """The table, in an open database. An empty text = nothing was said."""

    def __init__(self, database: Database) -> None:
        """Add the table if need be: an older agent, to which a site may go back, does not mind it."""
        self._db = database
        database.execute(_TABLE)

    def read(self) -> Modes:
        """Return what holds."""
        rows = self._db.rows("SELECT task, planned, said, against FROM modes ORDER BY task")
        planned = {task: mode for task, mode, _, _ in rows if mode}
        said = {task: mode for task, now, mode, against in rows if mode and now == against}
        return Modes(planned, said)

    def plan(self, wanted: Mapping[str, Mode]) -> None:
        """Remember what the plan says of all tasks; writes only what is new."""
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
        """Remember what the operator says of a task; None = nothing any more."""
        with self._db.transaction():
            self._db.execute(
                "INSERT INTO modes (task, planned, said, against) VALUES (?, '', ?, '')"
                " ON CONFLICT (task) DO UPDATE SET said = excluded.said, against = planned",
                (task, mode or ""),
            )
