"""Translation between the API's messages and the client's values, shared by the sync and the aio client. Pure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from edge_agent.client import arguments
from edge_agent.client.answers import (
    Bundle,
    BundleRef,
    Classification,
    Durations,
    Embedding,
    Engine,
    Entity,
    ExamplesStatus,
    Extraction,
    Failure,
    Feedback,
    FieldAlarm,
    Finish,
    Prediction,
    ReviewAudit,
    Status,
    Task,
    TaskCounts,
    TaskUpdate,
    Timings,
    TokenLogprob,
    UpdatesStatus,
    UplinkDownloads,
    UplinkProblem,
    UplinkStatus,
)
from edge_agent.client.failure import when
from edge_agent.client.large_model import LargeModel
from edge_agent.v1 import admin_pb2, feedback_pb2, field_pb2, inference_pb2, task_pb2

PAGE_SIZE = 1000

# A local daemon that has just come up is found at once instead of after gRPC's default of a second and more; a proxy
# meant for the Internet is not asked for a daemon in the building.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.enable_http_proxy", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 64 * 2**20),
)

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
_T = TypeVar("_T")


class GenerateOptions(TypedDict, total=False):
    """What a caller may say about one generation; see GenerateRequest in inference.proto."""

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
    """Let the large model write it, if it can be asked."""


def on_low_confidence(word: OnLowConfidence) -> task_pb2.OnLowConfidence:
    """Translate the caller's word."""
    return _ON_LOW_CONFIDENCE[word]


def mode(word: Mode | None) -> task_pb2.Mode:
    """Translate the operator's word."""
    return _MODES[word]


def generate_request(task: str, text: str, options: GenerateOptions) -> inference_pb2.GenerateRequest:
    """Write the request; an option that is None stays unset."""
    given: dict[str, Any] = {key: value for key, value in options.items() if value is not None}
    return inference_pb2.GenerateRequest(task=task, text=arguments.text(text), **given)


@functools.lru_cache(256)
def word(enum: EnumTypeWrapper, number: int, prefix: str) -> str:
    """Return the name of an enumeration's value without its prefix; an unknown number as digits."""
    return enum.Name(number).removeprefix(prefix) if number in enum.values() else str(number)


def bundle_ref(ref: task_pb2.BundleRef) -> BundleRef:
    """Translate."""
    return BundleRef(ref.task, ref.version, ref.digest)


def _shared(provenance: task_pb2.Provenance) -> dict[str, Any]:
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
    }


def _classification(message: inference_pb2.Classification) -> Classification:
    return Classification(
        label=message.label,
        scores=tuple([(score.label, score.score) for score in message.scores]),
        label_mass=message.label_mass,
        **_confidence(message.confidence),
        **_shared(message.provenance),
    )


def _extraction(message: inference_pb2.Extraction) -> Extraction:
    return Extraction(
        json=message.json,
        entities=tuple(
            Entity(found.label, found.text, found.start, found.end, found.score) for found in message.entities
        ),
        fields=tuple([(field.name, field.confidence) for field in message.fields]),
        **_confidence(message.confidence),
        **_shared(message.provenance),
    )


def _embedding(message: inference_pb2.Embedding) -> Embedding:
    return Embedding(values=tuple(message.values), **_shared(message.provenance))


def _each(results: Iterable[Any], field: str, translate: Callable[[Any], _T]) -> list[_T | Failure]:
    return [
        translate(getattr(result, field)) if result.HasField(field) else _failure(result.error) for result in results
    ]


def _failure(error: task_pb2.InputError) -> Failure:
    metadata = dict(error.metadata)
    remedy = when(metadata.pop("remedy", ""), None)
    return Failure(error.reason, error.message, metadata, remedy)


def classifications(response: inference_pb2.ClassifyResponse) -> list[Classification | Failure]:
    """Translate, in the order of the inputs."""
    return _each(response.results, "classification", _classification)


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
    return Finish(reason=reason, tokens=tokens, **_shared(message.provenance))


def task(message: task_pb2.Task) -> Task:
    """Translate."""
    return Task(
        name=message.name,
        kind=word(task_pb2.TaskKind, message.kind, "TASK_KIND_"),
        bundle=bundle_ref(message.bundle),
        labels=tuple(message.labels),
        input_tokens_max=message.limits.input_tokens_max,
        output_tokens_max=message.limits.output_tokens_max,
        inputs_max=message.limits.inputs_max,
        ready=message.ready,
        signed=message.signed,
        threshold=message.threshold if message.HasField("threshold") else None,
        mode=word(task_pb2.Mode, message.mode, "MODE_") if message.mode else "LOCAL",
        mode_by=message.mode_by,
        confidence_blocker=message.confidence_blocker,
        gate=message.gate,
    )


def shown_task(message: inference_pb2.GetTaskResponse) -> Task:
    """Translate, with what only this call says."""
    return replace(task(message.task), record_schema=message.record_schema)


def bundle(message: admin_pb2.Bundle) -> Bundle:
    """Translate."""
    return Bundle(
        ref=bundle_ref(message.ref),
        kind=word(task_pb2.TaskKind, message.kind, "TASK_KIND_"),
        runtime=message.runtime,
        active=message.active,
        previous=message.previous,
        signed=message.signed,
        size_bytes=message.size_bytes,
        install_time=message.install_time.ToDatetime(tzinfo=UTC),
        confidence_blocker=message.confidence_blocker,
        gate=message.gate,
    )


def _engine(message: admin_pb2.Engine) -> Engine:
    return Engine(
        name=message.name,
        runtime=message.runtime,
        state=word(admin_pb2.EngineState, message.state, "ENGINE_STATE_"),
        pid=message.pid,
        resident_bytes=message.resident_bytes,
        pending=message.pending,
        restarts=message.restarts,
        problem=message.problem,
        tasks=tuple(message.tasks),
        device=message.device,
        details=dict(message.details),
        fallback=message.fallback,
        partial=message.partial,
        running=message.running,
        running_max=message.running_max,
    )


def _counts(message: admin_pb2.TaskCounts) -> TaskCounts:
    return TaskCounts(
        task=message.task,
        answers=dict(message.answers),
        errors=dict(message.errors),
        graded=message.graded,
        below_threshold=message.below_threshold,
        held_up=dict(message.held_up),
        output_tokens=message.output_tokens,
        queue=_durations(message.queue),
        total=_durations(message.total),
    )


def _durations(message: admin_pb2.Durations) -> Durations:
    return Durations(tuple(message.bounds_seconds), tuple(message.counts), message.total_seconds)


def status(message: admin_pb2.GetStatusResponse) -> Status:
    """Translate."""
    return Status(
        agent_version=message.agent_version,
        start_time=message.start_time.ToDatetime(tzinfo=UTC),
        serving=message.serving,
        resident_bytes=message.resident_bytes,
        tasks=tuple(task(each) for each in message.tasks),
        engines=tuple(_engine(each) for each in message.engines),
        warnings=tuple(message.warnings),
        store_bytes=message.store_bytes,
        disk_free_bytes=message.disk_free_bytes,
        examples=_examples(message.examples) if message.HasField("examples") else None,
        updates=updates(message),
        uplink=_uplink(message.uplink) if message.HasField("uplink") else None,
        counts=tuple(map(_counts, message.counts)),
        alarms=tuple(map(field_alarm, message.alarms)),
        large_model=large_model(message.escalation) if message.HasField("escalation") else None,
    )


def field_alarm(message: field_pb2.FieldAlarm) -> FieldAlarm:
    """Translate."""
    return FieldAlarm(
        task=message.task,
        digest=message.digest,
        alarm=message.alarm,
        since=message.since_time.ToDatetime(tzinfo=UTC),
        ended=message.end_time.ToDatetime(tzinfo=UTC) if message.HasField("end_time") else None,
        message=message.message,
        remedy=message.remedy,
        demoted=message.demoted,
    )


def large_model(message: admin_pb2.EscalationStatus) -> LargeModel:
    """Translate."""
    return LargeModel(
        online=message.online,
        affordable=message.affordable,
        model=message.model,
        problem_reason=message.problem_reason,
        problem=message.problem,
        usual_ms=message.usual_ms,
        day_micros=message.day_micros,
        month_micros=message.month_micros,
        day_micros_max=message.day_micros_max,
        month_micros_max=message.month_micros_max,
        tasks=tuple(message.tasks),
        waiting=dict(message.waiting),
        waiting_seconds=message.waiting_seconds,
        opinions=message.opinions,
        given_up=dict(message.given_up),
    )


def _uplink(message: admin_pb2.UplinkStatus) -> UplinkStatus:
    return UplinkStatus(
        state=word(admin_pb2.LinkState, message.state, "LINK_STATE_"),
        upstream=message.upstream,
        since=_moment(message, "since_time"),
        last_contact=_moment(message, "contact_time"),
        retry_at=_moment(message, "retry_time"),
        failures=message.failures,
        waiting_segments=message.waiting_segments,
        waiting_bytes=message.waiting_bytes,
        sent_segments=message.sent_segments,
        sent_bytes=message.sent_bytes,
        age_seconds=message.age_seconds,
        problems=tuple(
            [UplinkProblem(each.reason, each.message, each.remedy, each.about) for each in message.problems]
        ),
        downloads=_downloads(message.downloads) if message.HasField("downloads") else None,
    )


def _downloads(message: admin_pb2.UplinkDownloads) -> UplinkDownloads:
    return UplinkDownloads(
        state=word(admin_pb2.LinkState, message.state, "LINK_STATE_"),
        repository=message.repository,
        since=_moment(message, "since_time"),
        retry_at=_moment(message, "retry_time"),
        refreshed_at=_moment(message, "refresh_time"),
        waiting_blobs=message.waiting_blobs,
        waiting_bytes=message.waiting_bytes,
    )


def _moment(message: admin_pb2.UplinkStatus | admin_pb2.UplinkDownloads, name: str) -> datetime | None:
    if not message.HasField(name):
        return None
    found: datetime = getattr(message, name).ToDatetime(tzinfo=UTC)
    return found


def updates(message: admin_pb2.GetStatusResponse | admin_pb2.ImportUpdateResponse) -> UpdatesStatus | None:
    """Read where updates stand; None = it does not say."""
    return _updates(message.updates) if message.HasField("updates") else None


def _updates(message: admin_pb2.UpdatesStatus) -> UpdatesStatus:
    return UpdatesStatus(
        channel=message.channel,
        plan_version=message.plan_version,
        problem=message.problem,
        tasks=tuple(map(_task_update, message.tasks)),
    )


def _task_update(message: admin_pb2.TaskUpdate) -> TaskUpdate:
    return TaskUpdate(
        task=message.task,
        active=bundle_ref(message.active) if message.HasField("active") else None,
        previous=bundle_ref(message.previous) if message.HasField("previous") else None,
        candidate=bundle_ref(message.candidate) if message.HasField("candidate") else None,
        state=word(admin_pb2.UpdateState, message.state, "UPDATE_STATE_") if message.state else "",
        since=message.since_time.ToDatetime(tzinfo=UTC) if message.HasField("since_time") else None,
        reason=message.reason,
        message=message.message,
        attempts=message.attempts,
    )


def _examples(message: admin_pb2.ExamplesStatus) -> ExamplesStatus:
    return ExamplesStatus(
        counters=dict(message.counters),
        retained=dict(message.retained),
        spool_bytes=message.spool_bytes,
        outbox_bytes=message.outbox_bytes,
        outbox_segments=message.outbox_segments,
        epoch=message.epoch,
        collect=dict(message.collect),
        review_waiting=dict(message.review_waiting),
        audit=ReviewAudit(message.audit.drawn, message.audit.reviewed, message.audit.waiting, message.audit.lost),
    )


def prediction(message: feedback_pb2.Prediction) -> Prediction:
    """Translate."""
    return Prediction(
        prediction_id=message.prediction_id,
        bundle=bundle_ref(message.bundle),
        kind=word(task_pb2.TaskKind, message.kind, "TASK_KIND_"),
        input=message.input,
        output=message.output,
        confidence=message.confidence.value if message.HasField("confidence") else None,
        threshold=message.confidence.threshold if message.confidence.HasField("threshold") else None,
        below_threshold=message.confidence.below_threshold,
        route=word(task_pb2.Route, message.route, "ROUTE_"),
        answer_time=message.answer_time.ToDatetime(tzinfo=UTC),
        labels=tuple(message.labels),
        scores=tuple([(score.label, score.score) for score in message.scores]),
        feedback=tuple(map(_feedback, message.feedback)),
        reviewed=message.reviewed,
        p_value=message.p_value if message.HasField("p_value") else None,
        local_answer=message.local_answer if message.HasField("local_answer") else None,
        teacher_answer=message.teacher_answer if message.HasField("teacher_answer") else None,
        teacher_model=message.teacher_model,
        review_stream=word(feedback_pb2.ReviewStream, message.review_stream, "REVIEW_STREAM_")
        if message.review_stream
        else "",
        sampling_probability=message.sampling_probability if message.HasField("sampling_probability") else None,
    )


def _feedback(message: feedback_pb2.Feedback) -> Feedback:
    field = message.WhichOneof("verdict") or ""
    return Feedback(
        feedback_id=message.feedback_id,
        reviewer=message.reviewer,
        feedback_time=message.feedback_time.ToDatetime(tzinfo=UTC),
        verdict=field.partition("_")[0],
        value="" if field == "accept" else getattr(message, field, ""),
    )
