"""The review queue as its callers see it: what they ask for, what they get, and their place in it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_agent.errors import RecordInvalid, StoreDamaged
from edge_agent.formats.example_records import parse_stored

if TYPE_CHECKING:
    from edge_agent.formats.example_records import ReviewStream


class ReviewCursor(NamedTuple):
    """A place in the review queue: behind how many turns, and behind which row of each stream."""

    turn: int = 0
    audit: int = 0
    diverse: int = 0
    new: int = 0
    rank: float = -1.0
    row: int = 0
    """With `rank`, of the uncertain stream."""


QUEUE_START = ReviewCursor()
"""Before the first place of the review queue."""


@dataclass(frozen=True)
class ReviewFilter:
    """Which predictions a reviewer wants to see."""

    task: str = ""
    """A task with all of its questions, or TASK/QUESTION; empty = all."""
    confidence_max: float | None = None
    """Then without the audit: who chooses among its rows by confidence makes them no random sample any more."""
    include_reviewed: bool = False
    stream: ReviewStream | None = None
    """Only this one; None = all, in turns."""


@dataclass(frozen=True)
class ReviewItem:
    """A kept prediction, its feedback, and its place in the review queue."""

    record: dict[str, Any]
    reviewed: bool
    feedback: tuple[dict[str, Any], ...] = ()
    place: ReviewCursor = QUEUE_START
    """In the review queue."""
    stream: ReviewStream = "uncertain"
    probability: float | None = None
    """With which the audit drew it; None = it did not."""


@dataclass(frozen=True)
class SpooledPrediction:
    """A kept prediction and the feedback on it."""

    record: bytes
    task: str
    reviewed: bool
    feedback: tuple[bytes, ...]
    stream: ReviewStream = "uncertain"
    probability: float | None = None
    """With which the audit drew it; None = it did not."""


def parse_review_item(found: SpooledPrediction, place: ReviewCursor = QUEUE_START) -> ReviewItem:
    """Parse what the spool keeps of a prediction. Raises StoreDamaged."""
    try:
        said = tuple(map(parse_stored, found.feedback))
        return ReviewItem(parse_stored(found.record), found.reviewed, said, place, found.stream, found.probability)
    except RecordInvalid:
        remedy = "Check the disk; the answers that are not damaged can be asked for by their prediction_id."
        raise StoreDamaged("an answer in spool.db is damaged", remedy=remedy) from None
