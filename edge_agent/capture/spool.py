"""spool.db: predictions for their window, feedback until the central team has it, and tombstones of erased inputs.

One thread uses it. Every change happens inside `transaction`; what a transaction committed is on the disk.

Each prediction has one of four classes, which set the eviction order when space runs out: routine, unsure, escalated,
reviewed. A reviewed prediction has feedback and is never evicted. A prediction is *spare* when only late feedback could
still need it: it is sealed, or was passed over, or never leaves the site. Spare predictions expire at the end of the
window, or are evicted earlier when space runs out.

Ages count seconds of running, not wall-clock time: a clock that jumps by years must not end a window.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_agent.capture import review_and_audit
from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter, SpooledPrediction
from edge_agent.capture.personal_data_retention import ERASED, RETIRED, PersonalDataTables, PersonalLimits
from edge_agent.capture.review_and_audit import NAMES, AuditShares, ReviewStreams
from edge_agent.durable.sqlite_database import Database, DatabaseSchema
from edge_agent.errors import InvalidRequest, PredictionUnknown
from edge_agent.formats.example_records import question_of_key, task_of_key

if TYPE_CHECKING:
    from edge_agent.capture.redaction_audit import DrawnText
    from edge_agent.monitoring.answer_observations import AnswerObservation, ShiftedInputs

SCHEMA_VERSION = 1
LOCAL, UPSTREAM = 1, 2
ROUTINE, UNSURE, ESCALATED, REVIEWED = range(4)
CLASS_NAMES = ("routine", "unsure", "escalated", "reviewed")
PASSED_OVER = 0
"""In place of a segment's sequence: the record was not chosen to be sealed."""
SENT_BEFORE = -1
"""In place of a segment's sequence: the central team has it from an earlier incarnation of the spool."""
UNRANKED = 2.0
"""In place of a missing confidence; ranks after all of them."""
CALL_ROWS_MAX = 10_000
"""Maximum distance in rows between the answers of one call, which concurrent calls interleave."""
CALL_SECONDS_MAX = 300.0
"""In seconds of running, likewise: what a large model answers is stored later."""
REQUESTS_KEPT = 100_000
"""Stored request_ids of feedback, to recognize repeats."""
_STATEMENTS = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT",
    "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT",
    "CREATE TABLE predictions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " task TEXT NOT NULL, rank REAL NOT NULL, class INTEGER NOT NULL, consent INTEGER NOT NULL,"
    " reviewed INTEGER NOT NULL DEFAULT 0, spare INTEGER NOT NULL, kept_at REAL NOT NULL, size INTEGER NOT NULL,"
    " segment INTEGER, record BLOB NOT NULL) STRICT",
    "CREATE INDEX sacrifice ON predictions (spare, class, row)",
    "CREATE INDEX expiry ON predictions (kept_at) WHERE spare = 1",
    "CREATE INDEX waiting ON predictions (row) WHERE segment IS NULL AND consent = 2",
    "CREATE INDEX sealed ON predictions (segment) WHERE segment > 0",
    "CREATE TABLE feedback (row INTEGER PRIMARY KEY AUTOINCREMENT, feedback_id TEXT NOT NULL UNIQUE,"
    " prediction_id TEXT NOT NULL, consent INTEGER NOT NULL, size INTEGER NOT NULL, segment INTEGER,"
    " record BLOB NOT NULL) STRICT",
    "CREATE INDEX feedback_of ON feedback (prediction_id)",
    "CREATE INDEX feedback_segment ON feedback (segment)",
    "CREATE TABLE requests (row INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE,"
    " content BLOB NOT NULL) STRICT",
    "CREATE TABLE tombstones (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " segment INTEGER, record BLOB NOT NULL) STRICT",
    # state: building, sealed, received, lost.
    "CREATE TABLE segments (sequence INTEGER PRIMARY KEY, state TEXT NOT NULL, size INTEGER NOT NULL DEFAULT 0,"
    " sha256 TEXT NOT NULL DEFAULT '', manifest_sha256 TEXT NOT NULL DEFAULT '', resealed INTEGER NOT NULL DEFAULT 0)"
    " STRICT",
)
# The first agents that use the file did not have the tables of questions for the large model and of its labels. A site
# can go back to such an agent and forward again. So the version of the file stays, missing tables are added, and
# triggers enforce the invariants for every agent version:
#
# - A question or a teacher label is deleted with its prediction, unless the central team has the prediction.
# - When an input is erased, its question and its label are, too.
# - A label is deleted when its segment is received, and waits again when the segment is lost or was never built.
_TEACHER_LABEL_STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS questions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " task TEXT NOT NULL, why TEXT NOT NULL, consent INTEGER NOT NULL, asked INTEGER NOT NULL DEFAULT 0,"
    " kept_at REAL NOT NULL, size INTEGER NOT NULL, record BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS questions_turn ON questions (why, row)",
    "CREATE INDEX IF NOT EXISTS questions_size ON questions (why, size)",
    "CREATE TABLE IF NOT EXISTS opinions (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL UNIQUE,"
    " consent INTEGER NOT NULL, size INTEGER NOT NULL, segment INTEGER, record BLOB NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS opinions_segment ON opinions (segment)",
    "CREATE INDEX IF NOT EXISTS opinions_size ON opinions (size)",
    "CREATE TRIGGER IF NOT EXISTS opinions_need_their_prediction AFTER DELETE ON predictions"
    " WHEN coalesce(old.segment, 0) = 0 BEGIN"
    " DELETE FROM questions WHERE prediction_id = old.prediction_id;"
    " DELETE FROM opinions WHERE prediction_id = old.prediction_id AND segment IS NULL; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_are_forgotten AFTER INSERT ON tombstones BEGIN"
    " DELETE FROM questions WHERE prediction_id = new.prediction_id;"
    " DELETE FROM opinions WHERE prediction_id = new.prediction_id; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_were_received AFTER UPDATE OF state ON segments"
    " WHEN new.state = 'received' BEGIN DELETE FROM opinions WHERE segment = new.sequence; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_wait_again AFTER UPDATE OF state ON segments"
    " WHEN new.state = 'lost' BEGIN UPDATE opinions SET segment = NULL WHERE segment = new.sequence; END",
    "CREATE TRIGGER IF NOT EXISTS opinions_were_not_sealed AFTER DELETE ON segments BEGIN"
    " UPDATE opinions SET segment = NULL WHERE segment = old.sequence; END",
)
LOSSES = {"lost": ("dropped_", "segments_lost", "over_limit"), "evicted": ("sacrificed_",)}
"""Prefixes of the counters of lost and of evicted examples; the time of the last one is stored for both."""
_INSERT = (
    "INSERT INTO predictions (prediction_id, task, rank, class, consent, spare, kept_at, size, record)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prediction_id) DO NOTHING"
)
_ROW_BYTES = 4096
"""More than most rows take, so that few rows are evicted at once."""
_UNDRAWN = "(stream <> 1 OR reviewed = 1)"
# The eviction order of predictions without feedback. Unjudged audit rows come last, sealed ones before others, and
# otherwise by age: their class depends on their confidence, which must not decide which ones remain.
_EVICTION_ORDER = (
    (f"spare = 1 AND {_UNDRAWN} ORDER BY class, row", "window_cut"),
    *(
        (f"spare = 0 AND class = {class_} AND {_UNDRAWN} ORDER BY row", f"sacrificed_{CLASS_NAMES[class_]}")
        for class_ in (0, 1, 2)
    ),
    ("spare = 1 AND stream = 1 AND reviewed = 0 ORDER BY row", "window_cut_audit"),
    ("spare = 0 AND stream = 1 AND reviewed = 0 ORDER BY row", "sacrificed_audit"),
)
ROW_OVERHEAD_BYTES = 250  # approximate size of a row and its index entries without the record


@dataclass(frozen=True, slots=True)
class PredictionRecord:
    """A prediction to keep: its record without `kept`, which is written when it is sealed."""

    prediction_id: str
    task: str
    """TASK/QUESTION of a question of a decide task."""
    rank: float
    """Confidence, 0 to 1, or UNRANKED."""
    class_: int
    consent: int
    record: bytes
    observation: AnswerObservation | None = None
    """Its observation for monitoring."""
    later: str = ""
    """Why the large model is asked later (formats/example_records.py); empty = it is not asked."""
    replacements: Mapping[str, int] = field(default_factory=dict)
    """Replaced values by the rule or model that found them."""
    digests: frozenset[bytes] = frozenset()
    """Keyed digests of these values (person_erasure.py)."""
    drawn_text: DrawnText | None = None
    """Its text, if the audit of redaction has drawn it."""


@dataclass(frozen=True)
class FeedbackRecord:
    """Feedback to store."""

    feedback_id: str
    prediction_id: str
    request_id: str
    """Empty = none."""
    record: bytes
    content: bytes
    """A repeated request must have the same one."""
    digests: frozenset[bytes] = frozenset()
    """Keyed digests of its replaced values."""


class Spool:
    """The open database."""

    def __init__(
        self,
        path: Path,
        monotonic: Callable[[], float],
        streams: Callable[[Database], ReviewStreams] | None = None,
        personal: PersonalLimits = PersonalLimits(),  # noqa: B008 - it cannot change
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the spool; `monotonic` gives seconds that never go back in this process; without `streams`, no draws.

        `personal` limits how long data about people is kept, by the calendar of `now`.

        Raises:
            StoreDamaged, StateDirUnwritable, StateDirInUse, DiskFull: it cannot be used.
        """
        remedy = f"Stop the daemon, move {path}* away and start it again; feedback that was not sealed yet is in them."
        # secure_delete overwrites erased data. No integrity check: reading a gigabyte at every start takes too long.
        pragmas = ("PRAGMA auto_vacuum = INCREMENTAL", "PRAGMA secure_delete = ON")
        self.db = Database(path, DatabaseSchema(SCHEMA_VERSION, _STATEMENTS, remedy, pragmas, checked=False))
        self._monotonic, self._started = monotonic, monotonic()
        self.counters: Counter[str] = Counter(dict(self.db.rows("SELECT name, value FROM counters")))
        self._saved_counters = self.counters.copy()
        self.streams = streams(self.db) if streams else ReviewStreams(self.db, AuditShares(0.0, {}))
        self._clock = float(self._read_meta("clock", 0.0))
        self.used_bytes = int(self._read_meta("used_bytes", 0))
        with self.transaction():
            for statement in _TEACHER_LABEL_STATEMENTS:
                self.db.execute(statement)
            review_and_audit.prepare(self.db)
            self.personal = PersonalDataTables(self.db, personal, now, self._clock)
            self.incarnation = str(self._read_meta("epoch", "") or self.set_meta("epoch", secrets.token_hex(8)))
            # Stored on disk, so that an hour also ends on a machine that runs for half an hour at a time.
            self.sealed_at = float(self._read_meta("sealed_at", -1.0))
            """When the last record was sealed, by `clock`."""
            if self.sealed_at < 0:
                self.note_sealed()

    @property
    def clock(self) -> float:
        """Seconds of running, summed over all daemons on this spool."""
        return self._clock + self._monotonic() - self._started

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the block with the counters and the clock, or, on an error, none of it."""
        used_bytes, counters = self.used_bytes, self.counters.copy()
        try:
            with self.db.transaction():
                yield
                self._save_counters()
        except BaseException:
            self.used_bytes, self.counters = used_bytes, counters
            raise
        self._saved_counters = self.counters.copy()

    def add_predictions(self, predictions: Iterable[PredictionRecord]) -> list[PredictionRecord]:
        """Store predictions and return the new ones; a prediction with a known id stays unchanged."""
        now, new = self.clock, []
        for prediction in predictions:
            size = len(prediction.record) + ROW_OVERHEAD_BYTES
            spare = prediction.consent == LOCAL
            row = (
                *(prediction.prediction_id, prediction.task, prediction.rank, prediction.class_, prediction.consent),
                *(spare, now, size, prediction.record),
            )
            if self.db.execute(_INSERT, row).rowcount:
                self.used_bytes += size
                self.counters["captured"] += 1
                self.personal.begin_retention(prediction.prediction_id, prediction.task, now)
                new.append(prediction)
        self.personal.add_digests(((each.prediction_id, each.digests) for each in new), now)
        self.personal.count_captured((each.task, each.replacements) for each in new)
        if drawn_count := self.streams.assign((each.prediction_id, each.task, each.observation) for each in new):
            self.counters["audit_drawn"] += drawn_count
        return new

    def find_prediction(self, prediction_id: str) -> SpooledPrediction:
        """Return a kept prediction.

        Raises:
            PredictionUnknown: the prediction is not here, or no longer.
        """
        query = "SELECT record, task, reviewed, stream, probability FROM predictions WHERE prediction_id = ?"
        rows = self.db.rows(query, (prediction_id,))
        if not rows:
            raise PredictionUnknown(f"no answer {prediction_id!r} is kept here", prediction_id=prediction_id)
        feedback = self.db.rows("SELECT record FROM feedback WHERE prediction_id = ? ORDER BY row", (prediction_id,))
        record, task, reviewed, stream, probability = rows[0]
        records = tuple(row[0] for row in feedback)
        return SpooledPrediction(record, task, bool(reviewed), records, NAMES[stream], probability)

    def add_feedback(self, feedback: FeedbackRecord) -> int:
        """Store feedback; return how many its prediction has now. A repeated request changes nothing and returns 0.

        Raises:
            PredictionUnknown: the prediction is not here.
            InvalidRequest: the request_id was used for something else.
        """
        if self._is_repeat(feedback):
            return 0
        query = "SELECT row, consent, segment FROM predictions WHERE prediction_id = ?"
        rows = self.db.rows(query, (feedback.prediction_id,))
        if not rows:
            message = f"no answer {feedback.prediction_id!r} is kept here"
            raise PredictionUnknown(message, prediction_id=feedback.prediction_id)
        ((row, consent, segment),) = rows
        size = len(feedback.record) + ROW_OVERHEAD_BYTES
        self.db.execute(
            "INSERT INTO feedback (feedback_id, prediction_id, consent, size, record) VALUES (?, ?, ?, ?, ?)",
            (feedback.feedback_id, feedback.prediction_id, consent, size, feedback.record),
        )
        new_segment = None if segment == PASSED_OVER else segment
        update = "UPDATE predictions SET class = ?, reviewed = 1, spare = 0, segment = ? WHERE row = ?"
        self.db.execute(update, (REVIEWED, new_segment, row))
        self.used_bytes += size
        self.counters["feedback"] += 1
        self.personal.add_digests([(feedback.prediction_id, feedback.digests)], self.clock)
        ((number,),) = self.db.rows("SELECT count(*) FROM feedback WHERE prediction_id = ?", (feedback.prediction_id,))
        return int(number)

    def first_feedback(self, prediction_id: str) -> bytes | None:
        """Return the first stored feedback on a prediction; None = there is none."""
        query = "SELECT record FROM feedback WHERE prediction_id = ? ORDER BY row LIMIT 1"
        return next((row[0] for row in self.db.rows(query, (prediction_id,))), None)

    def review_page(
        self, review_filter: ReviewFilter, after: ReviewCursor, count: int, shifted: Sequence[ShiftedInputs] = ()
    ) -> list[tuple[ReviewCursor, SpooledPrediction]]:
        """Return predictions after a cursor of the review queue, each with its own cursor (review_and_audit.py)."""
        rows: Iterable[tuple[ReviewCursor, tuple[Any, ...]]] = self.streams.page(review_filter, after, count, shifted)
        return [
            (cursor, SpooledPrediction(record, task, bool(reviewed), (), NAMES[stream], probability))
            for cursor, (_, _, record, task, reviewed, stream, probability) in rows
        ]

    def erase(self, prediction_id: str, tombstone: bytes) -> tuple[bool, bool]:
        """Erase a prediction and its feedback; return whether it was here, and whether the central team must erase it.

        If the prediction can have left the site, or is no longer here, the tombstone is kept until the central team has
        it.
        """
        rows = self.db.rows("SELECT task FROM predictions WHERE prediction_id = ?", (prediction_id,))
        may_have_left = self.can_have_left(prediction_id)
        self._delete_feedback([prediction_id])
        self._delete("prediction_id = ?", (prediction_id,), 1)
        self.db.execute("DELETE FROM retention_dates WHERE prediction_id = ?", (prediction_id,))
        if may_have_left:
            self.db.execute(
                "INSERT INTO tombstones (prediction_id, record) VALUES (?, ?) ON CONFLICT (prediction_id) DO NOTHING",
                (prediction_id, tombstone),
            )
        self.counters["erased"] += bool(rows)
        if rows or may_have_left:
            self.personal.count(rows[0][0] if rows else "", ERASED)
        return bool(rows), may_have_left

    def find_same_text(self, prediction_id: str) -> list[str]:
        """Return the kept answers to other questions about the same text; empty for a task without questions.

        A call stores its answers in nearby rows at nearly the same time. Redacted texts are compared.
        """
        query = "SELECT row, kept_at, task, record FROM predictions WHERE prediction_id = ?"
        rows = self.db.rows(query, (prediction_id,))
        if not rows or not question_of_key(rows[0][2]):
            return []
        [(row, at, key, record)] = rows
        task = f"{task_of_key(key)}/"
        text = json.dumps(json.loads(record)["input"], ensure_ascii=False).encode()
        neighbours = self.db.rows(
            "SELECT prediction_id FROM predictions WHERE row BETWEEN ? AND ? AND prediction_id <> ?"
            " AND abs(kept_at - ?) <= ? AND substr(task, 1, ?) = ? AND instr(record, ?) > 0 ORDER BY row",
            (
                *(row - CALL_ROWS_MAX, row + CALL_ROWS_MAX, prediction_id, at, CALL_SECONDS_MAX),
                *(len(task), task, b'"input":' + text),
            ),
        )
        return [each for (each,) in neighbours]

    def retire(self, prediction_ids: Iterable[str]) -> None:
        """Delete predictions whose retention is over, with their feedback, questions and teacher labels."""
        for prediction_id in prediction_ids:
            for (task,) in self.db.rows("SELECT task FROM predictions WHERE prediction_id = ?", (prediction_id,)):
                self.personal.count(task, RETIRED)
            self._delete_feedback([prediction_id])
            self.counters["retention_expired"] += self._delete("prediction_id = ?", (prediction_id,), 1)
            for table in ("opinions", "questions", "retention_dates"):
                self.db.execute(f"DELETE FROM {table} WHERE prediction_id = ?", (prediction_id,))

    def records_after(self, table: str, row: int, count: int) -> list[tuple[int, str, bytes]]:
        """Return rows of a table after a row: row, prediction_id and record."""
        assert table in ("predictions", "feedback", "opinions", "questions", "redaction_audit")
        query = f"SELECT row, prediction_id, record FROM {table} WHERE row > ? ORDER BY row LIMIT ?"
        return self.db.rows(query, (row, count))

    def expire(self, window_seconds: float, count: int) -> int:
        """Delete at most `count` spare predictions older than the window; return how many."""
        number = self._delete("spare = 1 AND kept_at < ? ORDER BY kept_at", (self.clock - window_seconds,), count)
        self.counters["expired"] += number
        return number

    def can_expire(self, window_seconds: float) -> bool:
        """Return whether `expire` would delete something; writes nothing."""
        query = "SELECT 1 FROM predictions WHERE spare = 1 AND kept_at < ? LIMIT 1"
        return bool(self.db.rows(query, (self.clock - window_seconds,)))

    def save_clock(self) -> None:
        """Write the clock of a spool that has no other writes."""
        with self.transaction():
            pass

    def evict(self, bytes_max: int, count: int) -> bool:
        """Evict at most `count` predictions, in the eviction order, until the rest fits into `bytes_max`.

        Returns whether the rest fits.
        """
        for where, counter in _EVICTION_ORDER:
            evicted = 1
            while self.used_bytes > bytes_max and count > 0 and evicted:
                estimate = 1 + (self.used_bytes - bytes_max) // _ROW_BYTES
                evicted = self._delete(where, (), min(count, estimate))
                self.counters[counter] += evicted
                count -= evicted
        return self.used_bytes <= bytes_max

    def can_have_left(self, prediction_id: str) -> bool:
        """Return whether any record of a prediction can have left the site."""
        predictions = self.db.rows("SELECT segment, kept_at FROM predictions WHERE prediction_id = ?", (prediction_id,))
        departed_until = float(self._read_meta("departed_until", -1.0))
        if not predictions:
            return departed_until >= 0 or bool(self.db.rows("SELECT 1 FROM segments LIMIT 1"))
        feedback = self.db.rows("SELECT segment FROM feedback WHERE prediction_id = ?", (prediction_id,))
        labels = self.db.rows("SELECT segment FROM opinions WHERE prediction_id = ?", (prediction_id,))
        return predictions[0][1] <= departed_until or any(row[0] for row in (*predictions, *feedback, *labels))

    def note_sealed(self) -> None:
        """Record that no record waits to be sealed any more."""
        self.sealed_at = float(self.set_meta("sealed_at", self.clock))

    def note_departures(self) -> None:
        """Record that records waiting to be sealed again can have left the site with a lost segment."""
        self.set_meta("departed_until", self.clock)

    def count_retained(self) -> dict[str, int]:
        """Count predictions by class, and feedback."""
        rows = self.db.rows("SELECT class, count(*) FROM predictions GROUP BY class")
        counts = {CLASS_NAMES[class_]: number for class_, number in rows}
        ((feedback,),) = self.db.rows("SELECT count(*) FROM feedback")
        return {**counts, "feedback": feedback}

    def loss_seconds(self) -> dict[str, float]:
        """Return, by kind of LOSSES, the seconds of running since the last one; no key = none yet."""
        rows = self.db.rows("SELECT name, value FROM meta WHERE name LIKE 'loss_clock_%'")
        return {name.removeprefix("loss_clock_"): max(self.clock - at, 0.0) for name, at in rows}

    def set_meta(self, name: str, value: str | float) -> str | float:
        """Write a value of the table `meta`; return it."""
        self.db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, value)
        )
        return value

    def shrink(self) -> None:
        """Overwrite deleted data in the write-ahead log, too, and return free pages to the disk."""
        with self.db.errors():
            self.db.execute("PRAGMA incremental_vacuum(2000)").fetchall()
            self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Close the database."""
        self.db.close()

    def _is_repeat(self, feedback: FeedbackRecord) -> bool:
        """Return whether a request is a repeat of a stored one; store it if it is new. Raises InvalidRequest."""
        if not feedback.request_id:
            return False
        content = hashlib.sha256(feedback.content).digest()
        rows = self.db.rows("SELECT content FROM requests WHERE request_id = ?", (feedback.request_id,))
        if rows and rows[0][0] != content:
            message = "this request_id was used for another request"
            raise InvalidRequest(message, remedy="Use a new UUID4 for each request.")
        if not rows:
            self.db.execute("INSERT INTO requests (request_id, content) VALUES (?, ?)", (feedback.request_id, content))
            self.db.execute("DELETE FROM requests WHERE row <= (SELECT max(row) FROM requests) - ?", (REQUESTS_KEPT,))
        return bool(rows)

    def _delete(self, where: str, values: tuple[object, ...], count: int) -> int:
        rows = self.db.rows(
            "DELETE FROM predictions WHERE row IN (SELECT row FROM predictions WHERE "
            f"{where} LIMIT ?) RETURNING size, class, prediction_id",
            (*values, count),
        )
        self.used_bytes -= sum(row[0] for row in rows)
        self._delete_feedback([row[2] for row in rows if row[1] == REVIEWED])
        return len(rows)

    def _delete_feedback(self, prediction_ids: Iterable[str]) -> None:
        for prediction_id in prediction_ids:
            rows = self.db.rows("DELETE FROM feedback WHERE prediction_id = ? RETURNING size", (prediction_id,))
            self.used_bytes -= sum(row[0] for row in rows)

    def _save_counters(self) -> None:
        changed = [(name, value) for name, value in self.counters.items() if value != self._saved_counters[name]]
        self.db.executemany(
            "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", changed
        )
        for kind, prefixes in LOSSES.items():
            if any(name.startswith(prefixes) for name, _ in changed):
                self.set_meta(f"loss_clock_{kind}", self.clock)
        self.set_meta("clock", self.clock)
        self.personal.save_calendar(self.clock)
        self.set_meta("used_bytes", self.used_bytes)

    def _read_meta(self, name: str, default: str | float) -> str | float:
        rows = self.db.rows("SELECT value FROM meta WHERE name = ?", (name,))
        value: str | float = rows[0][0] if rows else default
        return value
