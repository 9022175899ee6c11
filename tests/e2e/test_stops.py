"""A daemon that is stopped or restarted during calls: the results of the calls, and the log."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path

import pytest

from edge_agent.client import AsyncClient, CallFailed, Classification, Client, Retry
from edge_agent.daemon import EXIT_FAILED
from edge_agent.server.audit_log import FILE_NAME
from tests.support.bundles import echo_bundle
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually, eventually_sync

TASK, WRITER = "pos-intent", "assistant"
CALLERS = 6
GROUP = ("setsid",)
"""So that the daemon and its engines are a process group of their own, as a terminal's job or a unit is."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Bundles of a classify task and a generate task."""
    folder = tmp_path_factory.mktemp("bundles")
    return echo_bundle(folder / "a", TASK, labels=("refund", "price")), echo_bundle(folder / "b", WRITER, "generate")


@pytest.fixture
def daemon(tmp_path: Path, bundles: tuple[Path, Path]) -> Iterator[RunningDaemon]:
    """A daemon in its own process group."""
    running = RunningDaemon(tmp_path, service={"drain_seconds": 20})
    running.inside = [*GROUP]
    with running:
        running.install(*bundles)
        yield running


def logged(daemon: RunningDaemon) -> list[dict[str, str]]:
    """Return the events of the log."""
    return [json.loads(line) for line in daemon.log.read_text().splitlines()]


def complaints(daemon: RunningDaemon) -> list[dict[str, str]]:
    """Return the warnings and errors of the log."""
    return [line for line in logged(daemon) if line["level"] not in ("debug", "info")]


def starts_of_engines(daemon: RunningDaemon) -> int:
    return sum(line["event"] == "engine_ready" for line in logged(daemon))


def signal_group(daemon: RunningDaemon, signum: int) -> None:
    """Send a signal to the daemon and its engines, as a terminal or a control group does."""
    assert daemon.process is not None
    os.killpg(daemon.process.pid, signum)


def running_jobs(daemon: RunningDaemon) -> int:
    with daemon.admin() as admin:
        return sum(engine.pending for engine in admin.status().engines)


@pytest.mark.parametrize("signum", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
async def test_signal_to_process_group_cuts_no_call(daemon: RunningDaemon, signum: int) -> None:
    """When daemon and engines get SIGINT or SIGTERM together, running calls and streams complete, and no engine
    restarts."""
    started = starts_of_engines(daemon)
    async with AsyncClient(daemon.inference) as client, client.generate(WRITER, "!slow 100 one two three") as stream:
        pieces = aiter(stream)
        text = await anext(pieces)
        asked = [client.classify(TASK, [f"!slow 300 refund {n}"], timeout_seconds=60) for n in range(CALLERS)]
        calls = asyncio.gather(*asked)
        await eventually(lambda: running_jobs(daemon) == CALLERS + 1)
        signal_group(daemon, signum)
        assert ["refund"] * CALLERS == [answer.label for [answer] in await calls if isinstance(answer, Classification)]
        assert "three" in text + "".join([piece async for piece in pieces])
    assert daemon.process is not None
    assert 0 == await asyncio.to_thread(daemon.process.wait, 60)
    assert ([], started) == (complaints(daemon), starts_of_engines(daemon))


@pytest.mark.slow
async def test_engine_killed_during_drain_is_not_restarted(daemon: RunningDaemon) -> None:
    """An engine that dies during a drain is not restarted; its calls are refused with a retry delay."""
    started = starts_of_engines(daemon)
    async with AsyncClient(daemon.inference) as client:
        calls = [asyncio.create_task(client.classify(TASK, [f"!slow 9000 refund {n}"])) for n in range(2)]
        await eventually(lambda: running_jobs(daemon) == 2)
        with daemon.admin() as admin:
            admin.drain()
            [engine] = admin.status().engines
            os.kill(engine.pid, signal.SIGKILL)
        for call in calls:
            with pytest.raises(CallFailed) as caught:
                await call
            assert ("ENGINE_NOT_READY", "UNAVAILABLE") == (caught.value.reason, caught.value.code)
            assert caught.value.retry_after_seconds
    assert started == starts_of_engines(daemon)


async def test_calls_during_stop_are_answered_or_unavailable(daemon: RunningDaemon) -> None:
    """Every call during a stop is answered or ends with UNAVAILABLE."""
    answered, codes, over = 0, set[str](), asyncio.Event()

    async def ask(client: AsyncClient) -> None:
        nonlocal answered
        while not over.is_set():
            try:
                await client.classify(TASK, ["refund"])
                answered += 1
            except CallFailed as failed:
                codes.add(failed.code)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), failed.retry_after_seconds or 0.05)

    async with AsyncClient(daemon.inference) as client, asyncio.TaskGroup() as callers:
        for _ in range(5 * CALLERS):
            callers.create_task(ask(client))
        await eventually(lambda: answered > 10 * CALLERS)
        await asyncio.to_thread(daemon.stop)
        over.set()
    assert {"UNAVAILABLE"} == codes


@pytest.fixture
def hasty(tmp_path: Path, bundles: tuple[Path, Path]) -> Iterator[RunningDaemon]:
    """A daemon with a drain time of one second."""
    with RunningDaemon(tmp_path, service={"drain_seconds": 1}) as running:
        running.install(*bundles)
        yield running


@pytest.mark.slow
async def test_calls_longer_than_drain_time_get_draining(hasty: RunningDaemon) -> None:
    """Calls and streams that run longer than the drain time end with DRAINING and a retry delay, with or without a
    request_id."""
    ends: list[tuple[str, str, bool]] = []

    async def ends_refused(call: Awaitable[object]) -> None:
        with pytest.raises(CallFailed) as caught:
            await call
        ends.append((caught.value.code, caught.value.reason, bool(caught.value.retry_after_seconds)))

    async def read(client: AsyncClient) -> None:
        async with client.generate(WRITER, "!slow 300 " + "word " * 200) as stream:
            async for _ in stream:
                pass

    async with AsyncClient(hasty.inference) as client, asyncio.TaskGroup() as callers:
        for request_id in ("", "once"):
            text = f"!slow 60000 refund {request_id}"
            call = client.classify(TASK, [text], request_id=request_id, timeout_seconds=60)
            callers.create_task(ends_refused(call))
        callers.create_task(ends_refused(read(client)))
        await eventually(lambda: running_jobs(hasty) == 3)
        await asyncio.to_thread(hasty.stop)
    assert [("UNAVAILABLE", "DRAINING", True)] * 3 == ends


@pytest.mark.slow
def test_hanging_audit_log_does_not_block_stop(tmp_path: Path) -> None:
    """When the audit log cannot be written, the daemon stops with the exit code for a restart by systemd, and its log
    has `audit_not_closed`."""
    with RunningDaemon(tmp_path) as daemon:
        (daemon.state_dir / FILE_NAME).unlink(missing_ok=True)
        os.mkfifo(daemon.state_dir / FILE_NAME)  # nothing can be written before somebody reads
        with daemon.admin() as admin:
            admin.status()
        assert daemon.process is not None
        daemon.process.send_signal(signal.SIGTERM)
        assert EXIT_FAILED == daemon.process.wait(60)
        assert ["audit_not_closed"] == [line["event"] for line in complaints(daemon)]
        (daemon.state_dir / FILE_NAME).unlink()
        daemon.start()


class Load:
    """Callers of both clients that call repeatedly with a deadline of 60 s."""

    def __init__(self, daemon: RunningDaemon) -> None:
        self._target, self._stop = daemon.inference, threading.Event()
        self.answered = 0
        self.failed: list[CallFailed] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Call while the block runs, and complete the calls that began in it."""
        callers = [threading.Thread(target=self._sync), threading.Thread(target=lambda: asyncio.run(self._aio()))]
        for caller in callers:
            caller.start()
        try:
            yield
        finally:
            self._stop.set()
            for caller in callers:
                caller.join()

    def _sync(self) -> None:
        with Client(self._target, retry=Retry()) as client:
            while not self._stop.is_set():
                try:
                    client.classify(TASK, ["!slow 10 refund"], timeout_seconds=60)
                    self.answered += 1
                except CallFailed as failed:
                    self.failed.append(failed)

    async def _aio(self) -> None:
        async with AsyncClient(self._target, retry=Retry()) as client, asyncio.TaskGroup() as callers:
            for _ in range(CALLERS):
                callers.create_task(self._ask(client))

    async def _ask(self, client: AsyncClient) -> None:
        while not self._stop.is_set():
            try:
                await client.classify(TASK, ["!slow 10 refund"], timeout_seconds=60)
                self.answered += 1
            except CallFailed as failed:
                self.failed.append(failed)


@pytest.mark.slow
def test_restart_under_load_fails_no_retrying_client(daemon: RunningDaemon) -> None:
    """While the daemon is stopped or killed and restarts, calls of both retrying clients wait within their deadline,
    and none fails."""
    load = Load(daemon)
    with load.running():
        for end in (daemon.stop, daemon.kill):
            before = load.answered
            eventually_sync(lambda before=before: load.answered > before + CALLERS)
            end()
            daemon.start()
        before = load.answered
        eventually_sync(lambda: load.answered > before + CALLERS)
    assert [] == [str(failed) for failed in load.failed]
