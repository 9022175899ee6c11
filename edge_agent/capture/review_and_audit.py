"""Which answers people are asked to review, and why: the streams of the review queue, and the random audit.

Each kept answer belongs to one stream, chosen in the transaction that stores it.

- *audit*: drawn at random with a known probability, independent of the answer, its confidence and its route. Only this
  stream represents all answers. The oldest answer comes first, so that a skipped one comes again.
- *diverse*: the 1st, 2nd, 4th, 8th, ... answer of each stratum: the label, or the length where there are no labels.
  A rare label has about as many rows there as a frequent one.
- *new*: out-of-distribution by the bundle's gate. The oldest answer comes first. While an alarm `new_inputs` is active,
  the answers that caused it come before all others: those of the task since the alarm's `since`, the smallest p-value
  first, including those that passed the gate with a p-value of at most NEAR. Meanwhile, the streams *uncertain* and
  *diverse* omit these, so that each row has one position in the queue.
- *uncertain*: all others, the least confident first.

Every second row of the queue is from the audit, while it has any; the other streams alternate in between.

`review_audit` holds the outcome of each drawn answer until it is tested (monitoring/monitoring_store.py), in the order
of drawing: a wrong answer is often reported at once, and a right one waits for the queue. Columns and tables are added
to a spool of earlier agents without a new file version, as for teacher labels (spool.py); triggers enforce the
invariants for every agent version.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from edge_agent.capture.capture_values import ReviewCursor
from edge_agent.formats.calibration_and_gate import OUT_OF_DISTRIBUTION
from edge_agent.formats.example_records import ReviewStream, task_of_key
from edge_agent.monitoring.monitoring_store import AuditOutcome

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import ReviewFilter
    from edge_agent.durable.sqlite_database import Database
    from edge_agent.monitoring.answer_observations import AnswerObservation, ShiftedInputs

STREAMS: tuple[ReviewStream, ...] = get_args(ReviewStream)
AUDIT, UNCERTAIN, DIVERSE, NEW = STREAMS
CODES: Mapping[ReviewStream, int] = {UNCERTAIN: 0, AUDIT: 1, DIVERSE: 2, NEW: 3}
NAMES: Mapping[int, ReviewStream] = {code: name for name, code in CODES.items()}
TURNS: tuple[ReviewStream, ...] = (AUDIT, UNCERTAIN, AUDIT, DIVERSE, AUDIT, NEW)
"""The order of the queue, repeated; an empty stream is skipped."""
STRATA_MAX = 10_000
"""Strata that are counted; the oldest is deleted first."""
AUDIT_ROWS_MAX = 100_000
"""Drawn answers that wait to be tested; the oldest are deleted first, without a test."""
NEAR = 0.1
"""The largest p-value that the test of new inputs counts (monitoring/risk_and_drift.py), so up to it, an answer that
passed the gate can have contributed to an alarm."""
OPEN, RIGHT, WRONG, UNKNOWN, LOST = "open", "right", "wrong", "unknown", "lost"
_COLUMNS = {
    "stream": "ALTER TABLE predictions ADD COLUMN stream INTEGER NOT NULL DEFAULT 0",
    "probability": "ALTER TABLE predictions ADD COLUMN probability REAL",
    # Set for answers that can contribute to an alarm; NULL for all others, and for those that an earlier agent kept.
    "p_value": "ALTER TABLE predictions ADD COLUMN p_value REAL",
    "answered_at": "ALTER TABLE predictions ADD COLUMN answered_at REAL",
}
_STATEMENTS = (
    "DROP INDEX IF EXISTS review",
    "CREATE INDEX IF NOT EXISTS review_rank ON predictions (stream, reviewed, rank, row)",
    "CREATE INDEX IF NOT EXISTS review_turn ON predictions (stream, reviewed, row) WHERE stream > 0",
    "CREATE INDEX IF NOT EXISTS review_strange ON predictions (p_value, row, reviewed, task, answered_at)"
    " WHERE p_value IS NOT NULL",
    "CREATE TABLE IF NOT EXISTS review_strata (row INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL,"
    " digest TEXT NOT NULL, stratum TEXT NOT NULL, answers INTEGER NOT NULL, UNIQUE (task, digest, stratum)) STRICT",
    "CREATE TABLE IF NOT EXISTS review_audit (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL"
    " UNIQUE, task TEXT NOT NULL, digest TEXT NOT NULL, probability REAL NOT NULL, accepted INTEGER NOT NULL,"
    " outcome TEXT NOT NULL DEFAULT 'open') STRICT",
    "CREATE INDEX IF NOT EXISTS review_audit_turn ON review_audit (task, digest, outcome, row)",
    # So that an earlier agent version, without the audit, keeps it consistent.
    "CREATE TRIGGER IF NOT EXISTS review_audit_lost AFTER DELETE ON predictions WHEN old.stream = 1 BEGIN"
    " UPDATE review_audit SET outcome = iif(outcome = 'open', 'lost', outcome), prediction_id = 'gone:' || row"
    " WHERE prediction_id = old.prediction_id; END",
    "CREATE TRIGGER IF NOT EXISTS review_audit_seen AFTER UPDATE OF reviewed ON predictions"
    " WHEN new.stream = 1 AND new.reviewed = 1 AND old.reviewed = 0 BEGIN"
    " UPDATE review_audit SET outcome = 'unknown' WHERE prediction_id = new.prediction_id; END",
)
_PLACE_COLUMNS = "rank, row, record, task, reviewed, stream, probability"
_PLACE_SIZE = len(_PLACE_COLUMNS.split(", "))
_SHIFTED = (
    "(p_value IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(?) AS shifted WHERE task = shifted.value ->> 0"
    " AND answered_at >= shifted.value ->> 1))"
)
_MATCHES = "(? IS NULL OR rank <= ?) AND (? IN ('', task) OR substr(task, 1, length(?) + 1) = ? || '/')"


@dataclass(frozen=True)
class AuditShares:
    """The share of each task's answers that the audit draws: probabilities, 0 to 1."""

    default: float
    of_tasks: Mapping[str, float]

    def of(self, task: str) -> float:
        """Return the share of a task."""
        return self.of_tasks.get(task, self.default)


_draw: Callable[[], float] = random.SystemRandom().random


class ReviewStreams:
    """The review queue and audit of one spool. Methods that change something run inside the spool's transaction."""

    def __init__(self, database: Database, shares: AuditShares, draw: Callable[[], float] = _draw) -> None:
        """Draw with these probabilities; `draw` returns a random number in [0, 1)."""
        self._db, self._shares, self._draw = database, shares, draw

    def assign(self, answers: Iterable[tuple[str, str, AnswerObservation | None]]) -> int:
        """Put newly kept answers into their streams; return how many the audit drew.

        Each is a prediction_id, its task or TASK/QUESTION, and its observation.
        """
        drawn_count = 0
        for prediction_id, task, observation in answers:
            share = self._shares.of(task_of_key(task))
            is_lead = observation is not None and self._is_lead(task, observation)
            if share > 0 and self._draw() < share:
                drawn_count += 1
                self._store_stream(prediction_id, AUDIT, share)
                digest, accepted = (observation.digest, observation.accepted) if observation else ("", False)
                self._db.execute(
                    "INSERT INTO review_audit (prediction_id, task, digest, probability, accepted)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (prediction_id, task, digest, share, accepted),
                )
                continue
            if observation is not None and observation.held_up == OUT_OF_DISTRIBUTION:
                self._store_stream(prediction_id, NEW)
            elif is_lead:
                self._store_stream(prediction_id, DIVERSE)
            if observation is not None:
                self._store_p_value(prediction_id, observation)
        if drawn_count:
            query = "DELETE FROM review_audit WHERE row <= (SELECT max(row) FROM review_audit) - ?"
            self._db.execute(query, (AUDIT_ROWS_MAX,))
        return drawn_count

    def is_audited(self, prediction_id: str) -> bool:
        """Return whether the audit drew a kept answer."""
        query = "SELECT 1 FROM predictions WHERE prediction_id = ? AND stream = 1"
        return bool(self._db.rows(query, (prediction_id,)))

    def record_verdict(self, prediction_id: str, wrong: bool | None) -> bool:
        """Record the first judgement of a person on an answer; return whether the audit had drawn it."""
        outcome = UNKNOWN if wrong is None else WRONG if wrong else RIGHT
        query = "UPDATE review_audit SET outcome = ? WHERE prediction_id = ?"
        return bool(self._db.execute(query, (outcome, prediction_id)).rowcount)

    def can_settle(self) -> bool:
        """Return whether `take_settled` would return something; writes nothing."""
        query = "SELECT 1 FROM review_audit WHERE outcome <> 'open' AND row IN (SELECT min(row) FROM review_audit"
        return bool(self._db.rows(f"{query} GROUP BY task, digest) LIMIT 1"))

    def take_settled(self) -> dict[tuple[str, str], list[AuditOutcome]]:
        """Remove and return the outcomes before the first open one, in drawing order, by task and digest."""
        outcomes: dict[tuple[str, str], list[AuditOutcome]] = {}
        query = "SELECT min(row) FROM review_audit WHERE task = ? AND digest = ? AND outcome = 'open'"
        for task, digest in self._db.rows("SELECT DISTINCT task, digest FROM review_audit"):
            ((first_open,),) = self._db.rows(query, (task, digest))
            values = (task, digest, first_open, first_open)
            where = "task = ? AND digest = ? AND (? IS NULL OR row < ?)"
            rows = self._db.rows(f"SELECT accepted, outcome FROM review_audit WHERE {where} ORDER BY row", values)  # noqa: S608
            if rows:
                outcomes[task, digest] = [AuditOutcome(bool(accepted), outcome) for accepted, outcome in rows]
                self._db.execute(f"DELETE FROM review_audit WHERE {where}", values)  # noqa: S608 - our own words
        return outcomes

    def count_waiting(self) -> dict[str, int]:
        """Count the answers that wait for people, by stream."""
        rows = self._db.rows("SELECT stream, count(*) FROM predictions WHERE reviewed = 0 GROUP BY stream")
        return {NAMES[code]: number for code, number in rows if code in NAMES}

    def page(
        self, review_filter: ReviewFilter, after: ReviewCursor, count: int, shifted: Sequence[ShiftedInputs] = ()
    ) -> list[tuple[ReviewCursor, tuple[Any, ...]]]:
        """Return rows after a cursor, the streams in turn, each with its own cursor; columns are `_PLACE_COLUMNS`.

        `shifted`: the inputs of active alarms. The cursor does not contain them, so if an alarm begins or ends during
        a walk through the queue, that walk can miss rows; the next one has them.
        """
        names = [review_filter.stream] if review_filter.stream else list(STREAMS)
        if review_filter.confidence_max is not None:
            names = [name for name in names if name != AUDIT]
        alarms_json = json.dumps([[each.task, each.since] for each in shifted])
        queues = {name: self._next_rows(name, review_filter, after, count, alarms_json) for name in names}
        if NEW in queues and shifted:
            queues[NEW] = self._next_alarm_rows(review_filter, after, count, alarms_json) + queues[NEW]
        page: list[tuple[ReviewCursor, tuple[Any, ...]]] = []
        while len(page) < count and any(queues.values()):
            name = TURNS[after.turn % len(TURNS)]
            after = after._replace(turn=(after.turn + 1) % len(TURNS))
            if queues.get(name):
                row = queues[name].pop(0)
                after = _cursor_after(after, name, row)
                page.append((after, row[:_PLACE_SIZE]))
        return page

    def _next_rows(
        self, name: ReviewStream, review_filter: ReviewFilter, after: ReviewCursor, count: int, alarms_json: str
    ) -> list[tuple[Any, ...]]:
        """Return the next rows of one stream, without those of an active alarm."""
        place, order = ("(rank, row) > (?, ?)", "rank, row") if name == UNCERTAIN else ("row > ?", "row")
        values: list[object] = [after.rank, after.row] if name == UNCERTAIN else [getattr(after, name)]
        query = (
            f"SELECT {_PLACE_COLUMNS} FROM predictions WHERE stream = {CODES[name]} AND {place}"  # noqa: S608
            f" AND {_reviewed_condition(review_filter)} AND {_MATCHES} AND NOT {_SHIFTED} ORDER BY {order} LIMIT ?"
        )
        return self._db.rows(query, [*values, *_match_values(review_filter), alarms_json, count])

    def _next_alarm_rows(
        self, review_filter: ReviewFilter, after: ReviewCursor, count: int, alarms_json: str
    ) -> list[tuple[Any, ...]]:
        """Return the next rows of active alarms, with their p-value as an additional last column."""
        columns = _PLACE_COLUMNS.replace("stream", f"{CODES[NEW]} AS stream")
        query = (
            f"SELECT {columns}, p_value FROM predictions WHERE {_SHIFTED} AND {_reviewed_condition(review_filter)}"  # noqa: S608
            f" AND (p_value, row) > (?, ?) AND {_MATCHES} ORDER BY p_value, row LIMIT ?"
        )
        values = [alarms_json, after.p_value, after.strange_row, *_match_values(review_filter), count]
        return self._db.rows(query, values)

    def _store_stream(self, prediction_id: str, stream: ReviewStream, probability: float | None = None) -> None:
        self._db.execute(
            "UPDATE predictions SET stream = ?, probability = ? WHERE prediction_id = ?",
            (CODES[stream], probability, prediction_id),
        )

    def _store_p_value(self, prediction_id: str, observation: AnswerObservation) -> None:
        """Store the p-value that orders an answer during an alarm; not for audit rows, which come in drawing order."""
        if observation.p_value is None or (observation.p_value > NEAR and observation.held_up != OUT_OF_DISTRIBUTION):
            return
        self._db.execute(
            "UPDATE predictions SET p_value = ?, answered_at = ? WHERE prediction_id = ?",
            (observation.p_value, observation.at, prediction_id),
        )

    def _is_lead(self, task: str, observation: AnswerObservation) -> bool:
        """Count an answer in its stratum; return whether it is the 1st, 2nd, 4th, 8th, ... there."""
        stratum = observation.label or f"2^{observation.characters.bit_length()} characters"
        rows = self._db.execute(
            "INSERT INTO review_strata (task, digest, stratum, answers) VALUES (?, ?, ?, 1)"
            " ON CONFLICT (task, digest, stratum) DO UPDATE SET answers = answers + 1 RETURNING answers",
            (task, observation.digest, stratum),
        ).fetchall()
        answers = int(rows[0][0])
        if answers == 1:
            self._db.execute(
                "DELETE FROM review_strata WHERE row <= (SELECT row FROM review_strata ORDER BY row DESC"
                " LIMIT 1 OFFSET ?)",
                (STRATA_MAX,),
            )
        return answers & (answers - 1) == 0


def prepare(database: Database) -> None:
    """Add missing columns, tables and triggers to a spool, inside its transaction."""
    existing_columns = {name for _, name, *_ in database.rows("PRAGMA table_info(predictions)")}
    for column, statement in _COLUMNS.items():
        if column not in existing_columns:
            database.execute(statement)
    for statement in _STATEMENTS:
        database.execute(statement)


def _cursor_after(after: ReviewCursor, name: ReviewStream, row: tuple[Any, ...]) -> ReviewCursor:
    number = int(row[1])
    if name == NEW and len(row) > _PLACE_SIZE:
        return after._replace(p_value=float(row[-1]), strange_row=number)
    if name == UNCERTAIN:
        return after._replace(rank=float(row[0]), row=number)
    return after._replace(**{str(name): number})


def _reviewed_condition(review_filter: ReviewFilter) -> str:
    return "reviewed <= 1" if review_filter.include_reviewed else "reviewed = 0"


def _match_values(review_filter: ReviewFilter) -> list[object]:
    """Return the values of `_MATCHES`."""
    confidence_max, task = review_filter.confidence_max, review_filter.task
    return [confidence_max, confidence_max, task, task, task]
