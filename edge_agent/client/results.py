"""What the calls of a device and of a reviewer return: frozen values, free of gRPC. Tasks are in task_description.py.

Words of an enumeration are the API's without their prefix: a route is "LOCAL", a kind is "CLASSIFY". A number of a
newer daemon that this client has no word for stays as its digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from edge_agent.client.task_description import BundleRef


@dataclass(frozen=True)
class Timings:
    """Where the time of one input went, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    upstream_ms: float = 0.0
    """Waiting for the large model."""

    @property
    def total_ms(self) -> float:
        """All of it."""
        return self.queue_ms + self.prefill_ms + self.decode_ms + self.upstream_ms


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What every answer carries."""

    prediction_id: str
    """Name it in feedback."""
    bundle: BundleRef
    route: str
    """LOCAL, UPSTREAM, ABSTAINED or DEFERRED."""
    timings: Timings
    device: str
    degraded: tuple[str, ...]
    """Why the answer is less than it could be; empty when it is not."""
    input_tokens: int
    output_tokens: int
    route_reason: str = ""
    """Why it took that route; docs/routing.md lists the words."""
    model: str = ""
    """The large model that answered; empty when the route is not UPSTREAM."""
    p_value: float | None = None
    """How well the input resembles the training data, over 0 to 1; None when the bundle has no gate."""


@dataclass(frozen=True, kw_only=True)
class Classification(Answer):
    """The label of one input."""

    label: str
    """Empty when the route is ABSTAINED."""
    confidence: float
    """Calibrated probability that the label is right, 0 to 1."""
    threshold: float | None
    """The least confidence of a confident answer; None when the bundle has none, or none holds on this machine."""
    below_threshold: bool
    """The answer is not confident; also when there is no threshold, or the input is out of distribution."""
    no_threshold_reason: str = ""
    """NOT_CALIBRATED, NONE_PROVED or SCORES_VARY; empty when there is a threshold, or the daemon is of version 0.1."""
    scores: tuple[tuple[str, float], ...]
    """Labels with their probability, best first."""
    label_mass: float
    """Probability left on the label set before renormalising, 0 to 1."""


@dataclass(frozen=True)
class Entity:
    """One value found in a text; `start` and `end` count code points."""

    label: str
    text: str
    start: int
    end: int
    score: float


@dataclass(frozen=True, kw_only=True)
class Extraction(Answer):
    """The record found in one input."""

    json: str
    """A JSON object."""
    entities: tuple[Entity, ...]
    fields: tuple[tuple[str, float], ...]
    """Of a record that was written: each field in it, and how sure the model is of its value, 0 to 1."""
    confidence: float
    """Calibrated probability that the whole record is right, 0 to 1."""
    threshold: float | None
    below_threshold: bool
    no_threshold_reason: str = ""
    """As in `Classification`."""


@dataclass(frozen=True, kw_only=True)
class DecisionAnswer(Answer):
    """The answer to one question about an input; feedback names its `prediction_id`."""

    question: str
    type: str
    """PREDICATE, CHOICE or SCORE."""
    label: str
    """An option, a level, "no" or "yes"; empty when the route is ABSTAINED."""
    probabilities: tuple[tuple[str, float], ...]
    """Every possible answer with its calibrated probability, in the question's order; empty in mode BOOTSTRAP."""
    score: float | None
    """Of a score question, the expected value of the level's place, from 0; None for others, and in mode BOOTSTRAP."""
    confidence: float
    """Calibrated probability that the likeliest answer is right, 0 to 1."""
    threshold: float | None
    below_threshold: bool
    no_threshold_reason: str = ""
    """As in `Classification`: why `calibrated` is false."""
    calibrated: bool
    """The question has a threshold that holds on this machine."""
    confident: bool
    """At or above the threshold, given by the model on this machine, for an input like its training data."""
    label_mass: float
    """Probability left on the possible answers before renormalising, 0 to 1."""


@dataclass(frozen=True)
class Decision:
    """The answers to the questions about one input, in their order."""

    answers: tuple[DecisionAnswer, ...]

    def __getitem__(self, question: str) -> DecisionAnswer:
        """Return the answer to a question by its name. Raises KeyError."""
        for answer in self.answers:
            if answer.question == question:
                return answer
        raise KeyError(question)


@dataclass(frozen=True, kw_only=True)
class Embedding(Answer):
    """The vector of one input."""

    values: tuple[float, ...]


class TokenLogprob(NamedTuple):
    """One token that was written, and what the model thought of it before temperature and seed chose."""

    token: bytes
    """UTF-8, but one character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability."""
    alternatives: tuple[tuple[bytes, float], ...] = ()
    """The likeliest in its place, it may be among them, each with its own."""


@dataclass(frozen=True, kw_only=True)
class Finish(Answer):
    """The end of a generation."""

    reason: str
    """STOP or LENGTH."""
    tokens: tuple[TokenLogprob, ...] = ()
    """What was written, a stop string too, if the option `logprobs` was given; from a large model nothing."""


@dataclass(frozen=True)
class Failure:
    """Why one input of a batch has no answer."""

    reason: str
    message: str
    metadata: dict[str, str]
    remedy: str = ""
    """What the reader can do next; may be empty."""


@dataclass(frozen=True)
class Feedback:
    """What was said of an answer."""

    feedback_id: str
    reviewer: str
    feedback_time: datetime
    """UTC."""
    verdict: str
    """accept, corrected or reject."""
    value: str
    """The right label, JSON object or text; or why it was rejected."""


@dataclass(frozen=True)
class Prediction:
    """A kept answer."""

    prediction_id: str
    bundle: BundleRef
    kind: str
    """CLASSIFY, DECIDE, EXTRACT or GENERATE."""
    input: str
    """Redacted."""
    output: str
    """The answer that was given, which is what a reviewer judges."""
    confidence: float | None
    """Of `local_answer`, as `threshold`, `below_threshold` and `scores`; None where the kind has none."""
    threshold: float | None
    """None where the bundle has none, or none holds on this machine."""
    below_threshold: bool
    route: str
    answer_time: datetime
    """UTC."""
    labels: tuple[str, ...]
    """What a correction may name; empty when the task is not installed any more."""
    scores: tuple[tuple[str, float], ...]
    feedback: tuple[Feedback, ...]
    """Only from `prediction`, the oldest first."""
    reviewed: bool
    p_value: float | None = None
    """As in `Answer`."""
    local_answer: str | None = None
    """What the local model answered, given or not; None = it was not asked, or its answer was not kept."""
    teacher_answer: str | None = None
    """What the large model answered when the input came; where it is set, it is `output`."""
    teacher_model: str = ""
    review_stream: str = ""
    """AUDIT (drawn at random), UNCERTAIN, DIVERSE or NEW; empty = the daemon is older than these."""
    sampling_probability: float | None = None
    """With which the audit drew it; None = it did not."""
    question: str = ""
    """DECIDE: which question was answered, among whose answers are `labels`; empty for another kind."""
    instructions: str = ""
    """Of that question, as the task has it now."""
    teacher_scores: tuple[tuple[str, float], ...] = ()
    """The probabilities that the large model gave with `teacher_answer`; empty = it gave none."""

    @property
    def subject(self) -> str:
        """What was asked: the task, or TASK/QUESTION."""
        return f"{self.bundle.task}/{self.question}" if self.question else self.bundle.task
