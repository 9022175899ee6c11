"""Questions for the large model that are asked later, and its answers, the teacher labels: two tables of spool.db.

A question is stored in the transaction that stores its prediction, with a copy of that record, which is redacted. It is
marked as asked on the disk before it leaves, so it is never sent twice: if the process crashes, the outcome is unknown,
and the question is dropped. The label replaces its question in one transaction.

Both tables are bounded. The oldest question of the same kind is dropped first, so that questions deferred in a long
outage do not displace the random ones, which load must not bias.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edge_agent.capture.spool import ROW_OVERHEAD_BYTES, PredictionRecord, Spool
from edge_agent.config import EscalationConfig
from edge_agent.formats.example_records import Why

QUESTION_ORDER: tuple[Why, ...] = ("audit", "deferred")
"""The order of asking: random ones first, since they are few."""
_DELETE_OLDEST = (
    "DELETE FROM questions WHERE row IN"
    " (SELECT row FROM questions WHERE why = ? AND asked = 0 ORDER BY row LIMIT ?) RETURNING size"
)
_SUMS = "SELECT why, count(*), sum(size) FROM questions GROUP BY why"


@dataclass(frozen=True)
class TeacherQuestion:
    """One input that the large model is to be asked about."""

    prediction_id: str
    task: str
    """TASK/QUESTION of a question of a decide task."""
    why: Why
    record: bytes
    """The prediction's record as the spool keeps it."""


@dataclass(frozen=True)
class QueuedQuestions:
    """The questions in the queue."""

    counts: dict[str, int]
    """By reason, including those under way."""
    oldest_seconds: float = 0.0
    """Age of the oldest question, in seconds of running; 0 = none waits."""


class TeacherQuestionQueue:
    """The questions and labels of one spool. Methods that change something run inside the spool's transaction."""

    def __init__(self, spool: Spool, config: EscalationConfig) -> None:
        """Open the queue; drop questions that an earlier process asked and that have no answer."""
        self._spool, self._db, self._config = spool, spool.db, config
        if self._db.rows("SELECT 1 FROM questions WHERE asked = 1 LIMIT 1"):
            with spool.transaction():
                lost_rows = self._db.rows("DELETE FROM questions WHERE asked = 1 RETURNING row")
                spool.counters["questions_lost"] += len(lost_rows)
        self.count = sum(self.queued().counts.values())
        """Approximate number of questions, for other threads."""

    def add_questions(self, predictions: Iterable[PredictionRecord]) -> None:
        """Store the question of each prediction that has one, and drop the oldest beyond the bounds."""
        with_question = [prediction for prediction in predictions if prediction.later]
        for prediction in with_question:
            size = len(prediction.record) + ROW_OVERHEAD_BYTES
            row = (
                *(prediction.prediction_id, prediction.task, prediction.later, prediction.consent),
                *(self._spool.clock, size, prediction.record),
            )
            self._db.execute(
                "INSERT INTO questions (prediction_id, task, why, consent, kept_at, size, record)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (prediction_id) DO NOTHING",
                row,
            )
            self._spool.counters[f"questions_{prediction.later}"] += 1
        if with_question:
            self._drop_surplus_questions()

    def next_question(self, tasks: Collection[str]) -> TeacherQuestion | None:
        """Return the next question of these tasks; None = none waits. Writes nothing."""
        marks = ", ".join("?" * len(tasks))
        query = (
            "SELECT prediction_id, task, why, record FROM questions"  # noqa: S608 - marks only
            f" WHERE why = ? AND asked = 0 AND substr(task, 1, instr(task || '/', '/') - 1) IN ({marks})"
            " ORDER BY row LIMIT 1"
        )
        questions = (TeacherQuestion(*row) for why in QUESTION_ORDER for row in self._db.rows(query, (why, *tasks)))
        return next(questions, None)

    def mark_asked(self, question: TeacherQuestion) -> None:
        """Mark a question as asked; once the mark is on the disk, the question is not asked again."""
        self._db.execute("UPDATE questions SET asked = 1 WHERE prediction_id = ?", (question.prediction_id,))

    def put_back(self, question: TeacherQuestion) -> None:
        """Requeue a question that certainly did not reach a large model."""
        self._db.execute("UPDATE questions SET asked = 0 WHERE prediction_id = ?", (question.prediction_id,))

    def give_up(self, question: TeacherQuestion) -> None:
        """Drop a question that got no usable answer."""
        self._spool.counters["questions_failed"] += self._delete_question(question) is not None

    def store_label(self, question: TeacherQuestion, record: bytes) -> bool:
        """Replace a question by its label; False = the input was erased in the meantime."""
        consent = self._delete_question(question)
        if consent is None:
            return False
        size = len(record) + ROW_OVERHEAD_BYTES
        self._db.execute(
            "INSERT INTO opinions (prediction_id, consent, size, record) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (prediction_id) DO NOTHING",
            (question.prediction_id, consent, size, record),
        )
        self._spool.counters["opinions"] += 1
        ((total_size,),) = self._db.rows("SELECT sum(size) FROM opinions")
        delete_oldest = "DELETE FROM opinions WHERE row = (SELECT min(row) FROM opinions) RETURNING size"
        while total_size > self._config.later_bytes_max:
            ((deleted_size,),) = self._db.rows(delete_oldest)
            self._spool.counters["opinions_crowded"] += 1
            total_size -= deleted_size
        return True

    def audit_label(self, prediction_id: str) -> str | None:
        """Return the teacher label of a randomly drawn input; None = there is none, or it is no longer here."""
        rows = self._db.rows("SELECT record FROM opinions WHERE prediction_id = ?", (prediction_id,))
        label = json.loads(rows[0][0]) if rows else {}
        return str(label["value"]) if label.get("why") == "audit" else None

    def can_expire(self) -> bool:
        """Return whether `expire` would drop something; writes nothing."""
        return bool(self._db.rows("SELECT 1 FROM questions WHERE kept_at < ? AND asked = 0 LIMIT 1", (self._cutoff,)))

    def expire(self) -> None:
        """Drop questions that are too old to be asked."""
        rows = self._db.rows("DELETE FROM questions WHERE kept_at < ? AND asked = 0 RETURNING row", (self._cutoff,))
        self._spool.counters["questions_expired"] += len(rows)
        self.count -= len(rows)

    def queued(self) -> QueuedQuestions:
        """Count the questions in the queue."""
        counts = dict.fromkeys(QUESTION_ORDER, 0) | {why: count for why, count, _ in self._db.rows(_SUMS)}
        ((oldest,),) = self._db.rows("SELECT min(kept_at) FROM questions")
        return QueuedQuestions({**counts}, 0.0 if oldest is None else max(0.0, self._spool.clock - oldest))

    @property
    def _cutoff(self) -> float:
        return self._spool.clock - self._config.later_seconds_max

    def _delete_question(self, question: TeacherQuestion) -> int | None:
        """Delete a question; return the consent of its input, None = the question is no longer there."""
        query = "DELETE FROM questions WHERE prediction_id = ? RETURNING consent"
        rows = self._db.rows(query, (question.prediction_id,))
        self.count -= len(rows)
        return rows[0][0] if rows else None

    def _drop_surplus_questions(self) -> None:
        for why, count, size in self._db.rows(_SUMS):
            surplus_rows, surplus_bytes = count - self._config.later_questions_max, size - self._config.later_bytes_max
            while surplus_rows > 0 or surplus_bytes > 0:
                rows = self._db.rows(_DELETE_OLDEST, (why, max(1, surplus_rows)))
                if not rows:  # the rest is under way
                    break
                self._spool.counters["questions_crowded"] += len(rows)
                surplus_rows, surplus_bytes = surplus_rows - len(rows), surplus_bytes - sum(row[0] for row in rows)
        self.count = sum(self.queued().counts.values())
