"""One child from its start to its end: what it is told to load, the memory that it may take, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from edge_agent.config import EngineConfig
from edge_agent.engine.child_failures import ALARM_SECONDS, load_exit_error, time_limit_seconds
from edge_agent.engine.child_liveness import ChildWatch
from edge_agent.engine.child_process import ChildProcess
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.protocol import ChildMessage, FromChild, LoadRequest

STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for


class ChildRun:
    """What is known of one child; a supervisor has one after the other."""

    def __init__(self, name: str, config: EngineConfig, requested: LoadRequest) -> None:
        """Prepare a child of the engine of that name; `start` begins."""
        loop = asyncio.get_running_loop()
        self.requested = requested
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
        """Wait for it to do as told. Raises its answer, or ModelLoadFailed when it dies or takes too long."""
        assert self.process is not None, "only a child that runs is told anything"
        limit = time_limit_seconds(self._config, step) + ALARM_SECONDS
        await self.watch.until_done(self.process, self.exit, future, limit)
        if not future.done():
            code = self.exit.result() if self.exit.done() else None
            raise load_exit_error(step, code, self._config, self.cap)
        future.result()

    async def check_silence(self, *, loads: bool) -> None:
        """Wait for its end for a while; kill it if it has been silent for too long."""
        assert self.process is not None, "only a child that runs is silent"
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
