"""What stands around every handler: errors become statuses, and nothing of an exception's text leaves the daemon.

Handlers that stream are coroutines that write, not generators that yield: a generator cannot be ended while gRPC waits
for a caller who does not read. Cancellation passes through: swallowing it leaks memory in gRPC.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from edge_agent.errors import EdgeAgentError
from edge_agent.server.status import to_call_status

log = structlog.get_logger("edge_agent.server")

Request = TypeVar("Request")
Response = TypeVar("Response")
Servicer = TypeVar("Servicer")
# grpc.aio's context is generic in messages that no handler here needs to know.
Context = grpc.aio.ServicerContext[Any, Any]
BUG = "INTERNAL"
"""What is written down of an exception of no error tree."""


def call(
    handler: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """Guard a handler."""

    @functools.wraps(handler)
    async def guarded(self: Servicer, request: Request, context: Context) -> Response:
        try:
            return await handler(self, request, context)
        except EdgeAgentError as error:
            await abort(error, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of the daemon
            await bug(handler.__name__, error, context)
        raise AssertionError("abort always raises")

    return guarded


def bare(handler: Any) -> Any:
    """Return a guarded handler of a servicer without its guard: what it raises reaches whoever awaits it."""
    return handler.__wrapped__.__get__(handler.__self__)


async def abort(error: EdgeAgentError, context: Any) -> None:
    """End the call with an error's status; always raises."""
    # `Any`: the stubs do not know abort_with_status, which grpc.aio has.
    await context.abort_with_status(to_call_status(error))


async def bug(method: str, error: Exception, context: Any) -> None:
    """End the call that met an exception of no error tree; always raises. To be called where it is handled."""
    log.exception("handler_failed", method=method, error=type(error).__name__)
    await context.abort(grpc.StatusCode.INTERNAL, "an unexpected error in edge-agent; its log has the details")
