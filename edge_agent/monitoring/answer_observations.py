"""What is counted of an answer, as names and events, and the figures of a bundle in production. Pure."""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from edge_agent.formats.calibration_and_gate import OUT_OF_DISTRIBUTION, Confidence, Threshold
from edge_agent.formats.example_records import local_answer
from edge_agent.formats.manifest import LABEL_KINDS, Manifest
from edge_agent.formats.status_object import Alarm
from edge_agent.monitoring.risk_and_drift import DriftStream, EventSample, RiskEvidence, RiskGuarantee

Source = Literal["shadow", "audit", "escalated", "deferred"]
"""Why the large model also answered: in shadow mode, by random audit, for low confidence, or for that but later."""
FAIR_SOURCES: tuple[Source, ...] = ("shadow", "audit")
"""Sources whose choice of inputs does not depend on the local model's answers."""
CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(1, 20))
LENGTHS = tuple(2**step for step in range(18))
"""Characters; each bound is an event: the input is at most this long."""
FLOORS: dict[Alarm, float] = {"labels": 0.10, "confidence": 0.10, "novelty": 0.05, "length": 0.15}
"""Minimum difference of shares that counts as drift."""


class ModelPair(NamedTuple):
    """Both models' answers to one input; `ours` (local) and `theirs` (large) are empty unless they are labels."""

    source: Source
    agreed: bool
    ours: str
    theirs: str


@dataclass(frozen=True, slots=True)
class AnswerObservation:
    """What monitoring uses of one answer."""

    prediction_id: str
    manifest: Manifest
    digest: str
    at: float
    """Seconds since 1970 by the wall clock, which may be wrong."""
    characters: int
    route: str
    reason: str
    """The first reason of the route."""
    ours: str | None
    """The local model's answer; None = it did not run."""
    confidence: float | None
    sure: bool
    """The answer is confident: by threshold, floor and gate."""
    unusual: bool
    """Unlike the inputs of calibration."""
    held_up: str = ""
    """Why it is not confident; empty = it is, or has no confidence."""
    pair: ModelPair | None = None
    label: str = ""
    """The label that the caller got; empty = none."""
    p_value: float | None = None
    """Of the bundle's gate; None = there is no gate, or the local model did not run."""
    question: str = ""
    """The answered question of a decide task."""

    @property
    def key(self) -> str:
        """Key of its counts: its task, or TASK/QUESTION."""
        return f"{self.manifest.task.name}/{self.question}" if self.question else self.manifest.task.name

    @property
    def calibration(self) -> Confidence:
        """The calibration that the answer was graded by."""
        return self.manifest.confidence_of(self.question)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The possible labels; none for a kind without labels and for a question of the call."""
        name = self.question or self.manifest.task.name
        return next((question.outputs for question in self.manifest.task.questions_asked if question.name == name), ())

    @property
    def is_of_call(self) -> bool:
        """Whether the question came with the call, which defines its name and labels."""
        return bool(self.question) and all(each.name != self.question for each in self.manifest.task.questions)

    @property
    def accepted(self) -> bool:
        """Whether the bundle's risk guarantee covers this answer."""
        return self.confidence is not None and self.sure and not self.unusual

    @property
    def reach(self) -> float | None:
        """The highest threshold at which it would be confident: its confidence, or 0 if the gate rejects the input."""
        return 0.0 if self.held_up == OUT_OF_DISTRIBUTION else self.confidence

    def names(self) -> Iterator[str]:
        """Yield the names of the daily counts that it adds to."""
        yield "answers"
        yield f"route:{self.route}"
        yield f"reason:{self.reason}"
        if self.route == "upstream":
            yield "examples"
        if self.confidence is not None:
            yield "graded"
            if self.sure:
                yield "confident"
        if self.accepted:
            yield "sure"
        if self.unusual:
            yield "unusual"
        if self.held_up:
            yield f"held_up:{self.held_up}"

    def events(self) -> Mapping[Alarm, tuple[str, ...]]:
        """Return its events by drift alarm; alarms that do not apply to it are left out."""
        by_alarm: dict[Alarm, tuple[str, ...]] = {"length": _up_to(LENGTHS, self.characters)}
        if self.confidence is None or self.is_of_call:
            return by_alarm
        if self.manifest.task.kind in LABEL_KINDS:
            by_alarm["labels"] = (self.ours or "",)
        if isinstance(self.calibration, Threshold):
            by_alarm["confidence"] = ("sure",) if self.sure else ()
        else:
            by_alarm["confidence"] = _up_to(CONFIDENCES, self.confidence)
        if self.calibration.novelty:
            by_alarm["novelty"] = ("unusual",) if self.unusual else ()
        return by_alarm


def _up_to(bounds: tuple[float, ...], value: float) -> tuple[str, ...]:
    return _names_from(bounds, bisect.bisect_left(bounds, value))


@functools.cache
def _names_from(bounds: tuple[float, ...], first: int) -> tuple[str, ...]:
    return tuple(f"{bound:g}" for bound in bounds[first:])


def risk_guarantee(confidence: Confidence) -> RiskGuarantee | None:
    """Return a calibration's guarantee; None = it has none. Two tests share its `delta`: people and the large model."""
    return RiskGuarantee(confidence.target_risk, confidence.delta / 2) if isinstance(confidence, Threshold) else None


def possible_events(answer: AnswerObservation) -> Mapping[Alarm, int]:
    """Return, for each property of answers like this one that may drift, the number of its possible events."""
    confidences = 1 if isinstance(answer.calibration, Threshold) else len(CONFIDENCES)
    labels = len(answer.outputs or answer.manifest.task.labels)
    return {"labels": labels, "confidence": confidences, "novelty": 1, "length": len(LENGTHS)}


def initial_stream(confidence: Confidence, alarm: Alarm) -> DriftStream:
    """Return an empty stream; its reference is the calibration, if the manifest has the figures."""
    if not isinstance(confidence, Threshold):
        return DriftStream()
    if alarm == "confidence":
        counts = {"sure": round(confidence.coverage * confidence.n)}
    elif alarm == "novelty":
        # Three limits, each with 1 + n // 200 calibration inputs at or beyond it (convert/calibrate/gate_rows.py).
        counts = {"unusual": min(confidence.n, 3 * (1 + confidence.n // 200))}
    else:
        return DriftStream()
    return DriftStream(EventSample(confidence.n, counts), calibrated=True)


def is_local_answer_wrong(prediction: Mapping[str, Any], feedback: Mapping[str, Any]) -> bool | None:
    """Return whether a person found the local answer of a stored prediction wrong; None = not known."""
    output, ours = prediction["output"], local_output(prediction)
    if ours is None:
        return None
    if feedback["verdict"] == "reject":
        return True if ours == output else None
    right_answer = output if feedback["verdict"] == "accept" else feedback["value"]
    return not is_same_answer(prediction["kind"], ours, right_answer)


def is_same_answer(kind: str, one: str, other: str) -> bool:
    """Return whether two answers are equal; records are compared as parsed JSON."""
    return one == other or (kind == "extract" and _parse_record(one) == _parse_record(other))


def _parse_record(record: str) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return record


def reach(prediction: Mapping[str, Any]) -> float | None:
    """Return the highest threshold at which a stored prediction would be confident, as `AnswerObservation.reach`."""
    return 0.0 if OUT_OF_DISTRIBUTION in prediction["reason"].split() else local_confidence(prediction)


def local_output(prediction: Mapping[str, Any]) -> str | None:
    """Return the local model's answer of a stored prediction; None = there is none, or it was not stored."""
    local = local_answer(prediction)
    return local["answer"] if local else None


def local_confidence(prediction: Mapping[str, Any]) -> float | None:
    """Return the local model's confidence; None = its kind has none, or there is no local answer."""
    local = local_answer(prediction)
    return local["confidence"] if local else None


@dataclass(frozen=True)
class AlarmState:
    """An alarm that was raised."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    digest: str
    alarm: Alarm
    since: float
    """Seconds since 1970."""
    message: str
    ended: float = 0.0
    """When it ended, in seconds since 1970; 0 = it is active."""


class ShiftedInputs(NamedTuple):
    """The answers that an active alarm `new_inputs` concerns: those of a task since a time."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    since: float
    """Seconds since 1970; the message of the alarm names the day."""


@dataclass(frozen=True)
class AgreementCount:
    """How often both models agreed on one day."""

    day: int
    """Days since 1970, UTC."""
    source: Source
    label: str
    """The local model's label; empty for a kind without labels."""
    pairs: int
    agreed: int

    @property
    def is_fair(self) -> bool:
        """Whether its inputs were chosen independently of the local model's answers."""
        return self.source in FAIR_SOURCES


@dataclass(frozen=True)
class ModelDisagreement:
    """One input on which the models disagreed."""

    prediction_id: str
    at: float
    source: Source
    ours: str
    theirs: str
    confidence: float
    """-1 = none."""


@dataclass(frozen=True)
class ConfidenceCount:
    """Answers by confidence in hundredths, rounded down."""

    hundredths: int
    answers: int
    pairs: int
    """Of `answers`: those that the large model answered, too, from FAIR_SOURCES."""
    agreed: int
    reviewed: int = 0
    """Of `pairs`: those that a person has judged since."""
    reviewed_agreed: int = 0
    """Of `reviewed`: those on which both models agreed."""
    right: int = 0
    """Of `reviewed`: those in which the person found the local model right."""


@dataclass(frozen=True)
class LabelCount:
    """One label of a task."""

    label: str
    answers: int
    """Answers with this label."""
    examples: int
    """Inputs with this label from the large model or a person."""


@dataclass(frozen=True)
class DailySpend:
    """The cost of a task's questions to the large model on one day."""

    task: str
    day: int
    """Days since 1970, UTC."""
    questions: int
    micros: int
    """Millionths of the currency of the prices."""


@dataclass(frozen=True)
class BundleSummary:
    """A bundle's main figures, for metrics."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    digest: str
    guarantee: RiskGuarantee | None
    evidence: Mapping[str, RiskEvidence]
    """By judge: people, large-model."""
    pairs: int
    agreed: int
    """Of `pairs`; both from FAIR_SOURCES."""


@dataclass(frozen=True)
class BundleSeries:
    """All figures of one bundle at this site."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    digest: str
    version: str
    first: float
    last: float
    days: Mapping[int, Mapping[str, int]]
    """Counts by name, by day since 1970."""
    agreement: tuple[AgreementCount, ...]
    confidences: tuple[ConfidenceCount, ...]
    guarantee: RiskGuarantee | None
    evidence: Mapping[str, RiskEvidence]
    streams: Mapping[Alarm, DriftStream]
    alarms: tuple[AlarmState, ...]
    disagreements: tuple[ModelDisagreement, ...] = field(default=())
    labels: tuple[LabelCount, ...] = ()
