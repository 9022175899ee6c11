"""Maps the error tree to gRPC statuses (AIP-193).

Every status carries ErrorInfo with domain "edge-agent", the error's reason, metadata and remedy; a capacity error also
carries RetryInfo. The message is complete without the details, because many clients lose those. Trailers stay below
the 8 kB that gRPC takes: the message travels twice (percent-encoded, and in the details as base64), so both are cut.
"""

from __future__ import annotations

import grpc
from google.protobuf import any as protobuf_any
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from edge_agent import errors
from edge_agent.v1 import task_pb2

DOMAIN = "edge-agent"
UNEXPECTED_ERROR_REASON = "INTERNAL"
"""What the audit log and the metrics record of an exception of no error tree."""
MESSAGE_BYTES_MAX = 1000
VALUE_BYTES_MAX = 500
METADATA_BYTES_MAX = 2000
ENTRY_BYTES = 8  # what protobuf writes around one key and value

Code = grpc.StatusCode

# The first match counts: exceptions to a family precede it.
CODES: tuple[tuple[type[errors.EdgeAgentError], grpc.StatusCode], ...] = (
    (errors.UnknownTask, Code.NOT_FOUND),
    (errors.PredictionUnknown, Code.NOT_FOUND),
    (errors.DeadlineExpired, Code.DEADLINE_EXCEEDED),
    (errors.RequestCancelled, Code.CANCELLED),
    (errors.CallerError, Code.INVALID_ARGUMENT),
    (errors.CertificateExpired, Code.UNAUTHENTICATED),
    (errors.AccessError, Code.PERMISSION_DENIED),
    (errors.QueueFull, Code.RESOURCE_EXHAUSTED),
    (errors.ShareExceeded, Code.RESOURCE_EXHAUSTED),
    (errors.RateExceeded, Code.RESOURCE_EXHAUSTED),
    (errors.DeadlineUnattainable, Code.RESOURCE_EXHAUSTED),
    (errors.CapacityError, Code.UNAVAILABLE),
    (errors.ModelLoadFailed, Code.FAILED_PRECONDITION),
    (errors.InputQuarantined, Code.FAILED_PRECONDITION),
    (errors.ModelError, Code.INTERNAL),
    (errors.BundleError, Code.FAILED_PRECONDITION),
    (errors.ExchangeError, Code.FAILED_PRECONDITION),
    (errors.UpdateError, Code.FAILED_PRECONDITION),
    (errors.UnknownBundle, Code.NOT_FOUND),
    (errors.AmbiguousBundle, Code.INVALID_ARGUMENT),
    (errors.StateError, Code.FAILED_PRECONDITION),
    (errors.SiteError, Code.FAILED_PRECONDITION),
    (errors.EdgeAgentError, Code.INTERNAL),
)


def code_of(error: errors.EdgeAgentError) -> grpc.StatusCode:
    """Return the gRPC code of an error."""
    return next(code for cls, code in CODES if isinstance(error, cls))


def to_status(error: errors.EdgeAgentError) -> status_pb2.Status:
    """Convert an error to google.rpc.Status."""
    details = [
        protobuf_any.pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=_metadata(error)))
    ]
    if isinstance(error, errors.CapacityError):
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(max(int(error.retry_seconds * 1000), 1))
        details.append(protobuf_any.pack(error_details_pb2.RetryInfo(retry_delay=delay)))
    return status_pb2.Status(
        code=code_of(error).value[0], message=_clip(error.message, MESSAGE_BYTES_MAX), details=details
    )


def to_call_status(error: errors.EdgeAgentError) -> grpc.Status:
    """Convert an error to what `context.abort_with_status` takes."""
    return rpc_status.to_status(to_status(error))


def to_input_error(error: errors.EdgeAgentError) -> task_pb2.InputError:
    """Convert the error of one input of a batch."""
    return task_pb2.InputError(
        reason=error.reason, message=_clip(error.message, MESSAGE_BYTES_MAX), metadata=_metadata(error)
    )


def _metadata(error: errors.EdgeAgentError) -> dict[str, str]:
    metadata, bytes_left = {}, METADATA_BYTES_MAX
    for key, value in {**({"remedy": error.remedy} if error.remedy else {}), **error.metadata}.items():
        clipped = _clip(value, VALUE_BYTES_MAX)
        needed = len(key.encode()) + len(clipped.encode()) + ENTRY_BYTES
        if needed <= bytes_left:
            metadata[key] = clipped
            bytes_left -= needed
    return metadata


def _clip(text: str, bytes_max: int) -> str:
    # A file name may hold bytes that are not text, which protobuf refuses: show them escaped.
    raw = text.encode("utf-8", "backslashreplace")
    return raw.decode() if len(raw) <= bytes_max else raw[: bytes_max - 3].decode("utf-8", "ignore") + "…"
