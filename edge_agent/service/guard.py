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

from edge_agent.errors import EdgeAgentError, InvalidRequest
from edge_agent.service.status import to_call_status

log = structlog.get_logger("edge_agent.service")

Request = TypeVar("Request")
Response = TypeVar("Response")
Servicer = TypeVar("Servicer")
# grpc.aio's context is generic in messages that no handler here needs to know.
Context = grpc.aio.ServicerContext[Any, Any]


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
            await _bug(handler.__name__, error, context)
        raise AssertionError("abort always raises")

    return guarded


class WellFormed:
    """Stands for a server while a service is added to it, and lets only messages through that can be read.

    gRPC answers a message that does not parse with the text of the exception; this answers with INVALID_ARGUMENT.
    """

    def __init__(self, server: grpc.aio.Server) -> None:
        """Take the server that the service is for."""
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code adds the same handlers by the method below."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Add the handlers, each of which takes one request."""
        safe = {name: _well_formed(handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, safe),))


class _Malformed:
    """In place of a request that does not parse."""


def _well_formed(handler: Any) -> Any:
    inner = handler.unary_stream or handler.unary_unary
    make = grpc.unary_stream_rpc_method_handler if handler.unary_stream else grpc.unary_unary_rpc_method_handler

    def parse(data: bytes) -> Any:
        try:
            return handler.request_deserializer(data)
        except Exception:  # noqa: BLE001 - DecodeError, or whatever protobuf makes of hostile bytes
            return _Malformed()

    async def behaviour(request: Any, context: Any) -> Any:
        if isinstance(request, _Malformed):
            error = InvalidRequest(
                "the request is no valid message of this method",
                remedy="Generate the client from the daemon's version of proto/edge_agent/v1; text must be UTF-8.",
            )
            await abort(error, context)
        return await inner(request, context)

    return make(behaviour, parse, handler.response_serializer)


async def abort(error: EdgeAgentError, context: Any) -> None:
    """End the call with an error's status; always raises."""
    # `Any`: the stubs do not know abort_with_status, which grpc.aio has.
    await context.abort_with_status(to_call_status(error))


async def _bug(method: str, error: Exception, context: Context) -> None:
    log.exception("handler_failed", method=method, error=type(error).__name__)
    await context.abort(grpc.StatusCode.INTERNAL, "an unexpected error in edge-agent; its log has the details")
