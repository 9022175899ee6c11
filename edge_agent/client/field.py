"""How bundles do in the field, as a client gets it: frozen values, and their translation."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from edge_agent.client import wire
from edge_agent.client.answers import BundleRef, FieldAlarm, Task
from edge_agent.client.large_model import LargeModel
from edge_agent.v1 import admin_pb2, field_pb2


@dataclass(frozen=True)
class Share:
    """A share with its exact 95 % interval; without rows the value is None and the interval 0 to 1."""

    hits: int
    rows: int
    value: float | None
    low: float
    high: float


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


def report(message: admin_pb2.GetFieldReportResponse) -> FieldReport:
    """Translate."""
    return FieldReport(
        series=tuple(map(_series, message.series)),
        tasks=tuple(map(wire.task, message.tasks)),
        large_model=wire.large_model(message.escalation) if message.HasField("escalation") else None,
        collect=dict(message.collect),
        money=tuple(FieldMoney(each.task, each.day, each.questions, each.cost_micros) for each in message.money),
    )


def _series(message: field_pb2.FieldSeries) -> FieldSeries:
    return FieldSeries(
        bundle=wire.bundle_ref(message.bundle),
        active=message.active,
        first_time=_time(message.first_time),
        last_time=_time(message.last_time),
        days=tuple(FieldDay(each.day, dict(each.counts), _share(each.agreement)) for each in message.days),
        totals=dict(message.totals),
        agreement=tuple(
            FieldAgreement(each.source, each.label, _share(each.agreed), _share(each.recent))
            for each in message.agreement
        ),
        tests=tuple(map(_test, message.tests)),
        streams=tuple(map(_stream, message.streams)),
        alarms=tuple(map(wire.field_alarm, message.alarms)),
        confidences=tuple(
            FieldConfidence(
                each.confidence,
                _share(each.answers),
                _share(each.agreed),
                _share(each.reviewed),
                each.reviewed_agreed,
            )
            for each in message.confidences
        ),
        disagreements=tuple(map(_disagreement, message.disagreements)),
        threshold=message.threshold if message.HasField("threshold") else None,
        labels=tuple(FieldLabel(each.label, each.answers, each.examples) for each in message.labels),
    )


def _test(message: field_pb2.FieldTest) -> FieldTest:
    return FieldTest(
        judge=message.judge,
        wrong=_share(message.wrong),
        target=message.target,
        delta=message.delta,
        evidence=message.evidence,
        evidence_max=message.evidence_max,
        refuted=message.refuted,
        unjudged=message.unjudged,
    )


def _stream(message: field_pb2.FieldStream) -> FieldStream:
    return FieldStream(
        what=message.what,
        calibrated=message.calibrated,
        reference_rows=message.reference_rows,
        reference_rows_missing=message.reference_rows_missing,
        window_rows=message.window_rows,
        windows=message.windows,
        events=tuple(FieldEvent(each.event, each.before, each.now) for each in message.events),
    )


def _disagreement(message: field_pb2.FieldDisagreement) -> FieldDisagreement:
    confidence = message.confidence if message.HasField("confidence") else None
    when = _time(message.answer_time)
    return FieldDisagreement(message.prediction_id, when, message.source, message.ours, message.theirs, confidence)


def _share(message: field_pb2.Share) -> Share:
    if not message.rows:
        return NOTHING
    return Share(message.hits, message.rows, message.value, message.low, message.high)


def _time(message: Timestamp) -> datetime:
    return message.ToDatetime(tzinfo=UTC)
