"""The one exception of the client, and how it is read from a failed gRPC call.

The daemon says what went wrong in google.rpc.ErrorInfo (domain "edge-agent"); RetryInfo says when to try again. Without
an ErrorInfo the daemon never got to answer: nobody listens, the connection broke, or the client's own deadline passed.
"""

from __future__ import annotations

from typing import TypeVar, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

DOMAIN = "edge-agent"
UNREACHABLE = "UNREACHABLE"
DEADLINE_EXPIRED = "DEADLINE_EXPIRED"

_Detail = TypeVar("_Detail", bound=Message)


class CallFailed(Exception):
    """A call that got no answer."""

    def __init__(self, code: str, reason: str, message: str, *, remedy: str = "", metadata: dict[str, str]) -> None:
        """Keep the parts; `retry_after_seconds` is set when the daemon names a delay."""
        super().__init__(message)
        self.code = code
        """gRPC's name, e.g. "NOT_FOUND"."""
        self.reason = reason
        """Stable UPPER_SNAKE reason; docs/errors.md lists them. UNREACHABLE when no daemon answered."""
        self.message = message
        self.remedy = remedy
        """What the reader can do next; may be empty."""
        self.metadata = metadata
        """Every dynamic value of the message, by name."""
        self.retry_after_seconds: float | None = None


def call_failed(error: grpc.RpcError, target: str, timeout_seconds: float) -> CallFailed:
    """Read a failed call, sync or aio."""
    call = cast(grpc.Call, error)
    status = _status_of(call)
    info = _detail(status, error_details_pb2.ErrorInfo)
    if info is None or info.domain != DOMAIN:
        return _without_info(call, target, timeout_seconds)
    metadata = dict(info.metadata)
    remedy = metadata.pop("remedy", "")
    failed = CallFailed(call.code().name, info.reason, call.details() or "", remedy=remedy, metadata=metadata)
    retry = _detail(status, error_details_pb2.RetryInfo)
    if retry is not None:
        failed.retry_after_seconds = retry.retry_delay.ToTimedelta().total_seconds()
    return failed


def _status_of(call: grpc.Call) -> status_pb2.Status:
    try:
        return rpc_status.from_call(call) or status_pb2.Status()
    except ValueError:  # The trailer contradicts the call's own status: trust the call.
        return status_pb2.Status()


def _detail(status: status_pb2.Status, kind: type[_Detail]) -> _Detail | None:
    for packed in status.details:
        found = kind()
        if packed.Unpack(found):
            return found
    return None


def _without_info(call: grpc.Call, target: str, timeout_seconds: float) -> CallFailed:
    code, details = call.code(), call.details() or ""
    if code is grpc.StatusCode.UNAVAILABLE:
        return CallFailed(
            code.name,
            UNREACHABLE,
            f"no daemon answers at {target}",
            remedy=_reach_remedy(target, details),
            metadata={"target": target, "details": details},
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return CallFailed(
            code.name,
            DEADLINE_EXPIRED,
            f"no answer from {target} within {timeout_seconds:g} s",
            remedy="Allow more time, or send less at once.",
            metadata={"target": target, "timeout_seconds": f"{timeout_seconds:g}"},
        )
    return CallFailed(code.name, code.name, details or f"{target} answered {code.name}", metadata={"target": target})


def _reach_remedy(target: str, details: str) -> str:
    if "Permission denied" in details:
        return f"This user may not open {target}: use 'sudo', or add the user to the socket's group."
    if target.startswith("unix:"):
        return "Is edge-agent running? 'systemctl status edge-agent' tells; 'edge-agent serve' starts it by hand."
    return "Is edge-agent running there, and does its agent.yaml set service.tcp_address?"
