"""The interceptor: runs before, around and after the handler of every call.

Before: the caller is identified and authorized (`roles.py`), and its rate is checked. Only then are its bytes parsed:
an unauthorized caller reaches no parser. Around: an error of ours becomes a status, and no text of another exception
leaves the daemon; a refusal is counted and logged (`refusal_log.py`). After: the listener knows when the end of the
call was sent, so that a stop can wait for it.

A handler that streams is a coroutine that writes, not a generator that yields: a generator cannot be ended while gRPC
waits for a caller that does not read. Cancellation passes through: swallowing it leaks memory in gRPC.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
import structlog

from edge_agent.config import Role
from edge_agent.errors import AccessError, Draining, EdgeAgentError, InvalidRequest, RateExceeded
from edge_agent.refusal_log import RefusalLog
from edge_agent.server.audit_log import AuditLog
from edge_agent.server.client_call_limits import RateLimiter
from edge_agent.server.detached_calls import ChangeRunner, OperatorChange
from edge_agent.server.error_status import to_call_status
from edge_agent.server.roles import (
    METHODS,
    CallerIdentifier,
    CallTreatment,
    call_treatment,
    current_caller,
    role_missing,
)

RETRY_SECONDS = 1.0
REFUSAL_SECONDS = 1.0
"""For callers to receive the refusal of their call; after that their connections are closed."""
READING_SECONDS = 0.2
"""For callers to read how the last calls ended."""

GRPC = "grpc"
"""The name of this component in the log of refusals and the metrics."""

# grpc.aio's context is generic in messages whose types no handler here needs.
CallContext = grpc.aio.ServicerContext[Any, Any]
Behaviour = Callable[[Any, Any], Awaitable[Any]]

log = structlog.get_logger("edge_agent.server")


class ServerInterceptor:
    """Takes the place of a server while services are added to it."""

    def __init__(
        self,
        server: grpc.aio.Server,
        identify: CallerIdentifier,
        rates: RateLimiter,
        audit: AuditLog,
        changes: ChangeRunner,
        refusals: RefusalLog,
    ) -> None:
        """Add services to `server`, whose callers `identify` tells apart."""
        self.server, self._identify, self._rates = server, identify, rates
        self._audit, self._changes, self._refusals = audit, changes, refusals
        self.running = RunningCalls()
        """All calls but operators' changes, which a stop does not cut off."""

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Do nothing: generated code adds the same handlers by the method below."""

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """Add the handlers of a service."""
        intercepted = {name: self._intercept(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, intercepted),))

    def _intercept(self, method: str, handler: Any) -> Any:
        treatment = call_treatment(method)
        admit = functools.partial(self._admit, method.rpartition("/")[2], METHODS.get(method), treatment)
        if handler.stream_stream:
            behaviour = self._call_behaviour(method, admit, functools.partial(_converse, handler))
            return grpc.stream_stream_rpc_method_handler(behaviour, None, handler.response_serializer)
        handle, parse = handler.unary_stream or handler.unary_unary, handler.request_deserializer
        if treatment == "change":
            behaviour = self._change_behaviour(method, admit, handler)
        else:
            behaviour = self._call_behaviour(
                method, admit, lambda data, context: handle(parse_request(parse, data), context)
            )
        make = grpc.unary_stream_rpc_method_handler if handler.unary_stream else grpc.unary_unary_rpc_method_handler
        return make(behaviour, None, handler.response_serializer)

    def _call_behaviour(self, method: str, admit: Callable[[Any], None], answer: Behaviour) -> Behaviour:
        """Return a behaviour that lets `answer` parse and handle an admitted call."""

        async def answer_call(received: Any, context: Any) -> Any:
            task = self.running.begin()
            try:
                admit(context)
                return await answer(received, context)
            except asyncio.CancelledError:
                if refusal := self.running.take_refusal(task):
                    await self._end_call(method, refusal, context)
                raise
            except Exception as error:  # noqa: BLE001 - the edge of the daemon
                await self._end_call(method, error, context)

        return answer_call

    def _change_behaviour(self, method: str, admit: Callable[[Any], None], handler: Any) -> Behaviour:
        """Return a behaviour that makes a change to its end whether or not its caller waits."""
        make_change, parse = handler.unary_stream or handler.unary_unary, handler.request_deserializer

        async def answer_change(data: bytes, context: Any) -> Any:
            try:
                admit(context)
                request = parse_request(parse, data)
                change = OperatorChange(current_caller.get(), method.rpartition("/")[2], request)
                act = functools.partial(make_change, request)
                if handler.unary_stream:
                    return await self._changes.run_with_progress(change, act, context.write)
                return await self._changes.run(change, functools.partial(act, context))
            except Exception as error:  # noqa: BLE001 - the edge of the daemon
                await self._end_call(method, error, context)

        return answer_change

    async def _end_call(self, method: str, error: Exception, context: Any) -> None:
        """End a call with the status of an error, and record it if it is a refusal; always raises.

        Call it where the error is handled.
        """
        if isinstance(error, grpc.aio.AbortError):
            raise error
        call = method.rpartition("/")[2]
        if isinstance(error, EdgeAgentError):
            self._refusals.record(GRPC, current_caller.get().name, error.reason, call=call)
            # `Any`: the stubs do not have abort_with_status, which grpc.aio has.
            await context.abort_with_status(to_call_status(error))
        log.exception("handler_failed", method=call, error=type(error).__name__)
        await context.abort(grpc.StatusCode.INTERNAL, "an unexpected error in edge-agent; its log has the details")

    def _admit(self, call: str, allowed: frozenset[Role] | None, treatment: CallTreatment, context: Any) -> None:
        """Identify the caller of a call and check its role and rate. Raises AccessError, RateExceeded."""
        try:
            caller = self._identify(context)
            current_caller.set(caller)
            if not allowed or not allowed & caller.roles:
                raise role_missing(call, allowed or frozenset(), caller.name, caller.roles)
        except AccessError as error:
            self._audit.note(current_caller.get(), call, error.reason)
            raise
        if treatment == "look":
            self._audit.note(caller, call, "OK")
        elif treatment == "work" and self._rates.limited:
            seconds = self._rates.take(caller.account, time.monotonic())
            if seconds:
                client = caller.name
                message = f"{client} calls more often than this site allows one client; wait {seconds:.2g} s"
                raise RateExceeded(message, retry_seconds=seconds, client=client)


class RunningCalls:
    """The calls of one listener in progress: a stop waits for their ends, and refuses the rest. One event loop owns it.

    gRPC ends a call that outlasts a stop with UNAVAILABLE and no details, so its caller could not tell that it can try
    again. And gRPC closes a connection as soon as its last call has ended: a client that writes at that moment, if only
    an acknowledgement, loses the end of the call. So a listener is closed a while after the last call.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._running: set[asyncio.Task[Any]] = set()
        self._refusals: dict[asyncio.Task[Any], Draining] = {}

    def begin(self) -> asyncio.Task[Any]:
        """Count the call of this task until its end has been sent, which is when the task ends."""
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        task.add_done_callback(self._remove)
        return task

    def take_refusal(self, task: asyncio.Task[Any]) -> Draining | None:
        """Return the error of a call that `drain` cancelled; None = its caller did."""
        refusal = self._refusals.pop(task, None)
        if refusal is not None:
            task.uncancel()
        return refusal

    async def drain(self, seconds: float) -> None:
        """Return when callers have read the ends of their calls; refuse what runs for longer than `seconds`."""
        if not self._running:
            return
        await self._wait_until_none(seconds)
        message = f"the daemon is stopping, and the call has not ended within the {seconds:g} s for running calls"
        for task in self._running:
            self._refusals[task] = Draining(message, retry_seconds=RETRY_SECONDS)
            task.cancel()
        await self._wait_until_none(REFUSAL_SECONDS)
        await asyncio.sleep(READING_SECONDS)

    async def _wait_until_none(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while self._running and loop.time() < deadline:
            await asyncio.wait(self._running, timeout=deadline - loop.time())

    def _remove(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        self._refusals.pop(task, None)


async def _converse(handler: Any, requests: AsyncIterator[bytes], context: Any) -> None:
    """Let a handler answer a stream of requests."""

    async def read() -> AsyncGenerator[Any, None]:
        async for data in requests:
            yield parse_request(handler.request_deserializer, data)

    async with contextlib.aclosing(read()) as parsed:
        responses = handler.stream_stream(parsed, context)
        if not inspect.isasyncgen(responses):
            await responses  # it writes, and so can be ended while its caller does not read
            return
        async with contextlib.aclosing(responses):
            async for response in responses:
                await context.write(response)


def parse_request(parse: Callable[[bytes], Any], data: bytes) -> Any:
    """Parse a message. Raises InvalidRequest: gRPC itself would answer with the text of the exception."""
    try:
        return parse(data)
    except Exception:  # noqa: BLE001 - DecodeError, or whatever protobuf makes of hostile bytes
        raise InvalidRequest(
            "the request is not a valid message of this method",
            remedy="Generate the client from the daemon's version of proto/; text must be UTF-8.",
        ) from None
