"""The values in calls to capture: answers, feedback, places in the review queue. They do not load the spool."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_agent.capture.redact.model_findings import texts_of_value
from edge_agent.errors import RecordInvalid, StoreDamaged
from edge_agent.formats.example_records import parse_stored

if TYPE_CHECKING:
    from edge_agent.capture.redact.model_findings import ModelFindings
    from edge_agent.formats.calibration_and_gate import MissedBound
    from edge_agent.formats.example_records import ReviewStream, Verdict
    from edge_agent.formats.manifest import Manifest
    from edge_agent.formats.status_object import SiteUpdates, TaskStatus
    from edge_agent.monitoring.answer_observations import AlarmState


@dataclass(frozen=True, slots=True)
class CapturedAnswer:
    """One input and the answer it got."""

    prediction_id: str
    manifest: Manifest
    digest: str
    text: str
    local_answer: str | None
    """The answer of the bundle's model, even if it was withheld; None = it was not asked.

    classify and decide: the best label. extract: a JSON object. generate: the text.
    """
    scores: Sequence[tuple[str, float]] = ()
    """Labels with calibrated scores, best first; like all fields up to `label_mass`, of the local answer."""
    confidence: float | None = None
    threshold: float | None = None
    sure: bool = False
    label_mass: float | None = None
    teacher_answer: str | None = None
    """The answer of the large model, in the form of `local_answer`, which the caller got; None = it was not asked."""
    model: str = ""
    """The large model that answered; empty = none."""
    route: str = "local"
    reasons: tuple[str, ...] = ()
    later: str = ""
    """Why the large model is asked later: deferred or audit; empty = it is not asked."""
    p_value: float | None = None
    """Of the bundle's gate; None = the bundle has no gate."""
    held_up: str = ""
    """Why the answer is not confident; empty = it is, or its kind has no confidence."""
    findings: ModelFindings | None = None
    """The findings of the redaction model in its texts; None = it has not read them."""
    rules_suffice: bool = False
    """The rules alone may redact it, although the site has a redaction model."""
    question: str = ""
    """decide: which question was answered; each answer is an example of its own. Empty for any other kind."""
    teacher_scores: Sequence[tuple[str, float]] = ()
    """classify: each label with the large model's probability; empty = it gave none."""

    @property
    def size(self) -> int:
        """Characters of all its texts: approximately its bytes in a queue in memory."""
        return len(self.text) + len(self.local_answer or "") + len(self.teacher_answer or "")

    @property
    def output(self) -> str:
        """The answer that the caller got, or that was withheld; empty = there is none."""
        return (self.local_answer or "") if self.teacher_answer is None else self.teacher_answer


@dataclass(frozen=True)
class HumanFeedback:
    """A person's feedback on a prediction."""

    feedback_id: str
    prediction_id: str
    reviewer: str
    verdict: Verdict
    value: str = ""
    reason: str = ""
    request_id: str = ""


def texts_to_read(answer: CapturedAnswer) -> list[str]:
    """Return every text of an answer that is redacted, for the redaction model to read."""
    outputs = [output for output in (answer.local_answer, answer.teacher_answer) if output]
    return [answer.text, *(text for output in outputs for text in answer_texts(answer.manifest.task.kind, output))]


def answer_texts(kind: str, answer: str) -> list[str]:
    """Return the texts of an answer: for a record its values and keys, for a label none."""
    if kind == "extract":
        return list(texts_of_value(json.loads(answer))) if answer else []
    return [answer] if kind == "generate" else []


class ReviewCursor(NamedTuple):
    """A place in the review queue: the turn, and the last row of each stream that was shown."""

    turn: int = 0
    audit: int = 0
    diverse: int = 0
    new: int = 0
    rank: float = -1.0
    row: int = 0
    """With `rank`, the place in the uncertain stream."""
    p_value: float = -1.0
    strange_row: int = 0
    """With `p_value`, the place among the answers that an active alarm puts first."""


QUEUE_START = ReviewCursor()
"""Before the first place of the review queue."""


@dataclass(frozen=True)
class ReviewFilter:
    """The predictions that a reviewer asks for."""

    task: str = ""
    """A task with all of its questions, or TASK/QUESTION; empty = all."""
    confidence_max: float | None = None
    """With a limit, the audit is left out: rows selected by confidence are not a random sample."""
    include_reviewed: bool = False
    stream: ReviewStream | None = None
    """Only this stream; None = all, in turns."""


@dataclass(frozen=True)
class ReviewItem:
    """A stored prediction, its feedback, and its place in the review queue."""

    record: dict[str, Any]
    reviewed: bool
    feedback: tuple[dict[str, Any], ...] = ()
    place: ReviewCursor = QUEUE_START
    """In the review queue."""
    stream: ReviewStream = "uncertain"
    probability: float | None = None
    """Probability with which the audit drew it; None = the audit did not draw it."""


@dataclass(frozen=True)
class SpooledPrediction:
    """A stored prediction and the feedback on it."""

    record: bytes
    task: str
    reviewed: bool
    feedback: tuple[bytes, ...]
    stream: ReviewStream = "uncertain"
    probability: float | None = None
    """Probability with which the audit drew it; None = the audit did not draw it."""


def parse_review_item(prediction: SpooledPrediction, place: ReviewCursor = QUEUE_START) -> ReviewItem:
    """Parse the stored records of a prediction. Raises StoreDamaged."""
    try:
        record, feedback = parse_stored(prediction.record), tuple(map(parse_stored, prediction.feedback))
        return ReviewItem(record, prediction.reviewed, feedback, place, prediction.stream, prediction.probability)
    except RecordInvalid:
        remedy = "Check the disk; the answers that are not damaged can be asked for by their prediction_id."
        raise StoreDamaged("an answer in spool.db is damaged", remedy=remedy) from None


def _no_updates() -> SiteUpdates:
    # Only the spool's worker loads the status document.
    from edge_agent.formats.status_object import SiteUpdates  # noqa: PLC0415

    return SiteUpdates()


@dataclass(frozen=True)
class SpoolWorkerDependencies:
    """The daemon's tasks, updates and version, and both clocks, in seconds."""

    tasks: Callable[[], Iterable[TaskStatus]]
    version: str
    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    updates: Callable[[], SiteUpdates] = _no_updates
    revision: Callable[[], int] = lambda: 0
    """Changes whenever the central team should get a new status at once."""
    redactor: Callable[[], tuple[str, MissedBound | None]] = lambda: ("", None)
    """Returns the bundle that redacts, task@version, empty = none; and its bound on missed values."""
    draw: Callable[[], float] = random.SystemRandom().random
    """Returns a random number, 0 to below 1, for the random audit."""
    replace_alarms: Callable[[tuple[AlarmState, ...]], None] = lambda _: None
    """Called on this thread with the active alarms, at the start and after each change."""
