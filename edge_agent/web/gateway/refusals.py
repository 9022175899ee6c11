"""What a caller reads instead of an answer: OpenAI's shape, the daemon's reasons, an HTTP status by gRPC code. Pure.

    {"error": {"message": "…. What to do about it.", "type": "rate_limit_error", "param": null, "code": "QUEUE_FULL"}}

The `openai` library tries again by status alone, unless it is told: whether it helps is said with each.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edge_agent.client import CallFailed, Failure

REQUEST_INVALID = "REQUEST_INVALID"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
QUEUE_FULL = "QUEUE_FULL"
FOUND_NOTHING = 404
SERVER_FAILED = 500
STATUSES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": FOUND_NOTHING,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""By gRPC code. Any other is 500, also a refused certificate: it is the gateway's own, and no caller can mend it."""
INPUT_CODES: Mapping[str, str] = {
    **dict.fromkeys(("INPUT_EMPTY", "INPUT_TOO_LONG", REQUEST_INVALID), "INVALID_ARGUMENT"),
    **dict.fromkeys((QUEUE_FULL, "CLIENT_SHARE_FULL", "DEADLINE_UNATTAINABLE"), "RESOURCE_EXHAUSTED"),
    **dict.fromkeys(("ENGINE_NOT_READY", "DRAINING", "STREAM_BROKEN"), "UNAVAILABLE"),
    "DEADLINE_EXPIRED": "DEADLINE_EXCEEDED",
    "CANCELLED": "CANCELLED",
}
"""The code that one input of a batch would fail with, were it alone; any other reason is INTERNAL."""
REASON_STATUSES: Mapping[str, int] = {MESSAGE_TOO_LARGE: 413}
"""Where HTTP has a word of its own."""
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_OF_MODEL = frozenset({"TASK_UNKNOWN", "TASK_KIND_MISMATCH"})
_OF_INPUT = frozenset({"INPUT_EMPTY", "INPUT_TOO_LONG", "INPUT_QUARANTINED", "TOO_MANY_INPUTS"})
_UNREACHABLE_SECONDS = 1.0


class Refused(Exception):
    """A request without an answer."""

    def __init__(self, message: str, *, param: str = "", remedy: str = "", reason: str = REQUEST_INVALID) -> None:
        """Keep the parts; `param` is the member of the request that is to be changed, empty = none."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy
        self.reason = reason
        self.status = REASON_STATUSES.get(reason, STATUSES["INVALID_ARGUMENT"])
        self.retry_seconds: float | None = None
        """After that long the same request may succeed; None = it will not."""

    def plain(self) -> dict[str, Any]:
        """Return it as OpenAI writes errors."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= SERVER_FAILED else "invalid_request_error")
        error = {"message": _sentence(self), "type": kind, "param": self.param or None, "code": self.reason}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Say when to try again, or that it does not help."""
        seconds = self.retry_seconds
        if seconds is None:
            return {"x-should-retry": "false"}
        exact = {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
        return {"x-should-retry": "true", **exact}


def _sentence(refused: Refused) -> str:
    said = refused.message if refused.message.endswith((".", "!", "?")) else f"{refused.message}."
    return f"{said} {refused.remedy}".rstrip()


def of_call(failed: CallFailed, inputs: str) -> Refused:
    """Read a call that failed; `inputs` is the member that held what was asked."""
    refused = _refused(failed, inputs)
    refused.status = REASON_STATUSES.get(failed.reason) or STATUSES.get(failed.code, SERVER_FAILED)
    refused.retry_seconds = failed.retry_after_seconds
    if failed.reason == "UNREACHABLE":
        refused.retry_seconds = _UNREACHABLE_SECONDS
    return refused


def of_input(failure: Failure, inputs: str) -> Refused:
    """Read why one input of several has no answer."""
    refused = _refused(failure, inputs)
    refused.status = STATUSES.get(INPUT_CODES.get(failure.reason, ""), SERVER_FAILED)
    return refused


def _refused(failed: CallFailed | Failure, inputs: str) -> Refused:
    param = "model" if failed.reason in _OF_MODEL else inputs if failed.reason in _OF_INPUT else ""
    return Refused(failed.message, param=param, remedy=failed.remedy, reason=failed.reason)
