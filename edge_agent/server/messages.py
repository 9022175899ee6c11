"""Translates the daemon's types into messages of edge_agent.v1. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from google.protobuf.timestamp_pb2 import Timestamp

from edge_agent.capture.redact import RULES_VERSION
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.machine_limits import DEVICE_FALLBACK, DEVICE_PARTIAL
from edge_agent.errors import InvalidRequest
from edge_agent.formats.calibration_and_gate import Confidence, Threshold
from edge_agent.v1 import admin_pb2 as pb
from edge_agent.v1 import inference_pb2, task_pb2

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

    from edge_agent.capture.example_capture import CaptureStatus
    from edge_agent.capture.personal_data_retention import Erasure
    from edge_agent.capture.redaction_audit import AuditedText, AuditFigures
    from edge_agent.capture.spool_worker import PrivacyReport
    from edge_agent.capture.text_redaction import RedactionQueue, TriedRedaction
    from edge_agent.engine.engine import EngineStatus
    from edge_agent.formats.plan import Mode
    from edge_agent.formats.questions import QuestionSpec
    from edge_agent.metrics.metric_catalogue import AnswerCounts, Histogram
    from edge_agent.routing.policy import LowConfidencePolicy
    from edge_agent.store.state_database import InstalledBundle, UpdateProgress
    from edge_agent.update.activation import Activation
    from edge_agent.update.blocked_update_messages import CopyProgress
    from edge_agent.update.updater import UpdateOverview


def words_of(enum: EnumTypeWrapper) -> dict[Any, Any]:
    """Return the numbers of an API enum by the agent's words, such as "local" for ROUTE_LOCAL, without UNSPECIFIED."""
    prefix = enum.Name(0).removesuffix("UNSPECIFIED")
    return {name.removeprefix(prefix).lower(): number for name, number in enum.items() if number}


KINDS = words_of(task_pb2.TaskKind)
QUESTION_TYPES = words_of(task_pb2.QuestionType)
NO_THRESHOLD_REASONS = words_of(task_pb2.NoThresholdReason)
ROUTES = words_of(task_pb2.Route)
MODES = words_of(task_pb2.Mode)
LOW_CONFIDENCE_POLICIES: dict[int, LowConfidencePolicy] = {
    0: "as_mode",
    **{number: word for word, number in words_of(task_pb2.OnLowConfidence).items()},
}
FINISHES = words_of(inference_pb2.FinishReason)
STATES: dict[EngineState, Any] = {state: pb.EngineState.Value(f"ENGINE_STATE_{state.name}") for state in EngineState}
UPDATE_STATES = words_of(pb.UpdateState)
PAGE_SIZE_DEFAULT = 100
PAGE_SIZE_MAX = 1000


def timestamp(seconds: float) -> Timestamp:
    """Return a time in seconds since 1970, to the millisecond."""
    message = Timestamp()
    message.FromMilliseconds(int(seconds * 1000))
    return message


def bundle_ref(bundle: InstalledBundle) -> task_pb2.BundleRef:
    """Return the reference to a bundle."""
    manifest = bundle.manifest
    return task_pb2.BundleRef(task=manifest.task.name, version=manifest.version, digest=bundle.digest)


def task_message(bundle: InstalledBundle, mode: Mode, *, ready: bool, score_variance: str = "") -> task_pb2.Task:
    """Describe a task; `score_variance`: why its scores depend on what else is computed, empty if they do not."""
    manifest = bundle.manifest
    limits = manifest.task.limits
    return task_pb2.Task(
        name=manifest.task.name,
        kind=KINDS[manifest.task.kind],
        bundle=bundle_ref(bundle),
        labels=manifest.task.record_fields if manifest.task.kind in ("extract", "redact") else manifest.task.labels,
        limits=task_pb2.TaskLimits(
            input_tokens_max=limits.input_tokens_max,
            output_tokens_max=manifest.task.written_tokens_max,
            inputs_max=limits.inputs_max,
        ),
        ready=ready,
        signed=bundle.signed,
        mode=MODES[mode],
        confidence_blocker=score_variance,
        gate=manifest.gate_name,
        questions=[_question_message(each, manifest.confidence_of(each.name)) for each in manifest.task.questions],
        open_questions=manifest.task.open_questions,
        threshold=manifest.confidence.confidence_min if isinstance(manifest.confidence, Threshold) else None,
    )


def _question_message(question: QuestionSpec, calibration: Confidence) -> task_pb2.Question:
    descriptions = question.descriptions or ("",) * len(question.outputs)
    options = zip(question.outputs, descriptions, strict=True)
    return task_pb2.Question(
        name=question.name,
        type=QUESTION_TYPES[question.type],
        instructions=question.instructions,
        options=[task_pb2.QuestionOption(label=label, description=description) for label, description in options],
        threshold=calibration.confidence_min if isinstance(calibration, Threshold) else None,
    )


def redaction_message(queue: RedactionQueue, audit: AuditFigures | None) -> pb.RedactionStatus:
    """Describe the redaction model of a site, what waits for it, and what its audit has found."""
    return pb.RedactionStatus(
        task=queue.task,
        model=queue.model,
        waiting=queue.waiting,
        waiting_seconds=queue.waiting_seconds,
        held_because=queue.held_because,
        counts=queue.counts,
        rules=RULES_VERSION,
        proved_rules=queue.bound.rules if queue.bound else "",
        audit=None if audit is None else _redaction_audit(audit),
    )


def _redaction_audit(audit: AuditFigures) -> pb.RedactionAudit:
    return pb.RedactionAudit(
        waiting=audit.waiting,
        texts=audit.texts,
        values=audit.values,
        missed=audit.missed,
        share=audit.share.value if audit.values else None,
        low=audit.share.low,
        high=audit.share.high,
        target=audit.target,
        exceeded=audit.is_exceeded,
    )


def audited_text_message(text: AuditedText) -> pb.AuditedText:
    """Show a text that the audit of redaction has drawn."""
    return pb.AuditedText(
        row=text.row,
        prediction_id=text.prediction_id,
        task=text.task,
        model=text.drawn.model,
        text=text.drawn.text,
        redacted=text.drawn.redacted,
        spans=[pb.ReplacedSpan(**vars(each)) for each in text.drawn.replaced],
        missed=[pb.MissedSpan(**each._asdict()) for each in text.missed],
        wrong=text.wrong,
    )


def tried_redaction_message(tried: TriedRedaction) -> pb.TryRedactionResponse:
    """Show what redaction made of a text."""
    spans = [pb.ReplacedSpan(**vars(each)) for each in tried.replaced]
    return pb.TryRedactionResponse(
        redacted=tried.redacted, spans=spans, model=tried.model, held_because=tried.held_because
    )


def record_schema(bundle: InstalledBundle) -> str:
    """Return the JSON schema of a task's records; empty if it has none."""
    schema = bundle.manifest.task.record_schema
    return "" if schema is None else json.dumps(schema, ensure_ascii=False)


def bundle_message(
    bundle: InstalledBundle, *, active: bool, previous: bool, revoked: bool = False, score_variance: str = ""
) -> pb.Bundle:
    """Describe an installed bundle; `score_variance` as for its task."""
    return pb.Bundle(
        ref=bundle_ref(bundle),
        kind=KINDS[bundle.manifest.task.kind],
        runtime=bundle.manifest.runtime,
        active=active,
        previous=previous,
        signed=bundle.signed,
        revoked=revoked,
        size_bytes=bundle.manifest.size_bytes,
        confidence_blocker=score_variance,
        gate=bundle.manifest.gate_name,
        install_time=timestamp(bundle.installed_at),
    )


def engine_message(status: EngineStatus, serving: Mapping[str, InstalledBundle]) -> pb.Engine:
    """Describe an engine, and which of the tasks it answers."""
    return pb.Engine(
        name=status.name,
        runtime=status.runtime,
        state=STATES[status.state],
        pid=status.pid,
        resident_bytes=status.resident_bytes,
        pending=status.pending,
        restarts=status.restarts,
        problem=status.problem,
        tasks=[task for task, bundle in serving.items() if bundle.digest in status.digests],
        device=status.device,
        details=dict(status.details),
        fallback=status.shortfalls.get(DEVICE_FALLBACK, ""),
        partial=status.shortfalls.get(DEVICE_PARTIAL, ""),
        running=status.running,
        running_max=status.running_max,
    )


def counts_messages(counts: AnswerCounts) -> list[pb.TaskCounts]:
    """Describe the results of inputs, by task."""
    messages = {
        task: pb.TaskCounts(
            task=task,
            answers=each.answers,
            graded=sum(each.confidence.counts),
            below_threshold=sum(each.held_up.values()),
            held_up=each.held_up,
            output_tokens=each.tokens[1],
            queue=_durations(each.queue),
            total=_durations(each.total),
        )
        for task, each in sorted(counts.tasks.items())
    }
    for failure, number in counts.errors.items():
        messages.setdefault(failure.task, pb.TaskCounts(task=failure.task)).errors[failure.reason] = number
    return list(messages.values())


def _durations(histogram: Histogram) -> pb.Durations:
    return pb.Durations(bounds_seconds=histogram.bounds, counts=histogram.counts, total_seconds=histogram.total)


GIVEN_UP = ("failed", "lost", "expired", "crowded")
"""Why a question for the large model was given up: the spool's counters without their prefix `questions_`."""


def examples_message(status: CaptureStatus, collect: Mapping[str, str]) -> pb.ExamplesStatus:
    """Describe the captured examples."""
    drawn, reviewed = status.counters.get("audit_drawn", 0), status.counters.get("audit_reviewed", 0)
    waiting = status.review_waiting.get("audit", 0)
    lost = max(0, drawn - reviewed - waiting)
    return pb.ExamplesStatus(
        counters=status.counters,
        retained=status.retained,
        spool_bytes=status.spool_bytes,
        outbox_bytes=status.outbox_bytes,
        outbox_segments=status.outbox_segments,
        epoch=status.epoch,
        collect={task: consent for task, consent in collect.items() if consent != "off"},
        review_waiting=status.review_waiting,
        loss_seconds=status.loss_seconds,
        audit=pb.ReviewAudit(drawn=drawn, reviewed=reviewed, waiting=waiting, lost=lost),
    )


def large_model_message(
    status: pb.EscalationStatus | None, examples: CaptureStatus | None
) -> pb.EscalationStatus | None:
    """Add the waiting questions and their results to the status of the large model."""
    if status is None or examples is None or examples.stalled_seconds:
        return status
    status.waiting.update(examples.questions)
    status.waiting_seconds = examples.question_seconds
    status.opinions = examples.counters.get("opinions", 0)
    given_up = {cause: examples.counters.get(f"questions_{cause}", 0) for cause in GIVEN_UP}
    status.given_up.update({cause: number for cause, number in given_up.items() if number})
    return status


def updates_message(activation: Activation, overview: UpdateOverview, progress: CopyProgress) -> pb.UpdatesStatus:
    """Describe the state of the site's updates, and how far a bundle has been copied."""
    tasks = sorted(activation.serving.keys() | overview.rows.keys())
    return pb.UpdatesStatus(
        channel=overview.channel,
        plan_version=overview.plan_version,
        problem=f"{overview.problem.message}. {overview.problem.remedy}" if overview.problem else "",
        tasks=[task_update_message(task, activation, overview.rows.get(task)) for task in tasks],
        copying=progress.name,
        copied_bytes=progress.bytes,
        total_bytes=progress.bytes_total,
    )


def import_message(progress: CopyProgress) -> pb.ImportUpdateResponse:
    """Describe the progress of a copy."""
    return pb.ImportUpdateResponse(copying=progress.name, copied_bytes=progress.bytes, total_bytes=progress.bytes_total)


def task_update_message(task: str, activation: Activation, row: UpdateProgress | None) -> pb.TaskUpdate:
    """Describe the update of a task."""
    active = activation.serving.get(task)
    message = pb.TaskUpdate(task=task, active=bundle_ref(active) if active else None)
    if digest := activation.inventory.rollbacks.get(task):
        versions = (bundle.manifest.version for bundle in activation.inventory.bundles if bundle.digest == digest)
        message.previous.CopyFrom(task_pb2.BundleRef(task=task, version=next(versions, ""), digest=digest))
    if row is not None:
        message.candidate.CopyFrom(task_pb2.BundleRef(task=task, version=row.version, digest=row.candidate))
        message.state = UPDATE_STATES[row.state]
        message.since_time.CopyFrom(timestamp(row.since))
        message.reason, message.message, message.attempts = row.reason, row.message, row.attempts
    return message


def page_slice(page_size: int, page_token: str, total: int) -> tuple[slice, str]:
    """Return the slice of a list of `total` items that is a page, and the token of the next page (AIP-158).

    Raises:
        InvalidRequest: a negative size, or a token that no answer gave.
    """
    size = clamp_page_size(page_size)
    if page_token and not (page_token.isascii() and page_token.isdecimal() and len(page_token) < 10):
        raise InvalidRequest(
            "page_token does not come from this daemon", remedy="Start again with an empty page_token."
        )
    start = int(page_token or 0)
    end = start + size
    return slice(start, end), str(end) if end < total else ""


def clamp_page_size(page_size: int) -> int:
    """Return the requested page size within bounds (AIP-158). Raises InvalidRequest."""
    if page_size < 0:
        raise InvalidRequest(f"page_size is {page_size}; it must not be negative")
    return min(page_size or PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX)


def privacy_report(report: PrivacyReport) -> pb.GetPrivacyReportResponse:
    """Describe the figures of a site."""
    return pb.GetPrivacyReportResponse(
        counts=[pb.PrivacyCount(**vars(each)) for each in report.counts],
        held=[pb.HeldExamples(**vars(each)) for each in report.held],
        erasures=map(_erasure_message, report.erasures),
        digests=report.digests,
        digests_max=report.digests_max,
        digest_days=report.digest_days,
        retention_days=report.retention_days,
    )


def _erasure_message(erasure: Erasure) -> pb.Erasure:
    message = pb.Erasure(number=erasure.number, erased=erasure.erased, told=erasure.told, confirmed=erasure.confirmed)
    message.erase_time.CopyFrom(timestamp(erasure.at))
    return message
