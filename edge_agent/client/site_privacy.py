"""What a site tells about personal data: value classes of the client, without any text."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime


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
