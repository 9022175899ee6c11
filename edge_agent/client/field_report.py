"""What `field_report` returns: how bundles do in production, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
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
