"""The random audit of redaction: a person at the site compares redacted texts with their originals.

A share of the texts that the redaction model has read is drawn at random, in the transaction that stores the answer.
The original of a drawn text stays in `spool.db`, which only the daemon's user can read, until a person has judged it
or its retention is over; it is in no segment, log or support bundle. A judged text with a missed value stays until
then, as a training row for the next redaction bundle.

Values found and missed are counted per bundle, without texts, as one outcome per text. The share of missed values has
an anytime-valid confidence interval (statistics.missed_interval).
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from edge_agent.capture.redact import RULES_VERSION
from edge_agent.capture.redact.redactor import ReplacedValue
from edge_agent.durable.sqlite_database import Database
from edge_agent.errors import InvalidRequest, PredictionUnknown
from edge_agent.formats.calibration_and_gate import MissedBound
from edge_agent.formats.status_object import RedactionReport
from edge_agent.statistics import Interval, MissedValues, missed_interval

VALUES_MAX = 5
"""Maximum values counted per text, for a bundle without a bound that states it."""
VALUES_COUNTED_MAX = 100
"""Stored per text; it bounds the number of distinct outcomes."""
MODELS_MAX = 20
"""Bundles whose outcomes are kept; the oldest are deleted first."""
LABEL_CHARACTERS_MAX = 60
SECONDS_PER_DAY = 86_400.0
_MILLION = 1_000_000
_STATEMENTS = (
    "CREATE TABLE IF NOT EXISTS redaction_audit (row INTEGER PRIMARY KEY AUTOINCREMENT, prediction_id TEXT NOT NULL"
    " UNIQUE, until REAL NOT NULL, judged INTEGER NOT NULL DEFAULT 0, record BLOB NOT NULL) STRICT",
    "CREATE TABLE IF NOT EXISTS redaction_outcomes (row INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL,"
    " found INTEGER NOT NULL, missed INTEGER NOT NULL, texts INTEGER NOT NULL, UNIQUE (model, found, missed)) STRICT",
    # So that an earlier agent version, without the audit, also erases its texts.
    "CREATE TRIGGER IF NOT EXISTS redaction_audit_erased AFTER INSERT ON tombstones BEGIN"
    " DELETE FROM redaction_audit WHERE prediction_id = new.prediction_id; END",
)


class MarkedSpan(NamedTuple):
    """A missed value: [start, end) in code points, and the type that the reviewer gave it."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class DrawnText:
    """A text that the audit has drawn, before it is stored."""

    model: str
    """The bundle that read it, task@version."""
    text: str
    redacted: str
    replaced: tuple[ReplacedValue, ...]


@dataclass(frozen=True)
class AuditedText:
    """A drawn text and the judgement of a person."""

    row: int
    prediction_id: str
    task: str
    drawn: DrawnText
    missed: tuple[MarkedSpan, ...] = ()
    wrong: tuple[int, ...] = ()
    """Indices in `drawn.replaced` of values that are not personal."""


@dataclass(frozen=True)
class AuditFigures:
    """The audit's results for one bundle."""

    model: str
    waiting: int
    """Texts of all bundles that wait for a person."""
    texts: int
    values: int
    missed: int
    share: Interval
    """Confidence interval of the share of missed values, valid at every moment."""
    target: float | None
    """The share of missed values that the bundle guarantees; None = no guarantee."""

    @property
    def is_exceeded(self) -> bool:
        """Whether the interval lies above the guaranteed share."""
        return self.target is not None and self.share.low > self.target

    def report(self, bound: MissedBound | None) -> RedactionReport:
        """Return the figures for the central team, shares in parts per million."""
        return RedactionReport(
            model=self.model,
            rules=RULES_VERSION,
            proved_rules=bound.rules if bound else "",
            target=None if self.target is None else round(_MILLION * self.target),
            waiting=self.waiting,
            texts=self.texts,
            values=self.values,
            missed=self.missed,
            low=math.floor(_MILLION * self.share.low),
            high=math.ceil(_MILLION * self.share.high),
        )


@dataclass(frozen=True)
class AuditLimits:
    """How long drawn texts are kept, and how many."""

    texts_max: int
    days: float
    retention_days: Mapping[str, float] = field(default_factory=dict)
    """By task, where retention is shorter."""

    def seconds(self, task: str) -> float:
        """Return how long a text of a task is kept, in seconds."""
        return SECONDS_PER_DAY * min(self.days, self.retention_days.get(task.partition("/")[0], self.days))


class RedactionAudit:
    """The drawn texts of one spool. Methods that change something run inside the spool's transaction."""

    def __init__(self, database: Database, limits: AuditLimits, calendar: Callable[[], float]) -> None:
        """Add the tables, inside a transaction; `calendar` gives seconds that never go back."""
        self._db, self._limits, self._calendar = database, limits, calendar
        self._interval: tuple[object, Interval] | None = None
        for statement in _STATEMENTS:
            database.execute(statement)

    def add(self, prediction_id: str, task: str, drawn: DrawnText) -> bool:
        """Store a drawn text; return whether it was stored: not with `texts_max` already there."""
        ((text_count,),) = self._db.rows("SELECT count(*) FROM redaction_audit")
        if text_count >= self._limits.texts_max:
            return False
        until = self._calendar() + self._limits.seconds(task)
        row = (prediction_id, until, _encode(task, drawn))
        query = "INSERT INTO redaction_audit (prediction_id, until, record) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return bool(self._db.execute(query, row).rowcount)

    def page(self, after: int, count: int, *, judged: bool) -> list[AuditedText]:
        """Return drawn texts after a row, the oldest first: judged ones, or those that wait for a person."""
        query = (
            "SELECT row, prediction_id, record FROM redaction_audit WHERE judged = ? AND row > ? ORDER BY row LIMIT ?"
        )
        return [_decode(*row) for row in self._db.rows(query, (judged, after, count))]

    def judge(self, prediction_id: str, missed: Iterable[MarkedSpan], wrong: Iterable[int]) -> None:
        """Store and count the judgement of a person on a drawn text. A text without missed values is deleted.

        Raises:
            PredictionUnknown: no text of the prediction waits.
            InvalidRequest: a span is not in the text or was replaced, or an index is out of range.
        """
        query = "SELECT row, prediction_id, record FROM redaction_audit WHERE prediction_id = ? AND judged = 0"
        rows = self._db.rows(query, (prediction_id,))
        if not rows:
            raise PredictionUnknown(
                f"no text of the prediction {prediction_id[:80]} waits for the audit of redaction",
                remedy="It was judged or erased, or it expired; 'edge-agent redact --audit' shows what waits.",
            )
        text = _decode(*rows[0])
        spans, wrong_indices = sorted(set(missed)), sorted(set(wrong))
        _check_marks(text.drawn, spans, wrong_indices)
        found = len(text.drawn.replaced) - len(wrong_indices)
        if spans:
            record = _encode(text.task, text.drawn, spans, wrong_indices)
            self._db.execute("UPDATE redaction_audit SET judged = 1, record = ? WHERE row = ?", (record, text.row))
        else:
            self._db.execute("DELETE FROM redaction_audit WHERE row = ?", (text.row,))
        self._count_outcome(text.drawn.model, min(found, VALUES_COUNTED_MAX), min(len(spans), VALUES_COUNTED_MAX))

    def erase(self, prediction_id: str) -> None:
        """Delete the text of a prediction; its counts remain."""
        self._db.execute("DELETE FROM redaction_audit WHERE prediction_id = ?", (prediction_id,))

    def can_expire(self) -> bool:
        """Return whether `expire` would delete something; writes nothing."""
        return bool(self._db.rows("SELECT 1 FROM redaction_audit WHERE until < ? LIMIT 1", (self._calendar(),)))

    def expire(self) -> int:
        """Delete the texts whose retention is over; return how many."""
        return self._db.execute("DELETE FROM redaction_audit WHERE until < ?", (self._calendar(),)).rowcount

    def figures(self, model: str, bound: MissedBound | None) -> AuditFigures:
        """Return the figures of a bundle."""
        ((waiting,),) = self._db.rows("SELECT count(*) FROM redaction_audit WHERE judged = 0")
        rows = self._db.rows("SELECT found, missed, texts FROM redaction_outcomes WHERE model = ?", (model,))
        values_max = bound.values_max if bound else VALUES_MAX
        key = (tuple(sorted(rows)), values_max)
        if self._interval is None or self._interval[0] != key:
            outcomes: Counter[MissedValues] = Counter()
            for found, missed, texts in rows:
                values = found + missed
                capped = min(values, values_max)  # the outcome is scaled down to at most this many values
                outcomes[MissedValues(float(capped), missed * capped / values if values else 0.0)] += texts
            self._interval = key, missed_interval(outcomes, values_max)
        return AuditFigures(
            model=model,
            waiting=waiting,
            texts=sum(texts for _, _, texts in rows),
            values=sum((found + missed) * texts for found, missed, texts in rows),
            missed=sum(missed * texts for _, missed, texts in rows),
            share=self._interval[1],
            target=bound.target if bound else None,
        )

    def _count_outcome(self, model: str, found: int, missed: int) -> None:
        self._db.execute(
            "INSERT INTO redaction_outcomes (model, found, missed, texts) VALUES (?, ?, ?, 1)"
            " ON CONFLICT (model, found, missed) DO UPDATE SET texts = texts + 1",
            (model, found, missed),
        )
        self._db.execute(
            "DELETE FROM redaction_outcomes WHERE model NOT IN (SELECT model FROM redaction_outcomes GROUP BY model"
            " ORDER BY max(row) DESC LIMIT ?)",
            (MODELS_MAX,),
        )


def _check_marks(drawn: DrawnText, missed: list[MarkedSpan], wrong: list[int]) -> None:
    """Raise InvalidRequest for marks that do not fit the text."""
    ends = [0, *(each.end for each in missed)]
    for span, last_end in zip(missed, ends, strict=False):
        if not last_end <= span.start < span.end <= len(drawn.text) or not drawn.text[span.start : span.end].strip():
            message = f"a missed value from {span.start} to {span.end} is not within the {len(drawn.text)} characters"
            raise InvalidRequest(message, remedy="Mark spans in the order of the text, without overlap.")
        if not span.label or len(span.label) > LABEL_CHARACTERS_MAX:
            raise InvalidRequest(f"the type of a missed value has 1 to {LABEL_CHARACTERS_MAX} characters")
        if any(each.start <= span.start and span.end <= each.end for each in drawn.replaced):
            raise InvalidRequest(f"the value from {span.start} to {span.end} was replaced, so it was not missed")
    if any(not 0 <= index < len(drawn.replaced) for index in wrong):
        raise InvalidRequest(f"the text has {len(drawn.replaced)} replaced values; an index in 'wrong' is out of range")


def _encode(task: str, drawn: DrawnText, missed: Iterable[MarkedSpan] = (), wrong: Iterable[int] = ()) -> bytes:
    record: dict[str, Any] = {
        **{"task": task, "model": drawn.model, "input": drawn.text, "redacted": drawn.redacted},
        "replaced": [
            [each.start, each.end, each.placeholder, each.rule, each.by_rules, each.by_model, each.score]
            for each in drawn.replaced
        ],
        **{"missed": [list(each) for each in missed], "wrong": list(wrong)},
    }
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _decode(row: int, prediction_id: str, record: bytes) -> AuditedText:
    fields = json.loads(record)
    replaced = tuple(ReplacedValue(*each) for each in fields["replaced"])
    drawn = DrawnText(fields["model"], fields["input"], fields["redacted"], replaced)
    missed = tuple(MarkedSpan(*each) for each in fields["missed"])
    return AuditedText(row, prediction_id, fields["task"], drawn, missed, tuple(fields["wrong"]))
