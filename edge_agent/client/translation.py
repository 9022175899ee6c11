"""Translation between the API's messages and the client's values. Pure.

The values of a status or a report have the fields of their messages, so `value_of` translates by name. The answers of a
device are on the path of every call, and are translated field by field.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from edge_agent.client.call_failed import remedy_with_delay
from edge_agent.client.results import (
    BundleRef,
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
    Task,
    TaskQuestion,
    Timings,
    TokenLogprob,
)
from edge_agent.client.site_state import UpdatesStatus
from edge_agent.v1 import admin_pb2, inference_pb2, task_pb2

OnLowConfidence = Literal["as_mode", "answer", "abstain", "escalate"]
_ON_LOW_CONFIDENCE = {
    "as_mode": task_pb2.ON_LOW_CONFIDENCE_UNSPECIFIED,
    "answer": task_pb2.ON_LOW_CONFIDENCE_ANSWER,
    "abstain": task_pb2.ON_LOW_CONFIDENCE_ABSTAIN,
    "escalate": task_pb2.ON_LOW_CONFIDENCE_ESCALATE,
}
Mode = Literal["bootstrap", "shadow", "hybrid", "local"]
_MODES: dict[Mode | None, task_pb2.Mode] = {
    None: task_pb2.MODE_UNSPECIFIED,
    "bootstrap": task_pb2.MODE_BOOTSTRAP,
    "shadow": task_pb2.MODE_SHADOW,
    "hybrid": task_pb2.MODE_HYBRID,
    "local": task_pb2.MODE_LOCAL,
}
# Fields of values that have another name than the field of the message.
_FIELD_NAMES = {
    "since": "since_time",
    "ended": "end_time",
    "last_contact": "contact_time",
    "retry_at": "retry_time",
    "refreshed_at": "refresh_time",
    "large_model": "escalation",
}
_EMPTY_WHEN_UNSET = ("UpdateState", "ReviewStream")
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


def mode(word: Mode | None) -> task_pb2.Mode:
    """Translate the operator's word."""
    return _MODES[word]


# --- by name ----------------------------------------------------------------------------------------------------------
def value_of(kind: type[_T], message: Any) -> _T:
    """Translate a message into a value class: each field by its name.

    An enumeration becomes its word, a time a datetime, a message the value class of the field; an optional field that
    is not set becomes None.
    """
    translate: Any = _SPECIAL.get(kind)
    return typing.cast(_T, translate(message)) if translate else kind(**_by_name(kind, message))


def _by_name(kind: type, message: Any) -> dict[str, Any]:
    return {name: read(message) for name, read in field_readers(kind, message.DESCRIPTOR)}


@functools.cache
def field_readers(kind: type, descriptor: Any) -> list[tuple[str, Callable[[Any], Any]]]:
    """Return how to read each field of a value from its message; a field without one keeps its default."""
    hints = typing.get_type_hints(kind)
    found = []
    for field in dataclasses.fields(kind):
        source = descriptor.fields_by_name.get(_FIELD_NAMES.get(field.name, field.name))
        if source is not None:
            found.append((field.name, _reader(source, hints[field.name])))
    return found


def _reader(field: FieldDescriptor, hint: Any) -> Callable[[Any], Any]:
    name, is_repeated = field.name, field.is_repeated
    if is_repeated and field.message_type and field.message_type.GetOptions().map_entry:
        return lambda message: dict(getattr(message, name))
    one = _item_reader(field, _item_type(hint))
    if is_repeated:
        return lambda message: tuple([one(each) for each in getattr(message, name)])
    if field.has_presence and type(None) in typing.get_args(hint):
        return lambda message: one(getattr(message, name)) if message.HasField(name) else None
    return lambda message: one(getattr(message, name))


def _item_type(hint: Any) -> Any:
    """Return the class in `tuple[X, ...]`, in `X | None`, or the hint itself."""
    arguments = [each for each in typing.get_args(hint) if each not in (Ellipsis, types.NoneType)]
    return arguments[0] if arguments and typing.get_origin(hint) is not dict else hint


def _item_reader(field: FieldDescriptor, kind: Any) -> Callable[[Any], Any]:
    if field.enum_type:
        return functools.partial(_enum_word, field.enum_type)
    if field.message_type and field.message_type.full_name == "google.protobuf.Timestamp":
        return lambda message: message.ToDatetime(tzinfo=UTC)
    if field.message_type and isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return lambda value: value_of(kind, value)
    return lambda value: value


def _enum_word(enum: Any, number: int) -> str:
    """Return the word of a value without the prefix of its enumeration; digits for an unknown number."""
    if number == 0 and enum.name in _EMPTY_WHEN_UNSET:
        return ""
    found = enum.values_by_number.get(number)
    return found.name.removeprefix(_prefix(enum.name)) if found else str(number)


@functools.cache
def _prefix(name: str) -> str:
    """Return the prefix of an enumeration's words: TASK_KIND_ of TaskKind."""
    return "".join(f"_{letter}" if letter.isupper() else letter.upper() for letter in name)[1:] + "_"


@functools.lru_cache(256)
def word(enum: EnumTypeWrapper, number: int, prefix: str) -> str:
    """Return the name of an enumeration's value without its prefix; an unknown number as digits."""
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)


# --- field by field ---------------------------------------------------------------------------------------------------
def bundle_ref(ref: task_pb2.BundleRef) -> BundleRef:
    """Translate."""
    return BundleRef(ref.task, ref.version, ref.digest)


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
    return {
        "confidence": confidence.value,
        "threshold": confidence.threshold if confidence.HasField("threshold") else None,
        "below_threshold": confidence.below_threshold,
        "no_threshold_reason": _no_threshold(confidence.no_threshold_reason),
    }


def _no_threshold(reason: task_pb2.NoThresholdReason) -> str:
    return word(task_pb2.NoThresholdReason, reason, "NO_THRESHOLD_REASON_") if reason else ""


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


def task(message: task_pb2.Task, record_schema: str = "") -> Task:
    """Translate."""
    limits = message.limits
    return Task(
        **_by_name(Task, message)
        | {"mode": word(task_pb2.Mode, message.mode, "MODE_") if message.mode else "LOCAL"}
        | {name: getattr(limits, name) for name in ("input_tokens_max", "output_tokens_max", "inputs_max")},
        record_schema=record_schema,
    )


def task_with_schema(message: inference_pb2.GetTaskResponse) -> Task:
    """Translate, with the field that only this call returns."""
    return task(message.task, message.record_schema)


def updates(message: admin_pb2.GetStatusResponse | admin_pb2.ImportUpdateResponse) -> UpdatesStatus | None:
    """Read the state of updates; None = the message has none."""
    return value_of(UpdatesStatus, message.updates) if message.HasField("updates") else None


def _prediction(message: Any) -> Prediction:
    found = message.confidence
    calibration = {"confidence": None} if not message.HasField("confidence") else {"confidence": found.value}
    return Prediction(
        **_by_name(Prediction, message)
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
        **_by_name(Feedback, message),
        verdict=field.partition("_")[0],
        value="" if field == "accept" else getattr(message, field, ""),
    )


_SPECIAL: dict[type, Callable[[Any], Any]] = {
    BundleRef: bundle_ref,
    Task: task,
    Prediction: _prediction,
    Feedback: _feedback,
}
"""Values with a field that is not a field of their message."""
