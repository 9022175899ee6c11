"""Tables in spool.db for data protection: digests of replaced values, erasures, retention by task, and counts.

Like the tables of teacher labels (spool.py), these are added to a spool of an earlier agent without a new schema
version. Triggers keep these rules even if an earlier agent writes:

- the digests of a prediction that never left the site are deleted with it; those of one that left stay within their
  limits, so that the record can be found and erased at the central team after it expired here;
- no digest of an erased prediction remains;
- an erasure counts as confirmed when the central team's receipt covers its tombstone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from edge_agent.durable.sqlite_database import Database
from edge_agent.formats.example_records import task_of_key

CAPTURED, REPLACED, SENT, ERASED, RETIRED = "captured", "replaced", "sent", "erased", "retention"
ERASURES_MAX = 10_000
"""Erasures in the list; with more, the oldest are deleted."""
CLOCK_STEP_SECONDS_MAX = 7 * 86_400.0
"""Largest advance of the calendar while no daemon ran: a clock that jumps by years must not end every retention."""
_DAY = 86_400.0
_ROWS_AT_ONCE = 500
_SURPLUS = "kept_at < ? OR row <= (SELECT coalesce(max(row), 0) FROM value_digests) - ?"
"""Condition for digests over the limits (`_bounds`)."""
_STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS value_digests (row INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL,"
    " prediction_id TEXT NOT NULL, kept_at REAL NOT NULL, UNIQUE (digest, prediction_id)) STRICT",
    "CREATE INDEX IF NOT EXISTS value_digests_of ON value_digests (prediction_id)",
    "CREATE TABLE IF NOT EXISTS retention_dates (prediction_id TEXT PRIMARY KEY, task TEXT NOT NULL,"
    " kept_at REAL NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS retention_turn ON retention_dates (task, kept_at)",
    "CREATE TABLE IF NOT EXISTS privacy_counts (task TEXT NOT NULL, what TEXT NOT NULL, name TEXT NOT NULL,"
    " number INTEGER NOT NULL, PRIMARY KEY (task, what, name)) STRICT",
    "CREATE TABLE IF NOT EXISTS erasures (row INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL,"
    " erased INTEGER NOT NULL, told INTEGER NOT NULL, confirmed INTEGER NOT NULL DEFAULT 0) STRICT",
    "CREATE TABLE IF NOT EXISTS erased_predictions (prediction_id TEXT PRIMARY KEY, erasure INTEGER NOT NULL) STRICT",
    "CREATE TRIGGER IF NOT EXISTS value_digests_stay_here AFTER DELETE ON predictions"
    " WHEN coalesce(old.segment, 0) = 0 BEGIN DELETE FROM value_digests WHERE prediction_id = old.prediction_id; END",
    # A question for the large model, which copies the input, and its label outlive a prediction that has left the site.
    "DROP TRIGGER IF EXISTS retention_ends",
    "CREATE TRIGGER retention_ends AFTER DELETE ON predictions BEGIN"
    " DELETE FROM retention_dates WHERE prediction_id = old.prediction_id"
    " AND NOT EXISTS (SELECT 1 FROM questions WHERE prediction_id = old.prediction_id)"
    " AND NOT EXISTS (SELECT 1 FROM opinions WHERE prediction_id = old.prediction_id); END",
    "CREATE TRIGGER IF NOT EXISTS value_digests_are_erased AFTER INSERT ON tombstones BEGIN"
    " DELETE FROM value_digests WHERE prediction_id = new.prediction_id; END",
    "CREATE TRIGGER IF NOT EXISTS erasure_is_confirmed AFTER DELETE ON tombstones BEGIN"
    " UPDATE erasures SET confirmed = confirmed + 1 WHERE row ="
    " (SELECT erasure FROM erased_predictions WHERE prediction_id = old.prediction_id);"
    " DELETE FROM erased_predictions WHERE prediction_id = old.prediction_id; END",
)


@dataclass(frozen=True)
class PersonalLimits:
    """How long a site keeps personal data."""

    digests_max: int = 200_000
    digest_seconds_max: float = 400 * _DAY
    retention_days: Mapping[str, float] = field(default_factory=dict)
    """By task, in days of the calendar; without an entry the spool alone limits how long examples are kept."""


@dataclass(frozen=True)
class Erasure:
    """The result of one erasure request."""

    number: int
    at: float
    """Seconds since 1970."""
    erased: int
    """Predictions that were here, with their feedback."""
    told: int
    """Predictions with a tombstone for the central team."""
    confirmed: int
    """Of these, predictions whose tombstone is covered by a receipt of the central team."""


@dataclass(frozen=True)
class PrivacyCount:
    """A total since the spool was created, of one task."""

    task: str
    what: str
    """captured, replaced, sent, erased, or retention (deleted because its retention period had ended)."""
    name: str
    """replaced: the rule or model that found the values; otherwise empty."""
    number: int


class PersonalDataTables:
    """The tables of one spool. Methods that change something run inside the spool's transaction."""

    def __init__(self, database: Database, limits: PersonalLimits, now: Callable[[], float], start: float) -> None:
        """Add the tables; inside a transaction.

        `now` returns seconds since 1970 by a clock that may be wrong; `start` is how many seconds daemons have run
        here.
        """
        self._db, self._limits, self._now = database, limits, now
        for statement in _STATEMENTS:
            database.execute(statement)
        # The calendar continues from the saved one, with the time since it was saved, within a limit.
        query = "SELECT name, value FROM meta WHERE name IN ('retention_calendar', 'retention_clock')"
        saved = dict(database.rows(query))
        elapsed = now() - float(saved.get("retention_clock", now()))
        self._calendar = float(saved.get("retention_calendar", 0.0)) + min(max(elapsed, 0.0), CLOCK_STEP_SECONDS_MAX)
        self._start = start
        # Predictions from before the task had a retention, or from an agent without these tables, count from now on.
        for task in limits.retention_days:
            database.execute(
                "INSERT INTO retention_dates SELECT prediction_id, ?, ? FROM predictions"
                " WHERE substr(task, 1, instr(task || '/', '/') - 1) = ? ON CONFLICT (prediction_id) DO NOTHING",
                (task, self._calendar, task),
            )

    def calendar(self, clock: float) -> float:
        """Return the calendar of the retention periods, in seconds, for a `clock` of seconds that daemons have run."""
        return self._calendar + max(0.0, clock - self._start)

    def save_calendar(self, clock: float) -> None:
        """Store the calendar, and the current time of the system clock."""
        for name, value in (("retention_calendar", self.calendar(clock)), ("retention_clock", self._now())):
            self._db.execute(
                "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
            )

    def add_digests(self, digest_sets: Iterable[tuple[str, Iterable[bytes]]], clock: float) -> None:
        """Store the digests of replaced values, by the id of their prediction."""
        rows = [(digest, prediction_id, clock) for prediction_id, digests in digest_sets for digest in sorted(digests)]
        query = "INSERT INTO value_digests (digest, prediction_id, kept_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        self._db.executemany(query, rows)

    def begin_retention(self, prediction_id: str, key: str, clock: float) -> None:
        """Store when the retention of a prediction begins, if its task has one; `key` is the task, or TASK/QUESTION."""
        task = task_of_key(key)
        if task not in self._limits.retention_days:
            return
        self._db.execute(
            "INSERT INTO retention_dates VALUES (?, ?, ?) ON CONFLICT (prediction_id) DO NOTHING",
            (prediction_id, task, self.calendar(clock)),
        )

    def find(self, digests: Iterable[bytes]) -> list[str]:
        """Return the predictions that have one of these digests, the oldest first."""
        ordered = sorted(digests)
        marks = ",".join("?" * len(ordered))
        query = f"SELECT prediction_id FROM value_digests WHERE digest IN ({marks}) GROUP BY 1 ORDER BY min(row)"  # noqa: S608 - question marks only
        return [row[0] for row in self._db.rows(query, ordered)]

    def due(self, clock: float) -> list[str]:
        """Return some predictions that are older than the retention of their task."""
        query = "SELECT prediction_id FROM retention_dates WHERE task = ? AND kept_at < ? LIMIT ?"
        now, prediction_ids = self.calendar(clock), list[str]()
        for task, days in self._limits.retention_days.items():
            prediction_ids += [row[0] for row in self._db.rows(query, (task, now - days * _DAY, _ROWS_AT_ONCE))]
        return prediction_ids

    def can_trim(self, clock: float) -> bool:
        """Return whether `trim` would delete digests; writes nothing. Checks the first row, which is the oldest."""
        oldest = "SELECT row, kept_at FROM value_digests ORDER BY row LIMIT 1"
        return bool(self._db.rows(f"SELECT 1 FROM ({oldest}) WHERE {_SURPLUS}", self._bounds(clock)))  # noqa: S608

    def trim(self, clock: float) -> int:
        """Delete digests over the limits, the oldest first; return how many."""
        query = f"DELETE FROM value_digests WHERE {_SURPLUS}"  # noqa: S608 - of this module
        return self._db.execute(query, self._bounds(clock)).rowcount

    def count_digests(self) -> int:
        """Return how many digests are stored."""
        ((number,),) = self._db.rows("SELECT count(*) FROM value_digests")
        return int(number)

    def count(self, task: str, what: str, number: int = 1, name: str = "") -> None:
        """Add to a total; a negative number reduces it, down to 0."""
        self._db.execute(
            "INSERT INTO privacy_counts VALUES (:task, :what, :name, max(:number, 0)) ON CONFLICT (task, what, name)"
            " DO UPDATE SET number = max(number + :number, 0)",
            {"task": task, "what": what, "name": name, "number": number},
        )

    def count_captured(self, predictions: Iterable[tuple[str, Mapping[str, int]]]) -> None:
        """Count stored predictions, each with its task and its replacements by rule."""
        totals: Counter[tuple[str, str, str]] = Counter()
        for task, replacements in predictions:
            totals[task, CAPTURED, ""] += 1
            for rule, number in replacements.items():
                totals[task, REPLACED, rule] += number
        for (task, what, name), number in totals.items():
            self.count(task, what, number, name)

    def counts(self) -> list[PrivacyCount]:
        """Return all totals."""
        return [PrivacyCount(*row) for row in self._db.rows("SELECT * FROM privacy_counts ORDER BY task, what, name")]

    def record_erasure(self, at: float, erased: int, tombstoned: Iterable[str]) -> int:
        """Record an erasure, with the predictions that have a tombstone; return its number."""
        ids = list(tombstoned)
        cursor = self._db.execute("INSERT INTO erasures (at, erased, told) VALUES (?, ?, ?)", (at, erased, len(ids)))
        number = int(cursor.lastrowid or 0)
        self._db.executemany(
            "INSERT INTO erased_predictions VALUES (?, ?) ON CONFLICT (prediction_id)"
            " DO UPDATE SET erasure = excluded.erasure",
            [(prediction_id, number) for prediction_id in ids],
        )
        self._db.execute("DELETE FROM erasures WHERE row <= ?", (number - ERASURES_MAX,))
        return number

    def erasures(self) -> list[Erasure]:
        """Return the erasures, the newest first."""
        query = "SELECT row, at, erased, told, confirmed FROM erasures ORDER BY row DESC"
        return [Erasure(*row) for row in self._db.rows(query)]

    def _bounds(self, clock: float) -> tuple[float, int]:
        return clock - self._limits.digest_seconds_max, self._limits.digests_max
