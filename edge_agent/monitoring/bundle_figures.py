"""What is known of a bundle in the field, ready to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edge_agent.formats.status_object import Alarm
from edge_agent.monitoring.answer_observation import FAIR_SOURCES, Source
from edge_agent.monitoring.sequential_tests import DriftStream, RiskEvidence, RiskGuarantee


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
