"""The health service: the status of the daemon and its tasks for each role, and the limit of watches."""

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


class CallAborted(grpc.aio.AbortError):
    """The error with which gRPC ends a handler that aborts."""


class Context:
    """One call as gRPC presents it to a handler; clearing `reads` makes a caller that does not read."""

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
        raise CallAborted


class Watch:
    """A watch in progress."""

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
            raise CallAborted from None

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError, CallAborted):
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
        except CallAborted:
            return context.ended


@pytest.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener(HealthState())
    yield listener
    for watch in listener.watches:
        await watch.leave()


async def until(watch: Watch, *statuses: int) -> None:
    """Wait until the caller received exactly these statuses."""
    await eventually(lambda: list(statuses) == watch.context.written)


async def test_check_returns_the_present_status(listener: Listener) -> None:
    """Check returns the status of the daemon and of a ready or unready task, and NOT_FOUND for an unknown or removed
    one."""
    listener.health.update({"intent": True, "fields": False, "gone": True}, serving=True)
    listener.health.update({"intent": True, "fields": False}, serving=True)
    said = [await listener.check(name) for name in ("", "intent", "fields", "gone")]
    assert [SERVING, SERVING, NOT_SERVING, "NOT_FOUND"] == said
    listener.health.update({"intent": True}, serving=False)
    assert [NOT_SERVING, NOT_SERVING] == [await listener.check(name) for name in ("", "intent")]


async def test_watch_receives_every_change_of_its_task(listener: Listener) -> None:
    """A watch receives each change of its own task once, and none of others."""
    watch = listener.watch("intent")
    await until(watch, SERVICE_UNKNOWN)
    for ready in (True, True, False):
        listener.health.update({"intent": ready, "fields": not ready}, serving=True)
        await eventually(lambda ready=ready: watch.context.written[-1] == (SERVING if ready else NOT_SERVING))
    listener.health.update({}, serving=True)
    await until(watch, SERVICE_UNKNOWN, SERVING, NOT_SERVING, SERVICE_UNKNOWN)


async def test_watch_that_ends_does_not_affect_others(listener: Listener) -> None:
    """A watch of the same task receives changes after another has ended."""
    first, second = listener.watch("intent"), listener.watch("intent")
    await until(first, SERVICE_UNKNOWN)
    await until(second, SERVICE_UNKNOWN)
    await first.leave()
    listener.health.update({"intent": True}, serving=True)
    await until(second, SERVICE_UNKNOWN, SERVING)


async def test_watch_that_does_not_read_blocks_no_other(listener: Listener) -> None:
    """Other watches receive changes at once; the one that did not read receives the newest status when it reads."""
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
    """When the daemon stops, each watch receives NOT_SERVING and ends with UNAVAILABLE; later changes have no
    effect."""
    watch = listener.watch("intent")
    listener.health.update({"intent": True}, serving=True)
    await eventually(lambda: SERVING in watch.context.written)
    listener.health.end()
    await eventually(watch.task.done)
    assert NOT_SERVING == watch.context.written[-1]
    assert "UNAVAILABLE: the daemon is stopping" == watch.context.ended
    listener.health.update({"intent": True}, serving=True)
    assert NOT_SERVING == await listener.check("intent")


async def test_client_with_all_watches_leaves_places_to_others(listener: Listener) -> None:
    """One client can have WATCHES_MAX watches; another client of the same listener still gets one."""
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


async def test_watch_releases_its_place_however_it_ends(listener: Listener) -> None:
    """A watch releases its place whether its caller leaves while it waits or while it is written to."""
    for reads in (True, False):
        for _ in range(2 * WATCHES_MAX):
            watch = listener.watch(reads=reads)
            await until(watch, SERVING)
            await watch.leave()


async def test_each_listener_has_watches_of_its_own(listener: Listener) -> None:
    """Watches on one socket take no place from another socket, whatever names their callers use."""
    for number in range(4 * WATCHES_MAX):
        name = f"inference.sock #{number % 16}"
        listener.watch(caller=Caller(name, frozenset(), socket_account=name))
    admin = Listener(listener.health)
    listener.watches.append(watch := admin.watch(caller=Caller("admin.sock", frozenset())))
    await until(watch, SERVING)
