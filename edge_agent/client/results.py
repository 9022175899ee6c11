"""Results of the calls of devices and reviewers: frozen values, and their translation from the API's messages.

The translation goes field by field, since it is on the path of every call. Tasks are in task_description.py.

Names of an enumeration are the API's without their prefix: a route is "LOCAL", a kind is "CLASSIFY". A value that this
client does not know, from a newer daemon, is its number in digits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypedDict, TypeVar

from edge_agent.client import translation
from edge_agent.client.call_failed import remedy_with_delay
from edge_agent.client.task_description import BundleRef, TaskQuestion
from edge_agent.client.translation import bundle_ref, enum_word, fields_by_name
from edge_agent.v1 import inference_pb2, task_pb2


@dataclass(frozen=True)
class Timings:
    """The time of one input by phase, in milliseconds."""

    queue_ms: float
    prefill_ms: float
    decode_ms: float
    upstream_ms: float = 0.0
    """Waiting for the large model."""

    @property
    def total_ms(self) -> float:
        """Sum of all phases."""
        return self.queue_ms + self.prefill_ms + self.decode_ms + self.upstream_ms


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Fields of every answer."""

    prediction_id: str
    """The answer's id, for feedback."""
    bundle: BundleRef
    route: str
    """LOCAL, UPSTREAM, ABSTAINED or DEFERRED."""
    timings: Timings
    device: str
    degraded: tuple[str, ...]
    """Reasons why the answer has less quality than it could have; empty = none."""
    input_tokens: int
    output_tokens: int
    route_reason: str = ""
    """Why the input took that route; docs/routing.md lists the reasons."""
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
    """The least confidence of a confident answer; None when the bundle has no threshold valid on this machine."""
    below_threshold: bool
    """The answer is not confident; also without a threshold, and for an input out of distribution."""
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
    """Fields of a generated record, each with the model's probability of its value, 0 to 1."""
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
    """For a score question, the expected index of the level, from 0; None for others, and in mode BOOTSTRAP."""
    confidence: float
    """Calibrated probability that the likeliest answer is right, 0 to 1."""
    threshold: float | None
    below_threshold: bool
    no_threshold_reason: str = ""
    """As in `Classification`: why `calibrated` is false."""
    calibrated: bool
    """The question has a threshold that is valid on this machine."""
    confident: bool
    """The local model gave the answer, at or above the threshold, for an input that is in distribution."""
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
    """One generated token, with its log-probability before temperature and sampling."""

    token: bytes
    """UTF-8, but one character may be spread over several tokens."""
    logprob: float
    """Natural logarithm of its probability."""
    alternatives: tuple[tuple[bytes, float], ...] = ()
    """The likeliest tokens at this position, each with its log-probability; the generated one may be among them."""


@dataclass(frozen=True, kw_only=True)
class Finish(Answer):
    """The end of a generation."""

    reason: str
    """STOP or LENGTH."""
    tokens: tuple[TokenLogprob, ...] = ()
    """The generated tokens, including a stop string, if the option `logprobs` was given; a large model returns none."""


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
    """A reviewer's judgement of an answer."""

    feedback_id: str
    reviewer: str
    feedback_time: datetime
    """UTC."""
    verdict: str
    """accept, corrected or reject."""
    value: str
    """The right label, JSON object or text, or the reason of a rejection; empty for accept."""


@dataclass(frozen=True)
class Prediction:
    """A stored answer."""

    prediction_id: str
    bundle: BundleRef
    kind: str
    """CLASSIFY, DECIDE, EXTRACT or GENERATE."""
    input: str
    """Redacted."""
    output: str
    """The answer that the caller got, and that a reviewer judges."""
    confidence: float | None
    """Like `threshold`, `below_threshold` and `scores` it is that of `local_answer`; None where the kind has none."""
    threshold: float | None
    """None when the bundle has no threshold that is valid on this machine."""
    below_threshold: bool
    route: str
    answer_time: datetime
    """UTC."""
    labels: tuple[str, ...]
    """Labels that a correction may use; empty when the task is not installed any more."""
    scores: tuple[tuple[str, float], ...]
    feedback: tuple[Feedback, ...]
    """Set only by `prediction`, the oldest first."""
    reviewed: bool
    p_value: float | None = None
    """As in `Answer`."""
    local_answer: str | None = None
    """The local model's answer, even if the caller got another; None = it was not asked, or its answer not stored."""
    teacher_answer: str | None = None
    """The large model's answer when the input came; if set, `output` is the same."""
    teacher_model: str = ""
    review_stream: str = ""
    """AUDIT (drawn at random), UNCERTAIN, DIVERSE or NEW; empty from an older daemon."""
    sampling_probability: float | None = None
    """Probability with which the audit drew this answer; None = the audit did not draw it."""
    question: str = ""
    """DECIDE: the question, whose possible answers are `labels`; empty for another kind."""
    instructions: str = ""
    """The instructions of that question in the installed task."""
    teacher_scores: tuple[tuple[str, float], ...] = ()
    """The large model's probabilities with `teacher_answer`; empty = it gave none."""

    @property
    def subject(self) -> str:
        """The task, or TASK/QUESTION for a decide task."""
        return f"{self.bundle.task}/{self.question}" if self.question else self.bundle.task


OnLowConfidence = Literal["as_mode", "answer", "abstain", "escalate"]
_ON_LOW_CONFIDENCE = {
    "as_mode": task_pb2.ON_LOW_CONFIDENCE_UNSPECIFIED,
    "answer": task_pb2.ON_LOW_CONFIDENCE_ANSWER,
    "abstain": task_pb2.ON_LOW_CONFIDENCE_ABSTAIN,
    "escalate": task_pb2.ON_LOW_CONFIDENCE_ESCALATE,
}
_T = TypeVar("_T")


class GenerateOptions(TypedDict, total=False):
    """Options of one generation; see GenerateRequest in inference.proto."""

    output_tokens_max: int
    """0 = the task's limit, which is also the ceiling."""
    temperature: float | None
    """0 = always the likeliest token; None = the bundle's value."""
    seed: int | None
    """None = a random seed."""
    stops: Sequence[str]
    """Further stop strings, 4 at most."""
    logprobs: int | None
    """Return in Finish the tokens with log-probabilities, and at each position this many alternatives, 0 to 5."""
    request_id: str
    escalate: bool
    """Let the large model generate the text, if it is available."""


def on_low_confidence(option: OnLowConfidence) -> task_pb2.OnLowConfidence:
    """Translate the option. Raises ValueError for an unknown word."""
    if option not in _ON_LOW_CONFIDENCE:
        raise ValueError(f"on_low_confidence is {option!r}: it can be {', '.join(_ON_LOW_CONFIDENCE)}")
    return _ON_LOW_CONFIDENCE[option]


def _provenance(provenance: task_pb2.Provenance) -> dict[str, Any]:
    timings = provenance.timings
    return {
        "prediction_id": provenance.prediction_id,
        "bundle": bundle_ref(provenance.bundle),
        "route": enum_word(task_pb2.Route.DESCRIPTOR, provenance.route),
        "timings": Timings(timings.queue_ms, timings.prefill_ms, timings.decode_ms, timings.upstream_ms),
        "device": provenance.device,
        "degraded": tuple(provenance.degraded),
        "input_tokens": provenance.input_tokens,
        "output_tokens": provenance.output_tokens,
        "route_reason": provenance.reason,
        "model": provenance.model,
        "p_value": provenance.p_value if provenance.HasField("p_value") else None,
    }


def _confidence(confidence: task_pb2.Confidence) -> dict[str, Any]:
    reason = confidence.no_threshold_reason
    return {
        "confidence": confidence.value,
        "threshold": confidence.threshold if confidence.HasField("threshold") else None,
        "below_threshold": confidence.below_threshold,
        "no_threshold_reason": enum_word(task_pb2.NoThresholdReason.DESCRIPTOR, reason) if reason else "",
    }


def _classification(message: inference_pb2.Classification) -> Classification:
    return Classification(
        label=message.label,
        scores=tuple([(score.label, score.score) for score in message.scores]),
        label_mass=message.label_mass,
        **_confidence(message.confidence),
        **_provenance(message.provenance),
    )


def _extraction(message: inference_pb2.Extraction) -> Extraction:
    return Extraction(
        json=message.json,
        entities=tuple(
            Entity(entity.label, entity.text, entity.start, entity.end, entity.score) for entity in message.entities
        ),
        fields=tuple([(field.name, field.confidence) for field in message.fields]),
        **_confidence(message.confidence),
        **_provenance(message.provenance),
    )


def _embedding(message: inference_pb2.Embedding) -> Embedding:
    return Embedding(values=tuple(message.values), **_provenance(message.provenance))


def _outcomes(results: Iterable[Any], field: str, translate: Callable[[Any], _T]) -> list[_T | Failure]:
    return [
        translate(getattr(result, field)) if result.HasField(field) else _failure(result.error) for result in results
    ]


def _failure(error: task_pb2.InputError) -> Failure:
    metadata = dict(error.metadata)
    remedy = remedy_with_delay(metadata.pop("remedy", ""), None)
    return Failure(error.reason, error.message, metadata, remedy)


def classifications(response: inference_pb2.ClassifyResponse) -> list[Classification | Failure]:
    """Translate, in the order of the inputs."""
    return _outcomes(response.results, "classification", _classification)


def decisions(response: inference_pb2.DecideResponse) -> list[Decision | Failure]:
    """Translate, in the order of the inputs."""
    return _outcomes(
        response.results, "decision", lambda message: Decision(tuple(map(_decision_answer, message.answers)))
    )


def _decision_answer(message: inference_pb2.DecisionAnswer) -> DecisionAnswer:
    return DecisionAnswer(
        question=message.question,
        type=enum_word(task_pb2.QuestionType.DESCRIPTOR, message.type),
        label=message.label,
        probabilities=tuple([(each.label, each.score) for each in message.probabilities]),
        score=message.score if message.HasField("score") else None,
        calibrated=message.calibrated,
        confident=message.confident,
        label_mass=message.label_mass,
        **_confidence(message.confidence),
        **_provenance(message.provenance),
    )


def question(spec: TaskQuestion) -> task_pb2.Question:
    """Translate a question of a call. Raises ValueError for an unknown type."""
    name = f"QUESTION_TYPE_{spec.type.upper() or 'UNSPECIFIED'}"
    options = [task_pb2.QuestionOption(label=each.label, description=each.description) for each in spec.options]
    return task_pb2.Question(name=spec.name, type=name, instructions=spec.instructions, options=options)


def extractions(response: inference_pb2.ExtractResponse) -> list[Extraction | Failure]:
    """Translate, in the order of the inputs."""
    return _outcomes(response.results, "extraction", _extraction)


def embeddings(response: inference_pb2.EmbedResponse) -> list[Embedding | Failure]:
    """Translate, in the order of the inputs."""
    return _outcomes(response.results, "embedding", _embedding)


def finish(message: inference_pb2.GenerateFinish) -> Finish:
    """Translate the end of a generation."""
    reason = enum_word(inference_pb2.FinishReason.DESCRIPTOR, message.reason)
    tokens = tuple(
        TokenLogprob(each.token, each.logprob, tuple((other.token, other.logprob) for other in each.alternatives))
        for each in message.tokens
    )
    return Finish(reason=reason, tokens=tokens, **_provenance(message.provenance))


def _prediction(message: Any) -> Prediction:
    confidence = message.confidence
    return Prediction(
        **fields_by_name(Prediction, message)
        | {
            "confidence": confidence.value if message.HasField("confidence") else None,
            "threshold": confidence.threshold if confidence.HasField("threshold") else None,
            "below_threshold": confidence.below_threshold,
            "scores": tuple([(score.label, score.score) for score in message.scores]),
            "teacher_scores": tuple([(score.label, score.score) for score in message.teacher_scores]),
        }
    )


def _feedback(message: Any) -> Feedback:
    field = message.WhichOneof("verdict") or ""
    return Feedback(
        **fields_by_name(Feedback, message),
        verdict=field.partition("_")[0],
        value="" if field == "accept" else getattr(message, field, ""),
    )


translation.SPECIAL.update({Prediction: _prediction, Feedback: _feedback})
