"""What of an answer is counted, as names and events, and what is known of a bundle in the field. Pure."""

from __future__ import annotations

import bisect
import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from edge_agent.formats.calibration import OUT_OF_DISTRIBUTION, Confidence, Threshold
from edge_agent.formats.example_records import local_answer
from edge_agent.formats.manifest import LABEL_KINDS, Manifest
from edge_agent.formats.status_object import Alarm
from edge_agent.monitoring.risk_and_drift import DriftStream, EventSample, RiskEvidence, RiskGuarantee

Source = Literal["shadow", "audit", "escalated", "deferred"]
"""Why the large model spoke of an input too: always in shadow, by chance, because the small one was unsure, later."""
FAIR_SOURCES: tuple[Source, ...] = ("shadow", "audit")
"""Sources that choose their inputs whatever the small model makes of them."""
CONFIDENCES = tuple(round(0.05 * step, 2) for step in range(1, 20))
LENGTHS = tuple(2**step for step in range(18))
"""Characters; an event each: no longer than that."""
FLOORS: dict[Alarm, float] = {"labels": 0.10, "confidence": 0.10, "novelty": 0.05, "length": 0.15}
"""A smaller difference of shares is none."""


class ModelPair(NamedTuple):
    """What both models said of one input; `ours` and `theirs` are empty where these are no labels."""

    source: Source
    agreed: bool
    ours: str
    theirs: str


class DriftKind(NamedTuple):
    """A thing that may drift."""

    alarm: Alarm
    events: int
    """So many can happen."""
    floor: float
    """A smaller difference of shares is none."""


@dataclass(frozen=True, slots=True)
class AnswerObservation:
    """One answer, when it is kept."""

    prediction_id: str
    manifest: Manifest
    digest: str
    at: float
    """Seconds since 1970, by a clock that may be wrong."""
    characters: int
    route: str
    reason: str
    """The first one."""
    ours: str | None
    """What the local model said; None = it was not asked."""
    confidence: float | None
    sure: bool
    """The answer is confident: by threshold, floor and gate."""
    unusual: bool
    """Unlike the inputs of calibration."""
    held_up: str = ""
    """Why it is not confident; empty = it is, or has no confidence."""
    pair: ModelPair | None = None
    label: str = ""
    """That was given; empty = none was."""
    p_value: float | None = None
    """Of the bundle's gate; None = it has none, or the local model was not asked."""
    question: str = ""
    """Of a decide task: which of its questions was answered."""

    @property
    def key(self) -> str:
        """What its counts are kept under: its task, or TASK/QUESTION."""
        return f"{self.manifest.task.name}/{self.question}" if self.question else self.manifest.task.name

    @property
    def calibration(self) -> Confidence:
        """The calibration that the answer was graded by."""
        return self.manifest.confidence_of(self.question)

    @property
    def outputs(self) -> tuple[str, ...]:
        """The labels that the answer could have been; none for a kind without, and for a question of the call."""
        name = self.question or self.manifest.task.name
        return next((each.outputs for each in self.manifest.task.questions_asked if each.name == name), ())

    @property
    def is_of_call(self) -> bool:
        """Tell whether the question came with the call: its name and its labels mean what that call says they do."""
        return bool(self.question) and all(each.name != self.question for each in self.manifest.task.questions)

    @property
    def accepted(self) -> bool:
        """Tell whether the bundle's promise speaks of this answer."""
        return self.confidence is not None and self.sure and not self.unusual

    @property
    def reach(self) -> float | None:
        """The threshold up to which it would be confident: 0 where the gate holds it up, whatever its confidence."""
        return 0.0 if self.held_up == OUT_OF_DISTRIBUTION else self.confidence

    def names(self) -> Iterator[str]:
        """Return what is counted of it, day by day."""
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
        """Return which events happened, by what may drift; what it says nothing of is left out."""
        found: dict[Alarm, tuple[str, ...]] = {"length": _up_to(LENGTHS, self.characters)}
        if self.confidence is None or self.is_of_call:
            return found
        if self.manifest.task.kind in LABEL_KINDS:
            found["labels"] = (self.ours or "",)
        if isinstance(self.calibration, Threshold):
            found["confidence"] = ("sure",) if self.sure else ()
        else:
            found["confidence"] = _up_to(CONFIDENCES, self.confidence)
        if self.calibration.novelty:
            found["novelty"] = ("unusual",) if self.unusual else ()
        return found


def _up_to(bounds: tuple[float, ...], value: float) -> tuple[str, ...]:
    return _names_from(bounds, bisect.bisect_left(bounds, value))


@functools.cache
def _names_from(bounds: tuple[float, ...], first: int) -> tuple[str, ...]:
    return tuple(f"{bound:g}" for bound in bounds[first:])


def risk_guarantee(said: Confidence) -> RiskGuarantee | None:
    """Return what a calibration promises; None = nothing. Two tests share the chance of a false alarm."""
    return RiskGuarantee(said.target_risk, said.delta / 2) if isinstance(said, Threshold) else None


def kinds(one: AnswerObservation) -> Mapping[Alarm, DriftKind]:
    """Return what may drift of answers like this one, and how many events each has."""
    confidences = 1 if isinstance(one.calibration, Threshold) else len(CONFIDENCES)
    every = (
        DriftKind("labels", len(one.outputs or one.manifest.task.labels), FLOORS["labels"]),
        DriftKind("confidence", confidences, FLOORS["confidence"]),
        DriftKind("novelty", 1, FLOORS["novelty"]),
        DriftKind("length", len(LENGTHS), FLOORS["length"]),
    )
    return {kind.alarm: kind for kind in every}


def beginning(said: Confidence, alarm: Alarm) -> DriftStream:
    """Return a stream that has seen nothing: its reference is the calibration where the manifest has it."""
    if not isinstance(said, Threshold):
        return DriftStream()
    if alarm == "confidence":
        return DriftStream(EventSample(said.n, {"sure": round(said.coverage * said.n)}), calibrated=True)
    if alarm == "novelty":
        # Three limits, each with so many of the calibration's inputs at or beyond it (convert/calibrate/gate.py).
        beyond = min(said.n, 3 * (1 + said.n // 200))
        return DriftStream(EventSample(said.n, {"unusual": beyond}), calibrated=True)
    return DriftStream()


def verdict(prediction: Mapping[str, Any], feedback: Mapping[str, Any]) -> bool | None:
    """Return whether a person found the local answer of a kept prediction wrong; None = that is not known."""
    given, ours = prediction["output"], local_output(prediction)
    if ours is None:
        return None
    if feedback["verdict"] == "reject":
        return True if ours == given else None
    right = given if feedback["verdict"] == "accept" else feedback["value"]
    return not same(prediction["kind"], ours, right)


def same(kind: str, one: str, other: str) -> bool:
    """Tell whether two answers say the same: records whatever their spelling."""
    return one == other or (kind == "extract" and _read(one) == _read(other))


def _read(record: str) -> Any:
    try:
        return json.loads(record)
    except ValueError:
        return record


def reach(prediction: Mapping[str, Any]) -> float | None:
    """Return the same of a kept prediction."""
    return 0.0 if OUT_OF_DISTRIBUTION in prediction["reason"].split() else local_confidence(prediction)


def local_output(prediction: Mapping[str, Any]) -> str | None:
    """Return what the local model said of a kept prediction; None = nothing, or it was not kept."""
    local = local_answer(prediction)
    return local["answer"] if local else None


def local_confidence(prediction: Mapping[str, Any]) -> float | None:
    """Return how sure the local model was of that; None = its kind has no confidence, or it said nothing."""
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
    said: str
    ended: float = 0.0
    """When it went away by itself; 0 = it stands."""


class ShiftedInputs(NamedTuple):
    """What a standing alarm `new_inputs` is about: the answers of a task since a moment."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    since: float
    """Seconds since 1970: the alarm names the day."""


@dataclass(frozen=True)
class AgreementCount:
    """How often both models said the same."""

    day: int
    """Days since 1970, UTC."""
    source: Source
    label: str
    """What the small one said; empty where that is no label."""
    pairs: int
    agreed: int

    @property
    def is_fair(self) -> bool:
        """Whether its inputs were chosen whatever the small model makes of them."""
        return self.source in FAIR_SOURCES


@dataclass(frozen=True)
class ModelDisagreement:
    """One input of which the models said different things."""

    prediction_id: str
    at: float
    source: Source
    ours: str
    theirs: str
    confidence: float
    """-1 = none."""


@dataclass(frozen=True)
class ConfidenceCount:
    """Answers with a confidence of so many hundredths, rounded down."""

    hundredths: int
    answers: int
    pairs: int
    """Of these, how many the large model answered too, from a source that chooses fairly."""
    agreed: int
    reviewed: int = 0
    """Of these pairs, on how many a person has spoken since."""
    reviewed_agreed: int = 0
    """Of these, how many were agreed."""
    right: int = 0
    """Of the reviewed ones, how often the person found the small model right."""


@dataclass(frozen=True)
class LabelCount:
    """One label of a task."""

    label: str
    answers: int
    """Answers that gave it."""
    examples: int
    """Inputs of which the large model or a person said it."""


@dataclass(frozen=True)
class DailySpend:
    """What questions to the large model about a task have cost on a day."""

    task: str
    day: int
    """Days since 1970, UTC."""
    questions: int
    micros: int
    """Millionths of the currency that the prices are in."""


@dataclass(frozen=True)
class BundleSummary:
    """A bundle's figures in short, for metrics."""

    task: str
    """TASK/QUESTION of a question of a decide task."""
    digest: str
    promise: RiskGuarantee | None
    evidence: Mapping[str, RiskEvidence]
    """By who judged: people, large-model."""
    pairs: int
    agreed: int
    """From fair sources."""


@dataclass(frozen=True)
class BundleSeries:
    """All that is known of one bundle at this site."""

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
    promise: RiskGuarantee | None
    evidence: Mapping[str, RiskEvidence]
    streams: Mapping[Alarm, DriftStream]
    alarms: tuple[AlarmState, ...]
    disagreements: tuple[ModelDisagreement, ...] = field(default=())
    labels: tuple[LabelCount, ...] = ()
