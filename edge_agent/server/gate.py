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
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import grpc
import grpc.aio

from edge_agent.errors import AccessError, EdgeAgentError, InvalidRequest, RateExceeded
from edge_agent.server import callers, guard, roles
from edge_agent.server.audit import Audit
from edge_agent.server.callers import Caller, Identify
from edge_agent.server.changes import Change, Changes
from edge_agent.server.rates import Rates
from edge_agent.server.roles import Treatment, treatment
from edge_agent.server.running_calls import RunningCalls


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
        act, parse = guard.bare(handler.unary_stream or handler.unary_unary), handler.request_deserializer

        async def behaviour(data: bytes, context: Any) -> Any:
            await self._enter(method, "change", context)
            request = await _parsed(parse, data, context)
            change = Change(callers.current.get(), method.rpartition("/")[2], request)
            try:
                if handler.unary_stream:
                    return await self._changes.run_told(change, functools.partial(act, request), context.write)
                return await self._changes.run(change, functools.partial(act, request, context))
            except EdgeAgentError as error:
                await guard.abort(error, context)
            except Exception as error:  # noqa: BLE001 - the edge of the daemon
                await guard.bug(method, error, context)

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
            await guard.abort(error, context)

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
            await guard.abort(error, context)
        except EdgeAgentError as error:
            await guard.abort(error, context)
        except Exception as error:  # noqa: BLE001 - the edge of the daemon, and a certificate may hold anything
            await guard.bug(method, error, context)

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
    await guard.abort(error, context)
    raise AssertionError("abort always raises")
