"""What ends a call: the caller, a lack of room or time, or the model."""

from __future__ import annotations

from edge_agent.errors.base import EdgeAgentError


class CallerError(EdgeAgentError):
    """The caller changes the request."""


class UnknownTask(CallerError):
    """No task of that name is installed."""

    reason = "TASK_UNKNOWN"
    remedy_default = "Name a task that is installed: 'edge-agent status' and ListTasks show them."


class WrongTaskKind(CallerError):
    """The task does something else than this call asks for."""

    reason = "TASK_KIND_MISMATCH"
    remedy_default = "Use the call for the kind of the task, or name another task."


class InvalidRequest(CallerError):
    """A field of the request breaks its rule."""

    reason = "REQUEST_INVALID"
    remedy_default = "Change the field that the message names; docs/api.md has the limits of each."


class EmptyInput(CallerError):
    """An input has no text."""

    reason = "INPUT_EMPTY"
    remedy_default = "Send text with at least one character that is not white space."


class InputTooLong(CallerError):
    """An input has more tokens or characters than the task allows, or more than 65 MiB on its way to the model."""

    reason = "INPUT_TOO_LONG"
    remedy_default = "Shorten the text, or split it over several inputs."


class TooManyInputs(CallerError):
    """A request has more inputs than the task allows."""

    reason = "TOO_MANY_INPUTS"
    remedy_default = "Send the inputs in several requests."


class PredictionUnknown(CallerError):
    """No answer of that id is kept here."""

    reason = "PREDICTION_UNKNOWN"
    remedy_default = (
        "Answers are kept for 'window_seconds' where 'collect' under 'examples' in agent.yaml allows it; "
        "check the id, and send feedback earlier."
    )


class DeadlineExpired(CallerError):
    """The caller's deadline passed before the answer was there."""

    reason = "DEADLINE_EXPIRED"
    remedy_default = "Allow more time, or send less at once."


class RequestCancelled(CallerError):
    """The caller went away."""

    reason = "CANCELLED"
    remedy_default = "Nothing if the caller meant it; otherwise look at what ended the call on the caller's side."


class AccessError(EdgeAgentError):
    """Whoever issues certificates gives the caller another one, or the caller takes another socket."""


class RoleMissing(AccessError):
    """The caller has none of the roles that the call needs."""

    reason = "ROLE_MISSING"
    remedy_default = "Have a certificate issued with the role, or use the socket that gives it."


class CertificateExpired(AccessError):
    """The caller's certificate is out of date, though the connection is older than that."""

    reason = "CERTIFICATE_EXPIRED"
    remedy_default = "Have a new certificate issued ('edge-agent certs issue'), and check the clocks of both machines."


class CapacityError(EdgeAgentError):
    """The caller tries again after `retry_seconds`."""

    retryable = True

    def __init__(self, message: str, *, retry_seconds: float = 1.0, remedy: str = "", **metadata: object) -> None:
        """Keep also how long to wait, in seconds."""
        super().__init__(message, remedy=remedy, **metadata)
        self.retry_seconds = retry_seconds


class QueueFull(CapacityError):
    """The engine's queue has no room."""

    reason = "QUEUE_FULL"
    remedy_default = "Try again after the delay in RetryInfo."


class ShareExceeded(CapacityError):
    """The client has its share of what there is, and others want some, too."""

    reason = "CLIENT_SHARE_FULL"
    remedy_default = "Try again after the delay in RetryInfo, with fewer calls at a time."


class RateExceeded(CapacityError):
    """The client calls more often than the site allows one client."""

    reason = "CLIENT_RATE_EXCEEDED"
    remedy_default = "Try again after the delay in RetryInfo; the limit is 'client_calls_per_second_max' in agent.yaml."


class DeadlineUnattainable(CapacityError):
    """The model computes too slowly now to answer before the caller's deadline, so it does not begin."""

    reason = "DEADLINE_UNATTAINABLE"
    remedy_default = (
        "Try again after the delay in RetryInfo, or allow more time. If it stays: look for another program that keeps "
        "the processor busy."
    )


class EngineNotReady(CapacityError):
    """The model is loading, or its process is being started again."""

    reason = "ENGINE_NOT_READY"
    remedy_default = "Try again after the delay in RetryInfo."


class Draining(CapacityError):
    """The daemon is stopping."""

    reason = "DRAINING"
    remedy_default = "Connect again when the daemon is back."


class SpoolStalled(CapacityError):
    """The disk takes no examples in time."""

    reason = "SPOOL_STALLED"
    remedy_default = (
        "Try again after the delay in RetryInfo; the same request_id keeps feedback from being counted twice. "
        "If it stays: 'edge-agent doctor' says how long the disk has stood."
    )


class StreamBroken(CapacityError):
    """The engine's process ended in the middle of a stream."""

    reason = "STREAM_BROKEN"
    remedy_default = "Send the request again; the text so far is not complete."


class UpstreamUnreachable(CapacityError):
    """No answer comes from the upstream, or none in time."""

    reason = "UPSTREAM_UNREACHABLE"
    remedy_default = (
        "Check the network, and 'url', 'updates_url' and their options under 'uplink' in agent.yaml; it is tried again."
    )


class UpstreamBusy(CapacityError):
    """The upstream asks for patience."""

    reason = "UPSTREAM_BUSY"
    remedy_default = "Nothing: it is tried again by itself, with longer pauses. If it stays, ask who runs the store."


class UpstreamFailed(CapacityError):
    """The upstream answers, but not as it should."""

    reason = "UPSTREAM_FAILED"
    remedy_default = (
        "It is tried again. If it stays: is 'url' or 'updates_url' in agent.yaml right, or is it a login page?"
    )


class ModelError(EdgeAgentError):
    """The central team looks at the model."""


class ModelLoadFailed(ModelError):
    """The model's files do not load."""

    reason = "MODEL_LOAD_FAILED"
    remedy_default = (
        "Install the bundle again, which replaces damaged files; if that does not help, have it built again. "
        "'edge-agent rollback TASK' goes back to the version before."
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
    """The input killed the engine's process before, alone."""

    reason = "INPUT_QUARANTINED"
    remedy_default = "Report the input and the bundle digest to the team that made the bundle; do not send it again."
