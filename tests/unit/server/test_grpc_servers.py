"""Health: the status of the daemon and its tasks, by role, and the limit of watchers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2 as pb

from edge_agent.errors import EdgeAgentError
from edge_agent.server import roles
from edge_agent.server.error_status import code_of
from edge_agent.server.grpc_servers import WATCHES_MAX, HealthServicer, HealthState
from edge_agent.server.roles import Caller
from tests.support.eventually import eventually

SERVING, NOT_SERVING = pb.HealthCheckResponse.SERVING, pb.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = pb.HealthCheckResponse.SERVICE_UNKNOWN
SOCKET = Caller("inference.sock", frozenset())


class Ended(grpc.aio.AbortError):
    """As gRPC ends a handler that aborts."""


class Context:
    """One call, as gRPC shows it to a handler; `reads` is cleared where the caller does not read."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.ended = ""
        self.reads = asyncio.Event()
        self.reads.set()

    async def write(self, message: pb.HealthCheckResponse) -> None:
        self.written.append(message.status)
        await self.reads.wait()

    async def abort(self, code: grpc.StatusCode, details: str = "") -> None:
        self.ended = code.name
        raise Ended


class Watch:
    """A watch that has begun."""

    def __init__(self, servicer: HealthServicer, service: str, caller: Caller, *, reads: bool = True) -> None:
        self.context = Context()
        if not reads:
            self.context.reads.clear()
        roles.current_caller.set(caller)
        self.task = asyncio.create_task(self._run(servicer, service))

    async def _run(self, servicer: HealthServicer, service: str) -> None:
        try:
            await servicer.Watch(pb.HealthCheckRequest(service=service), self.context)
        except EdgeAgentError as error:
            self.context.ended = f"{code_of(error).name}: {error.message}"
            raise Ended from None

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Ended):
            await self.task


class Listener:
    """A listener and the watches of its callers."""

    def __init__(self, health: HealthState) -> None:
        self.health, self.servicer = health, HealthServicer(health)
        self.watches: list[Watch] = []

    def watch(self, service: str = "", caller: Caller = SOCKET, *, reads: bool = True) -> Watch:
        self.watches.append(Watch(self.servicer, service, caller, reads=reads))
        return self.watches[-1]

    async def check(self, service: str) -> int | str:
        context = Context()
        try:
            return (await self.servicer.Check(pb.HealthCheckRequest(service=service), context)).status
        except Ended:
            return context.ended


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener(HealthState())
    yield listener
    for watch in listener.watches:
        await watch.leave()


async def until(watch: Watch, *statuses: int) -> None:
    """Wait until the caller was told that, and no more."""
    await eventually(lambda: list(statuses) == watch.context.written)


async def test_check_says_what_is_there_now(listener: Listener) -> None:
    """Of the daemon, of a task that is ready or not, and of one that is not there, or not any more."""
    listener.health.update({"intent": True, "fields": False, "gone": True}, serving=True)
    listener.health.update({"intent": True, "fields": False}, serving=True)
    said = [await listener.check(name) for name in ("", "intent", "fields", "gone")]
    assert [SERVING, SERVING, NOT_SERVING, "NOT_FOUND"] == said
    listener.health.update({"intent": True}, serving=False)
    assert [NOT_SERVING, NOT_SERVING] == [await listener.check(name) for name in ("", "intent")]


async def test_a_watch_is_told_of_every_change_of_its_own(listener: Listener) -> None:
    """And of nothing else: not of other tasks, and not twice."""
    watch = listener.watch("intent")
    await until(watch, SERVICE_UNKNOWN)
    for ready in (True, True, False):
        listener.health.update({"intent": ready, "fields": not ready}, serving=True)
        await eventually(lambda ready=ready: watch.context.written[-1] == (SERVING if ready else NOT_SERVING))
    listener.health.update({}, serving=True)
    await until(watch, SERVICE_UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN)


async def test_a_watch_that_leaves_takes_nothing_from_the_others(listener: Listener) -> None:
    """The others of the same task are told of what changes after it has gone."""
    first, second = listener.watch("intent"), listener.watch("intent")
    await until(first, SERVICE_UNKNOWN)
    await until(second, SERVICE_UNKNOWN)
    await first.leave()
    listener.health.update({"intent": True}, serving=True)
    await until(second, SERVICE_UNKNOWN, SERVING)


async def test_a_watch_that_does_not_read_holds_nobody_up(listener: Listener) -> None:
    """Changes are noted and told to the others; it is told the newest when it reads."""
    silent, other = listener.watch("intent", reads=False), listener.watch("intent")
    await until(silent, SERVICE_UNKNOWN)
    await until(other, SERVICE_UNKNOWN)
    listener.health.update({"intent": True}, serving=True)
    await until(other, SERVICE_UNKNOWN, SERVING)
    listener.health.update({"intent": False}, serving=True)
    await until(other, SERVICE_UNKNOWN, SERVING, NOT_SERVING)
    silent.context.reads.set()
    await until(silent, SERVICE_UNKNOWN, NOT_SERVING)


async def test_watches_end_with_the_daemon(listener: Listener) -> None:
    """Each is told that nothing is served any more, and then ended with a reason; what is told later counts no more."""
    watch = listener.watch("intent")
    listener.health.update({"intent": True}, serving=True)
    await eventually(lambda: SERVING in watch.context.written)
    listener.health.end()
    await eventually(watch.task.done)
    assert NOT_SERVING == watch.context.written[-1]
    assert "UNAVAILABLE: the daemon is stopping" == watch.context.ended
    listener.health.update({"intent": True}, serving=True)
    assert NOT_SERVING == await listener.check("intent")


async def test_who_holds_all_watches_leaves_some_to_others(listener: Listener) -> None:
    """One client has as many as there are and no more; another one of the same listener still finds some."""
    noisy = [listener.watch() for _ in range(2 * WATCHES_MAX)]
    await eventually(lambda: WATCHES_MAX == sum(watch.task.done() for watch in noisy))
    open_ones = [watch for watch in noisy if not watch.task.done()]
    assert {f"RESOURCE_EXHAUSTED: {WATCHES_MAX} health watches are in progress; the limit is {WATCHES_MAX}"} == {
        watch.context.ended for watch in noisy if watch.task.done()
    }
    quiet = listener.watch(caller=Caller("inference.sock till-3", frozenset(), socket_account="inference.sock #1"))
    await until(quiet, SERVING)
    await open_ones[0].leave()
    listener.health.update({}, serving=False)
    await until(quiet, SERVING, NOT_SERVING)


async def test_a_place_is_given_back_whatever_ends_a_watch(listener: Listener) -> None:
    """Its caller leaves while it waits, or while it is told."""
    for reads in (True, False):
        for _ in range(2 * WATCHES_MAX):
            watch = listener.watch(reads=reads)
            await until(watch, SERVING)
            await watch.leave()


async def test_each_listener_has_watches_of_its_own(listener: Listener) -> None:
    """What is taken on one socket is taken from no other, whatever names its callers give themselves."""
    for number in range(4 * WATCHES_MAX):
        name = f"inference.sock #{number % 16}"
        listener.watch(caller=Caller(name, frozenset(), socket_account=name))
    admin = Listener(listener.health)
    listener.watches.append(watch := admin.watch(caller=Caller("admin.sock", frozenset())))
    await until(watch, SERVING)
