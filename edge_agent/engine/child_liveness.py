"""One child from its start to its end, and whether it is alive and computes; kills one that hangs.

`ChildRun` has what it is told to load, the memory that it may take, and how it ended.
`ChildWatch` kills a child that has sent nothing for `heartbeat_seconds_max` while work was pending. A child that loads
weights sends nothing for long, so there it is enough that the process uses the processor (`CpuActivity`).
`LivenessProbe` in engine.py tells whether an engine computes. Times are those of the event loop, in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.child_process import ChildProcess, loop_time
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.protocol import ChildMessage, FromChild, LoadRequest, Ping
from edge_agent.engine.restart_policy import ALARM_SECONDS, load_exit_error, time_limit_seconds

log = structlog.get_logger("edge_agent.engine")


class ChildWatch:
    """Watches one child of an engine."""

    def __init__(self, name: str, config: EngineConfig) -> None:
        """Watch a child of the engine of that name."""
        self._name = name
        self._silence_seconds_max, self._load_seconds_max = config.heartbeat_seconds_max, config.load_seconds_max
        self._activity = CpuActivity(config.heartbeat_seconds_max)
        self.killed = False
        """Whether it was killed for its silence."""

    async def check_silence(
        self, child: ChildProcess, exit_future: asyncio.Future[int], awaited: list[asyncio.Future[Any]], *, loads: bool
    ) -> None:
        """Wait for one of `awaited` for a part of the silence limit; then kill a child that was silent for too long.

        A child that `loads` may compute for `load_seconds_max` more. `exit_future` is done when the child is gone.

        If this process did not run for a while, as in a paused container, the silence counts from now on: messages of
        the child are not read yet, and an idle child was not pinged.
        """
        limit, started_at = self._silence_seconds_max, loop_time()
        done, _ = await asyncio.wait(awaited, timeout=limit / 4, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        now = loop_time()
        if now - started_at > limit / 2:
            child.begin_work()
        silence, computes = now - child.last_heartbeat, self._activity.is_recent(child.processor_seconds, now)
        if silence > limit + (self._load_seconds_max if loads and computes else 0.0):
            log.error("engine_silent", engine=self._name, pid=child.pid, seconds=round(silence, 1))
            self.killed = True
            child.kill()
            await asyncio.wait([exit_future])
        elif silence > limit / 2:
            child.send(Ping())


class CpuActivity:
    """Whether a silent process uses the processor. Pure."""

    def __init__(self, patience_seconds: float) -> None:
        """Start without a sample."""
        self._patience = patience_seconds
        self._cpu_seconds, self._changed_at = -1.0, 0.0

    def is_recent(self, cpu_seconds: float, now: float) -> bool:
        """Take a sample of its total processor time; tell whether that has grown within the patience."""
        if cpu_seconds != self._cpu_seconds:
            self._cpu_seconds, self._changed_at = cpu_seconds, now
        return now - self._changed_at <= self._patience


STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for


class ChildRun:
    """One child; a supervisor has one after the other."""

    def __init__(self, name: str, config: EngineConfig, load_request: LoadRequest) -> None:
        """Prepare a child of the engine of that name; `start` begins."""
        loop = asyncio.get_running_loop()
        self.load_request = load_request
        self.loaded: asyncio.Future[None] = loop.create_future()
        self.exit: asyncio.Future[int] = loop.create_future()
        """Its return code, when it is gone."""
        self.cap = MemoryCap()
        self.process: ChildProcess | None = None
        self.watch = ChildWatch(name, config)
        self._config = config

    async def start(self, receive: Callable[[FromChild], None]) -> None:
        """Start the process. Raises OSError."""
        self.process = await ChildProcess.spawn(receive, self._on_exit)
        self.cap = MemoryCap.of(self.process.pid)

    @property
    def last_heartbeat(self) -> float:
        """When it sent its last message, on the event loop's clock."""
        return self.process.last_heartbeat if self.process else 0.0

    def send(self, message: ChildMessage) -> None:
        """Send it a message, if it is there."""
        if self.process is not None:
            self.process.send(message)

    async def await_step(self, future: asyncio.Future[None], step: str) -> None:
        """Wait for the end of a step. Raises the step's error, or ModelLoadFailed if the child dies or is too slow."""
        assert self.process is not None, "the process must run"
        deadline = loop_time() + time_limit_seconds(self._config, step) + ALARM_SECONDS
        while not (future.done() or self.exit.done() or loop_time() > deadline):
            await self.watch.check_silence(self.process, self.exit, [future, self.exit], loads=True)
        if not future.done():
            exit_code = self.exit.result() if self.exit.done() else None
            raise load_exit_error(step, exit_code, self._config, self.cap)
        future.result()

    async def check_silence(self, *, loads: bool) -> None:
        """Wait for its end for a while; kill it if it has been silent for too long."""
        assert self.process is not None, "the process must run"
        await self.watch.check_silence(self.process, self.exit, [self.exit], loads=loads)

    async def end(self) -> None:
        """Let it end, and wait until it is gone."""
        try:
            if self.process is not None:
                await self.process.stop(STOP_SECONDS_MAX)
        finally:
            self.cap.remove()

    def _on_exit(self, code: int) -> None:
        self.cap.peak_bytes = self.process.peak_bytes if self.process else 0
        if not self.exit.done():
            self.exit.set_result(code)
