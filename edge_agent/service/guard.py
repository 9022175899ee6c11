"""What stands around every handler: errors become statuses, and nothing of an exception's text leaves the daemon."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from edge_agent.errors import EdgeAgentError
from edge_agent.service.status import to_call_status

log = structlog.get_logger("edge_agent.service")

Request = TypeVar("Request")
Response = TypeVar("Response")
Servicer = TypeVar("Servicer")
# grpc.aio's context is generic in messages that no handler here needs to know.
Context = grpc.aio.ServicerContext[Any, Any]


def unary(
    handler: Callable[[Servicer, Request, Context], Awaitable[Response]],
) -> Callable[[Servicer, Request, Context], Awaitable[Response]]:
    """Guard a unary handler."""

    @functools.wraps(handler)
    async def guarded(self: Servicer, request: Request, context: Context) -> Response:
        try:
            return await handler(self, request, context)
        except EdgeAgentError as error:
            await _abort(error, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of the daemon
            await _bug(handler.__name__, error, context)
        raise AssertionError("abort always raises")

    return guarded


def stream(
    handler: Callable[[Servicer, Request, Context], AsyncGenerator[Response, None]],
) -> Callable[[Servicer, Request, Context], AsyncIterator[Response]]:
    """Guard a handler that streams responses. Cancellation passes through: swallowing it leaks memory in gRPC."""

    @functools.wraps(handler)
    async def guarded(self: Servicer, request: Request, context: Context) -> AsyncIterator[Response]:
        try:
            async with contextlib.aclosing(handler(self, request, context)) as responses:
                async for response in responses:
                    yield response
        except EdgeAgentError as error:
            await _abort(error, context)
        except grpc.aio.AbortError:
            raise
        except Exception as error:  # noqa: BLE001 - the edge of the daemon
            await _bug(handler.__name__, error, context)

    return guarded


async def _abort(error: EdgeAgentError, context: Any) -> None:
    # `Any`: the stubs do not know abort_with_status, which grpc.aio has.
    await context.abort_with_status(to_call_status(error))


async def _bug(method: str, error: Exception, context: Context) -> None:
    log.exception("handler_failed", method=method, error=type(error).__name__)
    await context.abort(grpc.StatusCode.INTERNAL, "an unexpected error in edge-agent; its log has the details")
