"""Errors that end a call: the request is wrong, access is missing, capacity is short, or the model failed."""

from __future__ import annotations

from edge_agent.errors.base import EdgeAgentError


class CallerError(EdgeAgentError):
    """The request cannot succeed as it is; the caller changes it."""


class UnknownTask(CallerError):
    """No task with this name is installed."""

    reason = "TASK_UNKNOWN"
    remedy_default = "Name an installed task: 'edge-agent status' and ListTasks show them."


class WrongTaskKind(CallerError):
    """The task's kind does not match this call."""

    reason = "TASK_KIND_MISMATCH"
    remedy_default = "Use the call for the task's kind, or name another task."


class UnknownQuestion(CallerError):
    """A question does not belong to the task, or the task does not accept questions from the call."""

    reason = "QUESTION_UNKNOWN"
    remedy_default = "Name questions of the task: the message, GetTask and ListTasks list them."


class InvalidRequest(CallerError):
    """A field of the request breaks its rule."""

    reason = "REQUEST_INVALID"
    remedy_default = "Change the field that the message names, to what the message allows."


class EmptyInput(CallerError):
    """An input has no text."""

    reason = "INPUT_EMPTY"
    remedy_default = "Send text with at least one character that is not white space."


class InputTooLong(CallerError):
    """An input has more tokens or characters than the task allows, or more than 65 MiB on its way to the model."""

    reason = "INPUT_TOO_LONG"
    remedy_default = "Shorten the text, or split it into several inputs."


class TooManyInputs(CallerError):
    """A request has more inputs than the task allows."""

    reason = "TOO_MANY_INPUTS"
    remedy_default = "Send the inputs in several requests."


class PredictionUnknown(CallerError):
    """The site has no answer with this id."""

    reason = "PREDICTION_UNKNOWN"
    remedy_default = (
        "Answers are kept for 'window_seconds' if 'collect' under 'examples' in agent.yaml allows it, and the disk has "
        "room: 'edge-agent doctor' shows that. Check the id, and send feedback earlier."
    )


class DeadlineExpired(CallerError):
    """The caller's deadline passed before the answer was ready."""

    reason = "DEADLINE_EXPIRED"
    remedy_default = "Allow more time, or send less at once."


class RequestCancelled(CallerError):
    """The caller cancelled the call or disconnected."""

    reason = "CANCELLED"
    remedy_default = "Nothing if the caller meant it; otherwise find out what ended the call on the caller's side."


class AccessError(EdgeAgentError):
    """The caller may not do this; it needs another certificate or another socket."""


class RoleMissing(AccessError):
    """The caller has none of the roles that the call needs."""

    reason = "ROLE_MISSING"
    remedy_default = (
        "Have a certificate issued with the role ('sudo edge-agent certs issue'), or use the socket that grants it."
    )


class CertificateExpired(AccessError):
    """The caller's certificate expired after the connection was opened."""

    reason = "CERTIFICATE_EXPIRED"
    remedy_default = (
        "Have a new certificate issued ('sudo edge-agent certs issue'), and check the clocks of both machines."
    )


class CapacityError(EdgeAgentError):
    """The call can succeed later; the caller retries after `retry_seconds`."""

    retryable = True

    def __init__(self, message: str, *, retry_seconds: float = 1.0, remedy: str = "", **metadata: object) -> None:
        """Keep also how long to wait, in seconds."""
        super().__init__(message, remedy=remedy, **metadata)
        self.retry_seconds = retry_seconds


class QueueFull(CapacityError):
    """The engine's queue is full."""

    reason = "QUEUE_FULL"
    remedy_default = "Try again after the delay in RetryInfo."


class ShareExceeded(CapacityError):
    """The client uses its whole share of the capacity, and other clients are waiting."""

    reason = "CLIENT_SHARE_FULL"
    remedy_default = "Try again after the delay in RetryInfo, with fewer calls at a time."


class RateExceeded(CapacityError):
    """The client calls more often than the site allows one client."""

    reason = "CLIENT_RATE_EXCEEDED"
    remedy_default = "Try again after the delay in RetryInfo; the limit is 'client_calls_per_second_max' in agent.yaml."


class DeadlineUnattainable(CapacityError):
    """The model computes too slowly at the moment to answer before the caller's deadline, so it does not start."""

    reason = "DEADLINE_UNATTAINABLE"
    remedy_default = (
        "Try again after the delay in RetryInfo, or allow more time. If the error persists, look for another program"
        " that keeps the processor busy."
    )


class EngineNotReady(CapacityError):
    """The model is loading, or its process is restarting."""

    reason = "ENGINE_NOT_READY"
    remedy_default = "Try again after the delay in RetryInfo."


class Draining(CapacityError):
    """The daemon is stopping."""

    reason = "DRAINING"
    remedy_default = "Connect again when the daemon is back."


class SpoolStalled(CapacityError):
    """The disk did not accept examples in time."""

    reason = "SPOOL_STALLED"
    remedy_default = (
        "Try again after the delay in RetryInfo; with the same request_id feedback is not counted twice. If the error "
        "persists, 'edge-agent doctor' shows how long the disk has stalled."
    )


class RedactionHeld(CapacityError):
    """The redaction model has not read a text, so the text is neither stored nor sent."""

    reason = "REDACTION_HELD"
    remedy_default = (
        "Try again after the delay in RetryInfo. If the error persists, 'edge-agent status' shows why the task under"
        " 'redaction' in agent.yaml does not answer."
    )


class StreamBroken(CapacityError):
    """The engine's process ended in the middle of a stream."""

    reason = "STREAM_BROKEN"
    remedy_default = "Send the request again; the text so far is not complete."


class UpstreamUnreachable(CapacityError):
    """The object store or the large model does not answer, or not in time."""

    reason = "UPSTREAM_UNREACHABLE"
    remedy_default = (
        "Check the network, and the addresses: 'edge-agent config show' has those of the enrolment file and of "
        "agent.yaml, under 'uplink' and 'escalation'. The uplink retries automatically."
    )


class UpstreamBusy(CapacityError):
    """The object store or the large model asks to slow down."""

    reason = "UPSTREAM_BUSY"
    remedy_default = (
        "Nothing: the uplink retries automatically, with longer pauses. If the error persists, ask the operator of "
        "the store."
    )


class UpstreamFailed(CapacityError):
    """The object store or the large model gave an invalid answer."""

    reason = "UPSTREAM_FAILED"
    remedy_default = (
        "The uplink retries automatically. If the error persists, check that 'url' and 'updates_url' in agent.yaml "
        "are right and do not lead to a login page."
    )


class ModelError(EdgeAgentError):
    """The model failed; the central team investigates."""


class ModelLoadFailed(ModelError):
    """The model's files do not load."""

    reason = "MODEL_LOAD_FAILED"
    remedy_default = (
        "Install the bundle again, which replaces damaged files; if that does not help, have it built again. 'edge-"
        "agent rollback TASK' returns to the version before."
    )


class ModelFailed(ModelError):
    """The model gave no usable answer to one request."""

    reason = "MODEL_FAILED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle."


class EngineCrashed(ModelError):
    """The engine's process died on this request."""

    reason = "ENGINE_CRASHED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle."


class InputQuarantined(ModelError):
    """This input alone killed the engine's process before, so it is refused."""

    reason = "INPUT_QUARANTINED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle; do not send it again."
