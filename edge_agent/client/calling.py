"""What the clients of both kinds know of the daemon that they call, beside the channel. Nothing here waits or sends."""

from __future__ import annotations

import uuid
from typing import Any

import grpc

from edge_agent.client import arguments
from edge_agent.client.failure import CallFailed, call_failed
from edge_agent.client.retry import Budget, Retry, Tries
from edge_agent.client.tls import Tls
from edge_agent.client.wire import CHANNEL_OPTIONS


class Calling:
    """Whom to call, how often, and how that went so far."""

    def __init__(self, target: str, tls: Tls | None, retry: Retry | None) -> None:
        """Note it. Raises ValueError when the address is none."""
        self.target = arguments.target(target)
        self.tls = tls
        self.retry = retry
        self.budget = Budget(retry or Retry())
        self._closed = False
        self._answered = False

    def options(self) -> list[tuple[str, Any]]:
        """Return the options of the channel."""
        return [*CHANNEL_OPTIONS, *(self.tls.options() if self.tls else ())]

    def require_open(self) -> None:
        """Raise ValueError when the client is closed."""
        if self._closed:
            raise arguments.closed()

    def start(self, method: Any, request: Any, timeout_seconds: float) -> Any:
        """Start a call. Raises ValueError when the client is closed or there is no time."""
        self.require_open()
        return method(request, timeout=arguments.timeout(timeout_seconds))

    def begin(self, timeout_seconds: float, now: float) -> Tries:
        """Begin the tries of one call. Raises ValueError when there is no time."""
        return Tries(self.retry, self.budget, arguments.timeout(timeout_seconds), now)

    def request_id(self, given: str) -> str:
        """Return the id of a request: what the caller says, or a new one where it may be sent again."""
        return given or (str(uuid.uuid4()) if self.retry else "")

    def answered(self) -> None:
        """Note that a call was answered: the daemon takes this client, and has time for it."""
        self._answered = True
        self.budget.earn()

    def failed(self, error: grpc.RpcError, timeout_seconds: float, request: Any = None) -> CallFailed:
        """Read a call of this connection that failed."""
        failed = call_failed(error, self.target, timeout_seconds, with_tls=self.tls is not None)
        failed.answered_before = self._answered
        failed.request_id = getattr(request, "request_id", "")
        return failed
