"""Errors in OpenAI's format, with the daemon's reasons and an HTTP status for each gRPC code. Pure.

    {"error": {"message": "…. What to do about it.", "type": "rate_limit_error", "param": null, "code": "QUEUE_FULL"}}

The `openai` library retries by status alone, unless a header tells it: each error says whether a retry helps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from edge_agent.client import CallFailed, Failure

REQUEST_INVALID = "REQUEST_INVALID"
MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
QUEUE_FULL = "QUEUE_FULL"
NOT_FOUND = 404
SERVER_FAILED = 500
STATUSES: Mapping[str, int] = {
    "INVALID_ARGUMENT": 400,
    "NOT_FOUND": NOT_FOUND,
    "RESOURCE_EXHAUSTED": 429,
    "CANCELLED": 499,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
"""By gRPC code; any other is 500, also a refused certificate of the gateway, which no caller can fix."""
INPUT_CODES: Mapping[str, str] = {
    **dict.fromkeys(("INPUT_EMPTY", "INPUT_TOO_LONG", REQUEST_INVALID), "INVALID_ARGUMENT"),
    **dict.fromkeys((QUEUE_FULL, "CLIENT_SHARE_FULL", "DEADLINE_UNATTAINABLE"), "RESOURCE_EXHAUSTED"),
    **dict.fromkeys(("ENGINE_NOT_READY", "DRAINING", "STREAM_BROKEN"), "UNAVAILABLE"),
    "DEADLINE_EXPIRED": "DEADLINE_EXCEEDED",
    "CANCELLED": "CANCELLED",
}
"""The code of a single call with that input; any other reason is INTERNAL."""
REASON_STATUSES: Mapping[str, int] = {MESSAGE_TOO_LARGE: 413}
"""Reasons with a status of their own in HTTP."""
_TYPES: Mapping[int, str] = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_MODEL_REASONS = frozenset({"TASK_UNKNOWN", "TASK_KIND_MISMATCH"})
_INPUT_REASONS = frozenset({"INPUT_EMPTY", "INPUT_TOO_LONG", "INPUT_QUARANTINED", "TOO_MANY_INPUTS"})
_UNREACHABLE_SECONDS = 1.0


class GatewayError(Exception):
    """A request that fails, as the caller reads it."""

    def __init__(self, message: str, *, param: str = "", remedy: str = "", reason: str = REQUEST_INVALID) -> None:
        """Keep the parts; `param` is the member of the request to change, empty when there is none."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.remedy = remedy
        self.reason = reason
        self.status = REASON_STATUSES.get(reason, STATUSES["INVALID_ARGUMENT"])
        self.retry_seconds: float | None = None
        """Delay after which the same request may succeed; None when a retry does not help."""

    def as_json(self) -> dict[str, Any]:
        """Return it in OpenAI's format."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= SERVER_FAILED else "invalid_request_error")
        error = {"message": _sentence(self), "type": kind, "param": self.param or None, "code": self.reason}
        return {"error": error}

    def headers(self) -> dict[str, str]:
        """Return the headers that control retries."""
        seconds = self.retry_seconds
        if seconds is None:
            return {"x-should-retry": "false"}
        exact = {"retry-after": str(math.ceil(seconds)), "retry-after-ms": str(math.ceil(seconds * 1000))}
        return {"x-should-retry": "true", **exact}


def _sentence(refused: GatewayError) -> str:
    sentence = refused.message if refused.message.endswith((".", "!", "?")) else f"{refused.message}."
    return f"{sentence} {refused.remedy}".rstrip()


def from_call_failure(failed: CallFailed, inputs: str) -> GatewayError:
    """Return the error of a failed call; `inputs` names the member with its inputs."""
    refused = _refused(failed, inputs)
    refused.status = REASON_STATUSES.get(failed.reason) or STATUSES.get(failed.code, SERVER_FAILED)
    refused.retry_seconds = failed.retry_after_seconds
    if failed.reason == "UNREACHABLE":
        refused.retry_seconds = _UNREACHABLE_SECONDS
    return refused


def from_input_failure(failure: Failure, inputs: str) -> GatewayError:
    """Return the error of one input of several."""
    refused = _refused(failure, inputs)
    refused.status = STATUSES.get(INPUT_CODES.get(failure.reason, ""), SERVER_FAILED)
    return refused


def _refused(failed: CallFailed | Failure, inputs: str) -> GatewayError:
    param = "model" if failed.reason in _MODEL_REASONS else inputs if failed.reason in _INPUT_REASONS else ""
    return GatewayError(failed.message, param=param, remedy=failed.remedy, reason=failed.reason)
