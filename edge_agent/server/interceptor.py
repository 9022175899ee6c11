"""What every call passes before its handler: who is it, may it, is it too often, can its message be read?

An unauthorized caller's bytes reach no parser. gRPC answers a message that does not parse with the text of the
exception; this answers with INVALID_ARGUMENT.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import grpc
import grpc.aio
import structlog

from edge_agent.errors import AccessError, Draining, EdgeAgentError, InvalidRequest, RateExceeded
from edge_agent.server import callers, roles
from edge_agent.server.admission_control import Rates
from edge_agent.server.audit import Audit
from edge_agent.server.callers import Caller, Identify
from edge_agent.server.detached_calls import Change, Changes
from edge_agent.server.error_status import to_call_status
from edge_agent.server.roles import Treatment, treatment


class Gate:
    """Stands for a server while services are added to it."""

    def __init__(
        self, server: grpc.aio.Server, identify: Identify, rates: Rates, audit: Audit, changes: Changes
    ) -> None:
        """Take the server that the services are for, how its callers are told apart, how often each may call."""
        self._server = server
        self._identify = identify
        self._rates = rates
        self._audit = audit
        self._changes = changes
        self.running = RunningCalls()
        """All calls but changes, which come to their end whatever stops."""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code adds the same handlers by the method below."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Add the handlers of a service."""
        gated = {name: self._gated(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, gated),))

    def _gated(self, method: str, handler: Any) -> Any:
        if handler.stream_stream:
            return self._gated_dialogue(method, handler)
        inner, parse, kind = (
            handler.unary_stream or handler.unary_unary,
            handler.request_deserializer,
            treatment(method),
        )

        async def plain(data: bytes, context: Any) -> Any:
            await self._enter(method, kind, context)
            task = self.running.begin()
            try:
                return await inner(await _parsed(parse, data, context), context)
            except asyncio.CancelledError:
                await self._end_cancelled(task, context)
                raise

        make = grpc.unary_stream_rpc_method_handler if handler.unary_stream else grpc.unary_unary_rpc_method_handler
        behaviour = self._changing(method, handler) if kind == "change" else plain
        return make(behaviour, None, handler.response_serializer)

    def _changing(self, method: str, handler: Any) -> Any:
        """Let a handler make its change whoever waits for it, and answer whoever still does."""
        act, parse = bare(handler.unary_stream or handler.unary_unary), handler.request_deserializer

        async def behaviour(data: bytes, context: Any) -> Any:
            await self._enter(method, "change", context)
            request = await _parsed(parse, data, context)
            change = Change(callers.current.get(), method.rpartition("/")[2], request)
            try:
                if handler.unary_stream:
                    return await self._changes.run_told(change, functools.partial(act, request), context.write)
                return await self._changes.run(change, functools.partial(act, request, context))
            except EdgeAgentError as error:
                await abort(error, context)
            except Exception as error:  # noqa: BLE001 - the edge of the daemon
                await bug(method, error, context)

        return behaviour

    def _gated_dialogue(self, method: str, handler: Any) -> Any:
        async def behaviour(requests: Any, context: Any) -> None:
            await self._enter(method, treatment(method), context)
            task = self.running.begin()
            try:
                await converse(requests, context)
            except asyncio.CancelledError:
                await self._end_cancelled(task, context)
                raise

        async def converse(requests: Any, context: Any) -> None:
            async with contextlib.aclosing(read(requests, context)) as asked:
                answers = handler.stream_stream(asked, context)
                if not inspect.isasyncgen(answers):
                    await answers  # it writes, and so can be ended while its caller does not read
                    return
                async with contextlib.aclosing(answers):
                    async for response in answers:
                        await context.write(response)

        async def read(requests: AsyncIterator[bytes], context: Any) -> AsyncGenerator[Any, None]:
            async for data in requests:
                yield await _parsed(handler.request_deserializer, data, context)

        return grpc.stream_stream_rpc_method_handler(behaviour, None, handler.response_serializer)

    async def _end_cancelled(self, task: asyncio.Task[Any], context: Any) -> None:
        """End a call with its status if the daemon has cancelled it; return if its caller has."""
        try:
            self.running.raise_refusal(task)
        except EdgeAgentError as error:
            await abort(error, context)

    async def _enter(self, method: str, kind: Treatment, context: Any) -> None:
        try:
            caller = self._identify(context)
            callers.current.set(caller)
            roles.authorize(method, caller.name, caller.roles)
            if kind == "work":
                self._require_patience(caller)
            elif kind == "look":
                self._audit.seen(caller, method.rpartition("/")[2], "OK")
        except AccessError as error:
            self._audit.seen(callers.current.get(), method.rpartition("/")[2], error.reason)
            await abort(error, context)
        except EdgeAgentError as error:
            await abort(error, context)
        except Exception as error:  # noqa: BLE001 - the edge of the daemon, and a certificate may hold anything
            await bug(method, error, context)

    def _require_patience(self, caller: Caller) -> None:
        seconds = self._rates.take(caller.account, time.monotonic())
        if seconds:
            who = caller.name
            said = f"{who} calls more often than this site allows one client; the next call may come in {seconds:.2g} s"
            raise RateExceeded(said, retry_seconds=seconds, client=who)


async def _parsed(parse: Any, data: bytes, context: Any) -> Any:
    try:
        return parse(data)
    except Exception:  # noqa: BLE001 - DecodeError, or whatever protobuf makes of hostile bytes
        error = InvalidRequest(
            "the request is no valid message of this method",
            remedy="Generate the client from the daemon's version of proto/; text must be UTF-8.",
        )
    await abort(error, context)
    raise AssertionError("abort always raises")


# What stands around every handler: errors become statuses, and nothing of an exception's text leaves the daemon.
#
# Handlers that stream are coroutines that write, not generators that yield: a generator cannot be ended while gRPC waits
# for a caller who does not read. Cancellation passes through: swallowing it leaks memory in gRPC.
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


# The calls of one listener that are in progress, so that a stop can wait for their ends, and end others with a reason.
#
# gRPC ends a call that outlasts a stop with UNAVAILABLE and no details: its caller could not tell that it may try again.
# And it closes a connection as soon as its last call has ended: a client that writes at that moment, if only to
# acknowledge something, loses the end of the call, which it has not read. So a listener is closed when its calls have
# been over for a while.
RETRY_SECONDS = 1.0
REFUSAL_SECONDS = 1.0
"""For callers to be told that their call is refused; who does not read by then is cut off."""
READING_SECONDS = 0.2
"""For callers to read how the last calls ended."""


class RunningCalls:
    """See the module. One event loop owns them."""

    def __init__(self) -> None:
        """Begin with none."""
        self._running: set[asyncio.Task[Any]] = set()
        self._refused: dict[asyncio.Task[Any], Draining] = {}

    def begin(self) -> asyncio.Task[Any]:
        """Count the call of this task until its end has been sent, which is when the task ends."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def raise_refusal(self, task: asyncio.Task[Any]) -> None:
        """Raise Draining where a call was cancelled by `drain`, and not by its caller."""
        if error := self._refused.pop(task, None):
            task.uncancel()
            raise error from None

    async def drain(self, seconds: float) -> None:
        """Return when callers have read the ends of their calls. What runs for longer than that is refused."""
        if not self._running:
            return
        await self._until_none(seconds)
        if self._running:
            self._refuse(seconds)
            await self._until_none(REFUSAL_SECONDS)
        await asyncio.sleep(READING_SECONDS)

    async def _until_none(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while self._running and loop.time() < until:
            await asyncio.wait(self._running, timeout=until - loop.time())

    def _refuse(self, seconds: float) -> None:
        said = f"the daemon is stopping, and the call has not ended in the {seconds:g} s that running calls are given"
        for task in self._running:
            self._refused[task] = Draining(said, retry_seconds=RETRY_SECONDS)
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._refused.pop(task, None)
