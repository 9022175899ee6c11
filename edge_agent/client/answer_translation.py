"""Translation of the answers of devices and reviewers, field by field: it is on the path of every call. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from edge_agent.client import translation
from edge_agent.client.call_failed import remedy_with_delay
from edge_agent.client.results import (
    Classification,
    Decision,
    DecisionAnswer,
    Embedding,
    Entity,
    Extraction,
    Failure,
    Feedback,
    Finish,
    Prediction,
    Timings,
    TokenLogprob,
)
from edge_agent.client.task_description import TaskQuestion
from edge_agent.client.translation import bundle_ref, fields_by_name, word
from edge_agent.v1 import inference_pb2, task_pb2

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
    """None = a random one."""
    stops: Sequence[str]
    """Further stop strings, 4 at most."""
    logprobs: int | None
    """Put the tokens into Finish, each with its log-probability and so many of the likeliest, 0 to 5; None = do not."""
    request_id: str
    escalate: bool
    """Let the large model write it, if it is available."""


def on_low_confidence(word: OnLowConfidence) -> task_pb2.OnLowConfidence:
    """Translate the caller's word."""
    return _ON_LOW_CONFIDENCE[word]


def _provenance(provenance: task_pb2.Provenance) -> dict[str, Any]:
    timings = provenance.timings
    return {
        "prediction_id": provenance.prediction_id,
        "bundle": bundle_ref(provenance.bundle),
        "route": word(task_pb2.Route, provenance.route, "ROUTE_"),
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
        "no_threshold_reason": word(task_pb2.NoThresholdReason, reason, "NO_THRESHOLD_REASON_") if reason else "",
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
            Entity(found.label, found.text, found.start, found.end, found.score) for found in message.entities
        ),
        fields=tuple([(field.name, field.confidence) for field in message.fields]),
        **_confidence(message.confidence),
        **_provenance(message.provenance),
    )


def _embedding(message: inference_pb2.Embedding) -> Embedding:
    return Embedding(values=tuple(message.values), **_provenance(message.provenance))


def _each(results: Iterable[Any], field: str, translate: Callable[[Any], _T]) -> list[_T | Failure]:
    return [
        translate(getattr(result, field)) if result.HasField(field) else _failure(result.error) for result in results
    ]


def _failure(error: task_pb2.InputError) -> Failure:
    metadata = dict(error.metadata)
    remedy = remedy_with_delay(metadata.pop("remedy", ""), None)
    return Failure(error.reason, error.message, metadata, remedy)


def classifications(response: inference_pb2.ClassifyResponse) -> list[Classification | Failure]:
    """Translate, in the order of the inputs."""
    return _each(response.results, "classification", _classification)


def decisions(response: inference_pb2.DecideResponse) -> list[Decision | Failure]:
    """Translate, in the order of the inputs."""
    return _each(response.results, "decision", lambda message: Decision(tuple(map(_decision_answer, message.answers))))


def _decision_answer(message: inference_pb2.DecisionAnswer) -> DecisionAnswer:
    return DecisionAnswer(
        question=message.question,
        type=word(task_pb2.QuestionType, message.type, "QUESTION_TYPE_"),
        label=message.label,
        probabilities=tuple([(each.label, each.score) for each in message.probabilities]),
        score=message.score if message.HasField("score") else None,
        calibrated=message.calibrated,
        confident=message.confident,
        label_mass=message.label_mass,
        **_confidence(message.confidence),
        **_provenance(message.provenance),
    )


def question(asked: TaskQuestion) -> task_pb2.Question:
    """Translate a question of a call. Raises ValueError for a type that does not exist."""
    name = f"QUESTION_TYPE_{asked.type.upper() or 'UNSPECIFIED'}"
    options = [task_pb2.QuestionOption(label=each.label, description=each.description) for each in asked.options]
    return task_pb2.Question(name=asked.name, type=name, instructions=asked.instructions, options=options)


def extractions(response: inference_pb2.ExtractResponse) -> list[Extraction | Failure]:
    """Translate, in the order of the inputs."""
    return _each(response.results, "extraction", _extraction)


def embeddings(response: inference_pb2.EmbedResponse) -> list[Embedding | Failure]:
    """Translate, in the order of the inputs."""
    return _each(response.results, "embedding", _embedding)


def finish(message: inference_pb2.GenerateFinish) -> Finish:
    """Translate the end of a generation."""
    reason = word(inference_pb2.FinishReason, message.reason, "FINISH_REASON_")
    tokens = tuple(
        TokenLogprob(each.token, each.logprob, tuple((other.token, other.logprob) for other in each.alternatives))
        for each in message.tokens
    )
    return Finish(reason=reason, tokens=tokens, **_provenance(message.provenance))


def _prediction(message: Any) -> Prediction:
    found = message.confidence
    calibration = {"confidence": None} if not message.HasField("confidence") else {"confidence": found.value}
    return Prediction(
        **fields_by_name(Prediction, message)
        | calibration
        | {
            "threshold": found.threshold if found.HasField("threshold") else None,
            "below_threshold": found.below_threshold,
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
