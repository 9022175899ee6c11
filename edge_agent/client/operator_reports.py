"""Results of the operator's less frequent calls: reports on monitoring, personal data and redaction."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from edge_agent.client.site_state import FieldAlarm, LargeModel
from edge_agent.client.task_description import BundleRef, Task


@dataclass(frozen=True)
class Share:
    """A share with its exact 95% interval; without rows the value is None and the interval 0 to 1."""

    hits: int
    rows: int
    value: float | None
    low: float
    high: float

    def __post_init__(self) -> None:
        """Replace the zeros of a message without rows."""
        if not self.rows:
            vars(self).update(value=None, low=0.0, high=1.0)


NOTHING = Share(0, 0, None, 0.0, 1.0)


@dataclass(frozen=True)
class FieldDay:
    """One day (UTC)."""

    day: str
    """As 2026-11-25."""
    counts: dict[str, int]
    """Counters by name; field.proto lists them."""
    agreement: Share


@dataclass(frozen=True)
class FieldAgreement:
    """How often both models gave the same answer, over all days."""

    source: str
    """shadow, audit, escalated or deferred."""
    label: str
    """The local model's label; empty = all labels, or a task without labels."""
    agreed: Share
    recent: Share = NOTHING
    """The same for the seven newest days."""


@dataclass(frozen=True)
class FieldTest:
    """An anytime-valid test of the risk guarantee of a bundle's confident answers."""

    judge: str
    """people or large-model."""
    wrong: Share
    target: float
    """Largest share that may be judged wrong; for the large model it includes its own error rate, where known."""
    delta: float
    evidence: float
    """Natural logarithm of the evidence against the guarantee, which counts as refuted at `evidence_max`."""
    evidence_max: float
    refuted: bool
    unjudged: int = 0
    """Confident answers of the random audit without a judgement in time; they count as right."""


@dataclass(frozen=True)
class FieldEvent:
    """The share of one event."""

    event: str
    before: float
    now: float


@dataclass(frozen=True)
class FieldStream:
    """A monitored quantity that may drift."""

    what: str
    calibrated: bool
    reference_rows: int
    reference_rows_missing: int
    """Rows still needed before the first comparison; 0 = none."""
    window_rows: int
    windows: int
    """Windows compared so far."""
    events: tuple[FieldEvent, ...]


@dataclass(frozen=True)
class FieldConfidence:
    """Answers at or above a confidence."""

    confidence: float
    answers: Share
    """Their share of all answers with a confidence."""
    agreed: Share
    reviewed: Share = NOTHING
    """Of the answers that both models gave and a person judged: those found right."""
    reviewed_agreed: int = 0
    """Of the same answers: those on which both models agreed."""


@dataclass(frozen=True)
class FieldDisagreement:
    """An input to which the models gave different answers."""

    prediction_id: str
    answer_time: datetime
    """UTC."""
    source: str
    ours: str
    theirs: str
    confidence: float | None


@dataclass(frozen=True)
class FieldLabel:
    """One label of a task, over all days."""

    label: str
    answers: int
    examples: int
    """Inputs to which the large model or a person gave this label."""


@dataclass(frozen=True)
class FieldMoney:
    """Cost of a task's questions to the large model on one day (UTC)."""

    task: str
    day: str
    questions: int
    cost_micros: int
    """Millionths of the currency of the prices."""


@dataclass(frozen=True)
class FieldSeries:
    """All monitoring data of one bundle, or of one question of it, at this site."""

    bundle: BundleRef
    active: bool
    first_time: datetime
    last_time: datetime
    days: tuple[FieldDay, ...]
    totals: dict[str, int]
    agreement: tuple[FieldAgreement, ...]
    tests: tuple[FieldTest, ...]
    streams: tuple[FieldStream, ...]
    alarms: tuple[FieldAlarm, ...]
    confidences: tuple[FieldConfidence, ...]
    """The highest first."""
    disagreements: tuple[FieldDisagreement, ...]
    """The newest first."""
    threshold: float | None
    labels: tuple[FieldLabel, ...] = ()
    question: str = ""
    """Of a decide task: the question concerned."""


@dataclass(frozen=True)
class FieldReport:
    """Monitoring data of the bundles of one task, or of all tasks."""

    series: tuple[FieldSeries, ...]
    tasks: tuple[Task, ...]
    large_model: LargeModel | None
    collect: dict[str, str]
    """local or upstream, by task."""
    money: tuple[FieldMoney, ...] = ()
    """By task and day."""


SEPARATOR = ";"
"""Separates the values that a person enters."""
DEFAULT_TYPE = "NAME"


@dataclass(frozen=True)
class ReplacedSpan:
    """A value that redaction replaces: [start, end) in code points."""

    start: int
    end: int
    placeholder: str
    rule: str
    """A rule, or "model:" with the type."""
    by_rules: bool
    by_model: bool
    score: float
    """The model's probability that it is personal; 0 = only rules found it."""

    @property
    def source(self) -> str:
        """What found the value: rules, model or both."""
        return "both" if self.by_rules and self.by_model else "model" if self.by_model else "rules"


@dataclass(frozen=True)
class RedactionTrial:
    """Result of redacting a text for a test."""

    redacted: str
    spans: tuple[ReplacedSpan, ...]
    model: str
    """The bundle that read the text, task@version; empty = rules alone did."""
    held_because: str
    """Why the redaction model did not read it; empty = it did, or none is configured."""


@dataclass(frozen=True)
class MissedSpan:
    """A personal value that redaction missed: [start, end) in code points."""

    start: int
    end: int
    label: str
    """Its type, such as NAME."""


@dataclass(frozen=True)
class RedactionAuditText:
    """A text drawn by the audit of redaction, original and redacted."""

    row: int
    prediction_id: str
    task: str
    model: str
    text: str
    redacted: str
    spans: tuple[ReplacedSpan, ...]
    missed: tuple[MissedSpan, ...]
    wrong: tuple[int, ...]
    """Indexes in `spans` of values that are not personal."""


def named_values(entry: str) -> list[str]:
    """Split a person's input at SEPARATOR; return the values without empty ones."""
    return [value.strip() for value in entry.split(SEPARATOR) if value.strip()]


def missed_values(text: RedactionAuditText, values: Sequence[str], label: str) -> list[MissedSpan]:
    """Return the spans of a text's unreplaced occurrences of values. Raises ValueError for a value without any."""
    missed_spans: set[tuple[int, int]] = set()
    for value in values:
        occurrences = {match.span() for match in re.finditer(re.escape(value), text.text)}
        missed = {
            (start, end)
            for start, end in occurrences
            if not any(span.start <= start and end <= span.end for span in text.spans)
        }
        if not missed:
            raise ValueError(f"'{value}' {'is already replaced everywhere' if occurrences else 'is not in the text'}")
        missed_spans |= missed
    spans: list[MissedSpan] = []
    for start, end in sorted(missed_spans, key=lambda each: (each[0], -each[1])):
        if not spans or start >= spans[-1].end:
            spans.append(MissedSpan(start, end, label))
    return spans


@dataclass(frozen=True)
class ErasedValues:
    """Result of searching for a person's values, and of erasing the answers found."""

    found: int
    """Answers with one of the values."""
    found_by_digest: int
    """Of these, answers in which redaction had replaced a value."""
    found_by_text: int
    """Of these, answers with a value in plain text only."""
    kept_here: int
    sent: int
    """Of the found answers, those that have left the site, or may have."""
    tasks: dict[str, int]
    """The answers stored here, by task."""
    erased: int
    told: int
    """Answers that the central team is told to erase."""
    erasure: int
    """Number of the erasure in the report; 0 = nothing was erased."""


@dataclass(frozen=True)
class PrivacyTotal:
    """A total since the spool was created."""

    task: str
    what: str
    """captured, replaced, sent, erased, or retention."""
    name: str
    """replaced: the rule or model that found the values."""
    number: int


@dataclass(frozen=True)
class KeptExamples:
    """Number of a task's stored answers."""

    task: str
    kept: int
    waiting: int
    """Of these, answers that may leave the site and wait to be sealed."""
    sealed: int


@dataclass(frozen=True)
class ErasureRecord:
    """One request for erasure."""

    number: int
    erase_time: datetime
    erased: int
    told: int
    confirmed: int
    """Of those told, answers whose erasure is confirmed by the central team's signed receipt."""


@dataclass(frozen=True)
class SitePrivacy:
    """The privacy report."""

    counts: tuple[PrivacyTotal, ...] = ()
    held: tuple[KeptExamples, ...] = ()
    erasures: tuple[ErasureRecord, ...] = ()
    digests: int = 0
    digests_max: int = 0
    digest_days: float = 0.0
    retention_days: dict[str, float] = field(default_factory=dict)
