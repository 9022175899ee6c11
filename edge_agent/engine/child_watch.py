"""Whether the child of an engine gives signs of life: one that is silent for too long is killed."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.process import ChildProcess
from edge_agent.engine.pulse import Effort

log = structlog.get_logger("edge_agent.engine")


def now() -> float:
    """Return the time of the running event loop, in seconds: what deadlines are given in."""
    return asyncio.get_running_loop().time()


class ChildWatch:
    """Of one engine, over the lives of its children. Times are those of the event loop, in seconds."""

    def __init__(self, name: str, config: EngineConfig) -> None:
        """Watch the children of the engine of that name."""
        self._name = name
        self._silence_seconds_max, self._load_seconds_max = config.heartbeat_seconds_max, config.load_seconds_max
        self._effort = Effort(config.heartbeat_seconds_max)
        self.heard_at = 0.0
        """When the child sent something last."""
        self.killed = False
        """Whether the present child was killed for its silence."""

    def begin(self, now: float) -> None:
        """Watch another child from now on."""
        self.heard_at, self.killed = now, False

    async def until_done(
        self, child: ChildProcess | None, ended: asyncio.Future[int], future: asyncio.Future[Any], seconds: float
    ) -> None:
        """Wait until a future is done, the child is gone or has loaded for so long."""
        until = now() + seconds
        while not (future.done() or ended.done() or now() > until):
            await self.look(child, ended, [future, ended], loads=True)

    async def look(
        self, child: ChildProcess | None, ended: asyncio.Future[int], awaited: list[asyncio.Future[Any]], *, loads: bool
    ) -> None:
        """Wait for one of `awaited`, not for long, and kill a child that is silent for too long; one that `loads` may
        compute for `load_seconds_max` more. `ended` is done when the child is gone.
        """
        limit = self._silence_seconds_max
        done, _ = await asyncio.wait(awaited, timeout=limit / 4, return_when=asyncio.FIRST_COMPLETED)
        if done or child is None:
            return
        silence, computes = now() - self.heard_at, self._effort.goes_on(child.processor_seconds, now())
        if silence > limit + (self._load_seconds_max if loads and computes else 0.0):
            log.error("engine_silent", engine=self._name, pid=child.pid, seconds=round(silence, 1))
            self.killed = True
            child.kill()
            await asyncio.wait([ended])
        elif silence > limit / 2:
            child.send(protocol.Ping())
