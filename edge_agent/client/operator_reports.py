"""What the rarer calls of an operator return: reports of the field, of personal data and of redaction."""

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
        """Without rows, a message has zeros where nothing is known."""
        if not self.rows:
            vars(self).update(value=None, low=0.0, high=1.0)


NOTHING = Share(0, 0, None, 0.0, 1.0)


@dataclass(frozen=True)
class FieldDay:
    """One day (UTC)."""

    day: str
    """As 2026-11-25."""
    counts: dict[str, int]
    """By name: field.proto lists them."""
    agreement: Share


@dataclass(frozen=True)
class FieldAgreement:
    """How often both models said the same, over all days."""

    source: str
    """shadow, audit, escalated or deferred."""
    label: str
    """Of the small model; empty = all labels, or none."""
    agreed: Share
    recent: Share = NOTHING
    """Of the seven newest days alone."""


@dataclass(frozen=True)
class FieldTest:
    """A test of what a bundle promises of its sure answers, valid at any time."""

    judge: str
    """people or large-model."""
    wrong: Share
    target: float
    """At most such a share may be judged wrong; for the large model with what it errs itself, where that is known."""
    delta: float
    evidence: float
    """Natural logarithm; at `evidence_max` the promise counts as refuted."""
    evidence_max: float
    refuted: bool
    unjudged: int = 0
    """Sure answers of the random audit of which nobody said anything in time; they count as right."""


@dataclass(frozen=True)
class FieldEvent:
    """The share of one event."""

    event: str
    before: float
    now: float


@dataclass(frozen=True)
class FieldStream:
    """Something that may drift."""

    what: str
    calibrated: bool
    reference_rows: int
    reference_rows_missing: int
    """Before anything is compared; 0 = none."""
    window_rows: int
    windows: int
    """That were compared."""
    events: tuple[FieldEvent, ...]


@dataclass(frozen=True)
class FieldConfidence:
    """Answers from one confidence on."""

    confidence: float
    answers: Share
    """Of all that have one."""
    agreed: Share
    reviewed: Share = NOTHING
    """Of the answers that both models gave, and on which a person has spoken: those found right."""
    reviewed_agreed: int = 0
    """On how many of those both had said the same."""


@dataclass(frozen=True)
class FieldDisagreement:
    """An input of which the models said different things."""

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
    """Inputs of which the large model, or a person, said it."""


@dataclass(frozen=True)
class FieldMoney:
    """What questions to the large model about a task have cost on one day (UTC)."""

    task: str
    day: str
    questions: int
    cost_micros: int
    """Millionths of the currency that the prices are in."""


@dataclass(frozen=True)
class FieldSeries:
    """All that is known of one bundle at this site."""

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
    """Of a decide task: the question that is counted here."""


@dataclass(frozen=True)
class FieldReport:
    """How the bundles of a task, or of all, do in the field."""

    series: tuple[FieldSeries, ...]
    tasks: tuple[Task, ...]
    large_model: LargeModel | None
    collect: dict[str, str]
    """local or upstream, by task."""
    money: tuple[FieldMoney, ...] = ()
    """By task and day."""


SEPARATOR = ";"
"""Between the values that a person names."""
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
    """The model's probability that it is personal; 0 = the model has not found it."""

    @property
    def source(self) -> str:
        """What found it: rules, model or both."""
        return "both" if self.by_rules and self.by_model else "model" if self.by_model else "rules"


@dataclass(frozen=True)
class RedactionTrial:
    """What redaction makes of a text."""

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
    """A text that the audit of redaction has drawn, with its original."""

    row: int
    prediction_id: str
    task: str
    model: str
    text: str
    redacted: str
    spans: tuple[ReplacedSpan, ...]
    missed: tuple[MissedSpan, ...]
    wrong: tuple[int, ...]
    """Places in `spans` of what is not personal."""


def named_values(written: str) -> list[str]:
    """Return the values that a person wrote, with SEPARATOR between them."""
    return [value.strip() for value in written.split(SEPARATOR) if value.strip()]


def missed_values(text: RedactionAuditText, values: Sequence[str], label: str) -> list[MissedSpan]:
    """Return where values stand in a text and were not replaced. Raises ValueError for one that stands nowhere."""
    found: set[tuple[int, int]] = set()
    for value in values:
        places = {match.span() for match in re.finditer(re.escape(value), text.text)}
        left = {
            (start, end)
            for start, end in places
            if not any(span.start <= start and end <= span.end for span in text.spans)
        }
        if not left:
            said = "is replaced wherever it stands" if places else "does not stand in the text"
            raise ValueError(f"'{value}' {said}")
        found |= left
    kept: list[MissedSpan] = []
    for start, end in sorted(found, key=lambda each: (each[0], -each[1])):
        if not kept or start >= kept[-1].end:
            kept.append(MissedSpan(start, end, label))
    return kept


@dataclass(frozen=True)
class ErasedValues:
    """What was found by the values of a person, and erased."""

    found: int
    """Answers that concern the values."""
    found_by_digest: int
    """Of these, answers in which redaction had replaced a value."""
    found_by_text: int
    """Of these, answers that have a value in plain text alone."""
    kept_here: int
    sent: int
    """Of these, answers that have left the site, or can have."""
    tasks: dict[str, int]
    """The kept ones, by task."""
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
    """Answers of a task that are kept now."""

    task: str
    kept: int
    waiting: int
    """Of these, answers that can leave and wait to be sealed."""
    sealed: int


@dataclass(frozen=True)
class ErasureRecord:
    """What one request erased."""

    number: int
    erase_time: datetime
    erased: int
    told: int
    confirmed: int
    """Of those told, answers whose erasure the central team has received, by its signed receipt."""


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
