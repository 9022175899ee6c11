"""The monitoring tables in spool.db: counts by bundle and day, bounded in rows. All calls are inside a transaction.

They were added without a new schema version, so that a site can go back to an older agent, which ignores them. A series
is one bundle at this site; a new bundle starts a new series, and the previous ones stay for comparison.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.durable.sqlite_database import Database
from edge_agent.formats.example_records import task_of_key
from edge_agent.formats.status_object import Alarm
from edge_agent.monitoring.answer_observations import (
    AgreementCount,
    AlarmState,
    ConfidenceCount,
    DailySpend,
    LabelCount,
    ModelDisagreement,
)

SERIES_OF_TASK_MAX = 5
SERIES_MAX = 2000
DAYS_MAX = 400
AGREEMENT_ROWS_MAX = 40_000
"""Per series, so a task with a thousand labels keeps fewer days of agreement by label."""
DISAGREEMENTS_MAX = 200
_TABLES = (
    "CREATE TABLE IF NOT EXISTS field_series (series INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL,"
    " digest TEXT NOT NULL, version TEXT NOT NULL, target REAL NOT NULL, delta REAL NOT NULL, first_at REAL NOT NULL,"
    " last_at REAL NOT NULL, UNIQUE (task, digest)) STRICT",
    "CREATE TABLE IF NOT EXISTS field_days (series INTEGER NOT NULL, day INTEGER NOT NULL, name TEXT NOT NULL,"
    " count INTEGER NOT NULL, PRIMARY KEY (series, day, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_agreement (series INTEGER NOT NULL, day INTEGER NOT NULL, source TEXT NOT NULL,"
    " label TEXT NOT NULL, pairs INTEGER NOT NULL, agreed INTEGER NOT NULL, PRIMARY KEY (series, day, source, label))"
    " STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_confidence (series INTEGER NOT NULL, hundredths INTEGER NOT NULL,"
    " answers INTEGER NOT NULL, pairs INTEGER NOT NULL, agreed INTEGER NOT NULL, PRIMARY KEY (series, hundredths))"
    " STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_reviewed (series INTEGER NOT NULL, hundredths INTEGER NOT NULL,"
    " pairs INTEGER NOT NULL, agreed INTEGER NOT NULL, found_right INTEGER NOT NULL, PRIMARY KEY (series, hundredths))"
    " STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_labels (series INTEGER NOT NULL, label TEXT NOT NULL, answers INTEGER NOT NULL,"
    " examples INTEGER NOT NULL, PRIMARY KEY (series, label)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_money (task TEXT NOT NULL, day INTEGER NOT NULL, questions INTEGER NOT NULL,"
    " micros INTEGER NOT NULL, PRIMARY KEY (task, day)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_tests (series INTEGER NOT NULL, name TEXT NOT NULL, state TEXT NOT NULL,"
    " PRIMARY KEY (series, name)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_alarms (series INTEGER NOT NULL, alarm TEXT NOT NULL, since REAL NOT NULL,"
    " said TEXT NOT NULL, ended REAL NOT NULL, PRIMARY KEY (series, alarm)) STRICT, WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS field_disagreements (row INTEGER PRIMARY KEY AUTOINCREMENT, series INTEGER NOT NULL,"
    " prediction_id TEXT NOT NULL UNIQUE, at REAL NOT NULL, source TEXT NOT NULL, ours TEXT NOT NULL,"
    " theirs TEXT NOT NULL, confidence REAL NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS field_disagreements_of ON field_disagreements (series, row)",
)
_SERIES_TABLES = (
    "field_days", "field_agreement", "field_confidence", "field_reviewed", "field_labels", "field_tests",
    "field_alarms", "field_disagreements", "field_series",
)  # fmt: skip


@dataclass(frozen=True)
class SeriesRow:
    """One bundle at this site."""

    series: int
    task: str
    """TASK/QUESTION of a question of a decide task."""
    digest: str
    version: str
    target: float
    """0 = the bundle has no risk guarantee."""
    delta: float
    first: float
    last: float


def _of_largest_task(newest_first: Sequence[SeriesRow], count: int) -> list[SeriesRow]:
    """Return `count` series of the task that has most, its questions included: first those without a guarantee, then
    the least recently counted ones. `newest_first` is in that order.

    Callers name the questions of a task with `open_questions`; these must not displace the series of other tasks.
    """
    if count <= 0:
        return []
    ((largest, _),) = Counter(task_of_key(row.task) for row in newest_first).most_common(1)
    candidates = (row for row in reversed(newest_first) if task_of_key(row.task) == largest)
    return sorted(candidates, key=lambda row: row.target > 0)[:count]


class MonitoringTables:
    """The series of this site with their counts, in an open database. One thread uses it."""

    def __init__(self, database: Database) -> None:
        """Create missing tables."""
        self._db = database
        with database.transaction():
            for statement in _TABLES:
                database.execute(statement)

    # --- series ------------------------------------------------------------------------------------------------------

    def all_series(self, task: str = "") -> list[SeriesRow]:
        """Return the series of a task with those of its questions, or all, by task and the newest first."""
        query = (
            "SELECT series, task, digest, version, target, delta, first_at, last_at FROM field_series"
            " WHERE ? IN ('', task) OR substr(task, 1, length(?) + 1) = ? || '/' ORDER BY task, series DESC"
        )
        return [SeriesRow(*row) for row in self._db.rows(query, (task, task, task))]

    def find(self, task: str, digest: str) -> SeriesRow | None:
        """Return the series of a bundle; None = nothing was counted for it."""
        return next((row for row in self.all_series(task) if row.digest == digest), None)

    def last_series(self, task: str) -> int:
        """Return the series of a task that was counted last; -1 = none."""
        query = "SELECT series FROM field_series WHERE task = ? ORDER BY last_at DESC, series DESC LIMIT 1"
        return next((int(series) for (series,) in self._db.rows(query, (task,))), -1)

    def begin(self, row: SeriesRow) -> SeriesRow:
        """Create a series; delete others beyond the limits, of its task or of the task that has most."""
        self._db.execute(
            "INSERT INTO field_series (task, digest, version, target, delta, first_at, last_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (row.task, row.digest, row.version, row.target, row.delta, row.first, row.last),
        )
        created = self.find(row.task, row.digest)
        assert created is not None, "just inserted"
        # Sorted by last use: after a rollback, the bundle that answers has an old series.
        ranked = sorted(
            self.all_series(),
            key=lambda other: (other.series == created.series, other.last, other.series),
            reverse=True,
        )
        surplus = [other for other in ranked if other.task == row.task][SERIES_OF_TASK_MAX:]
        others = [other for other in ranked[1:] if other not in surplus]
        for other in [*surplus, *_of_largest_task(others, len(others) + 1 - SERIES_MAX)]:
            for table in _SERIES_TABLES:
                self._db.execute(f"DELETE FROM {table} WHERE series = ?", (other.series,))  # noqa: S608 - our own names
        return created

    def record_answer_time(self, series: int, at: float) -> None:
        """Record the time of the last answer."""
        self._db.execute("UPDATE field_series SET last_at = ? WHERE series = ?", (at, series))

    # --- counts ------------------------------------------------------------------------------------------------------

    def add_days(self, series: int, counts: Counter[tuple[int, str]]) -> None:
        """Add to the counts by day and name."""
        self._db.executemany(
            "INSERT INTO field_days VALUES (?, ?, ?, ?)"
            " ON CONFLICT (series, day, name) DO UPDATE SET count = count + excluded.count",
            [(series, day, name, count) for (day, name), count in counts.items()],
        )

    def days(self, series: int) -> dict[int, dict[str, int]]:
        """Return the counts by day and name."""
        counts: dict[int, dict[str, int]] = {}
        query = "SELECT day, name, count FROM field_days WHERE series = ? ORDER BY day, name"
        for day, name, count in self._db.rows(query, (series,)):
            counts.setdefault(day, {})[name] = count
        return counts

    def total(self, task: str, name: str) -> int:
        """Return the sum of a count over all stored days and bundles of a task."""
        of_task = "SELECT series FROM field_series WHERE task = ?"
        query = f"SELECT coalesce(sum(count), 0) FROM field_days WHERE series IN ({of_task}) AND name = ?"  # noqa: S608
        ((count_sum,),) = self._db.rows(query, (task, name))
        return int(count_sum)

    def newest_day(self, series: int) -> int:
        """Return the last day with counts; -1 = none."""
        ((day,),) = self._db.rows("SELECT coalesce(max(day), -1) FROM field_days WHERE series = ?", (series,))
        return int(day)

    def prune(self, series: int) -> None:
        """Delete days beyond the newest DAYS_MAX, and the oldest rows of agreement beyond AGREEMENT_ROWS_MAX."""
        # Two statements: in a scalar subquery, SQLite 3.46 ignores the OFFSET of a DISTINCT and returns the first row.
        query = "SELECT DISTINCT day FROM field_days WHERE series = ? ORDER BY day DESC LIMIT 1 OFFSET ?"
        for (oldest,) in self._db.rows(query, (series, DAYS_MAX)):
            self._db.execute("DELETE FROM field_days WHERE series = ? AND day <= ?", (series, oldest))
            self._db.execute("DELETE FROM field_agreement WHERE series = ? AND day <= ?", (series, oldest))
        query = "SELECT day FROM field_agreement WHERE series = ? ORDER BY day DESC LIMIT 1 OFFSET ?"
        for (oldest,) in self._db.rows(query, (series, AGREEMENT_ROWS_MAX)):
            self._db.execute("DELETE FROM field_agreement WHERE series = ? AND day <= ?", (series, oldest))

    def add_agreement(self, series: int, rows: Iterable[AgreementCount]) -> None:
        """Add to the counts of agreement."""
        self._db.executemany(
            "INSERT INTO field_agreement VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (series, day, source, label)"
            " DO UPDATE SET pairs = pairs + excluded.pairs, agreed = agreed + excluded.agreed",
            [(series, row.day, row.source, row.label, row.pairs, row.agreed) for row in rows],
        )

    def agreement(self, series: int) -> tuple[AgreementCount, ...]:
        """Return the agreement by day, source and label."""
        query = "SELECT day, source, label, pairs, agreed FROM field_agreement WHERE series = ? ORDER BY 1, 2, 3"
        return tuple(AgreementCount(*row) for row in self._db.rows(query, (series,)))

    def fair_agreement(self, series: int) -> tuple[int, int]:
        """Return the number of pairs from FAIR_SOURCES, and how many agreed."""
        query = "SELECT coalesce(sum(pairs), 0), coalesce(sum(agreed), 0) FROM field_confidence WHERE series = ?"
        ((pairs, agreed),) = self._db.rows(query, (series,))
        return pairs, agreed

    def add_confidences(self, series: int, rows: Iterable[ConfidenceCount]) -> None:
        """Add to the counts by confidence."""
        self._db.executemany(
            "INSERT INTO field_confidence VALUES (?, ?, ?, ?, ?) ON CONFLICT (series, hundredths) DO UPDATE SET"
            " answers = answers + excluded.answers, pairs = pairs + excluded.pairs, agreed = agreed + excluded.agreed",
            [(series, row.hundredths, row.answers, row.pairs, row.agreed) for row in rows],
        )

    def add_reviewed(self, series: int, hundredths: int, *, agreed: bool, right: bool) -> None:
        """Add a person's judgement of a pair from FAIR_SOURCES."""
        self._db.execute(
            "INSERT INTO field_reviewed VALUES (?, ?, 1, ?, ?) ON CONFLICT (series, hundredths) DO UPDATE SET"
            " pairs = pairs + 1, agreed = agreed + excluded.agreed, found_right = found_right + excluded.found_right",
            (series, hundredths, agreed, right),
        )

    def confidences(self, series: int) -> tuple[ConfidenceCount, ...]:
        """Return the counts by confidence, the lowest first."""
        query = (
            "SELECT hundredths, answers, known.pairs, known.agreed, coalesce(said.pairs, 0), coalesce(said.agreed, 0),"
            " coalesce(found_right, 0) FROM field_confidence AS known LEFT JOIN field_reviewed AS said"
            " USING (series, hundredths) WHERE series = ? ORDER BY 1"
        )
        return tuple(ConfidenceCount(*row) for row in self._db.rows(query, (series,)))

    def add_labels(self, series: int, rows: Iterable[LabelCount]) -> None:
        """Add to the counts of answers and examples by label."""
        self._db.executemany(
            "INSERT INTO field_labels VALUES (?, ?, ?, ?) ON CONFLICT (series, label) DO UPDATE SET"
            " answers = answers + excluded.answers, examples = examples + excluded.examples",
            [(series, row.label, row.answers, row.examples) for row in rows],
        )

    def labels(self, series: int) -> tuple[LabelCount, ...]:
        """Return the counts by label."""
        query = "SELECT label, answers, examples FROM field_labels WHERE series = ? ORDER BY 1"
        return tuple(LabelCount(*row) for row in self._db.rows(query, (series,)))

    def add_spending(self, rows: Iterable[DailySpend]) -> None:
        """Add to the spending; delete the days of a task beyond the newest DAYS_MAX."""
        for row in rows:
            self._db.execute(
                "INSERT INTO field_money VALUES (?, ?, ?, ?) ON CONFLICT (task, day) DO UPDATE SET"
                " questions = questions + excluded.questions, micros = micros + excluded.micros",
                (row.task, row.day, row.questions, row.micros),
            )
            self._db.execute(
                "DELETE FROM field_money WHERE task = ? AND day <= coalesce((SELECT day FROM field_money WHERE task = ?"
                " ORDER BY day DESC LIMIT 1 OFFSET ?), -1)",
                (row.task, row.task, DAYS_MAX),
            )

    def spending(self, task: str) -> tuple[DailySpend, ...]:
        """Return the spending on a task, or on all, by task and day."""
        query = "SELECT task, day, questions, micros FROM field_money WHERE ? IN ('', task) ORDER BY 1, 2"
        return tuple(DailySpend(*row) for row in self._db.rows(query, (task,)))

    def add_disagreements(self, series: int, disagreements: Iterable[ModelDisagreement]) -> None:
        """Store inputs on which the models disagreed; only the newest DISAGREEMENTS_MAX are kept."""
        self._db.executemany(
            "INSERT INTO field_disagreements (series, prediction_id, at, source, ours, theirs, confidence)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prediction_id) DO NOTHING",
            [
                (series, pair.prediction_id, pair.at, pair.source, pair.ours, pair.theirs, pair.confidence)
                for pair in disagreements
            ],
        )
        self._db.execute(
            "DELETE FROM field_disagreements WHERE series = ? AND row <= coalesce((SELECT row FROM field_disagreements"
            " WHERE series = ? ORDER BY row DESC LIMIT 1 OFFSET ?), -1)",
            (series, series, DISAGREEMENTS_MAX),
        )

    def disagreements(self, series: int) -> tuple[ModelDisagreement, ...]:
        """Return the inputs on which the models disagreed, the newest first."""
        query = (
            "SELECT prediction_id, at, source, ours, theirs, confidence FROM field_disagreements WHERE series = ?"
            " ORDER BY row DESC"
        )
        return tuple(ModelDisagreement(*row) for row in self._db.rows(query, (series,)))

    def forget(self, prediction_id: str) -> None:
        """Delete an input; the counts remain."""
        self._db.execute("DELETE FROM field_disagreements WHERE prediction_id = ?", (prediction_id,))


class AlarmTables:
    """The test states of each series, and the alarms that they raised, in the same database."""

    def __init__(self, database: Database) -> None:
        """Use the tables that `MonitoringTables` created."""
        self._db = database

    def states(self, series: int) -> dict[str, Any]:
        """Return the test states by test name."""
        rows = self._db.rows("SELECT name, state FROM field_tests WHERE series = ?", (series,))
        return {name: json.loads(state) for name, state in rows}

    def save(self, series: int, states: dict[str, Any]) -> None:
        """Write test states."""
        self._db.executemany(
            "INSERT INTO field_tests VALUES (?, ?, ?) ON CONFLICT (series, name) DO UPDATE SET state = excluded.state",
            [(series, name, json.dumps(state)) for name, state in states.items()],
        )

    def raise_alarm(self, series: int, alarm: Alarm, since: float, message: str) -> None:
        """Raise an alarm; an active one keeps its start time."""
        self._db.execute(
            "INSERT INTO field_alarms VALUES (?, ?, ?, ?, 0) ON CONFLICT (series, alarm) DO UPDATE SET"
            " since = iif(ended > 0, excluded.since, since), said = excluded.said, ended = 0",
            (series, alarm, since, message),
        )

    def end_alarm(self, series: int, alarm: Alarm, at: float) -> None:
        """End an alarm."""
        update = "UPDATE field_alarms SET ended = ? WHERE series = ? AND alarm = ? AND ended = 0"
        self._db.execute(update, (at, series, alarm))

    def alarms(self, *, active_only: bool) -> tuple[tuple[int, AlarmState], ...]:
        """Return alarms with their series, by task: the active ones, or all."""
        rows = self._db.rows(
            "SELECT series, task, digest, alarm, since, said, ended FROM field_alarms JOIN field_series USING (series)"
            " WHERE ended = 0 OR NOT ? ORDER BY task, since",
            (active_only,),
        )
        return tuple((row[0], AlarmState(*row[1:])) for row in rows)
