"""Whether a child is alive and computes; kills one that hangs.

`ChildWatch` kills a child that has sent nothing for `heartbeat_seconds_max` while work was pending. A child that loads
weights sends nothing for long, so there it is enough that the process uses the processor (`CpuActivity`).
`LivenessProbe` in engine.py tells whether an engine computes. Times are those of the event loop, in seconds.
"""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.child_process import ChildProcess, loop_time
from edge_agent.engine.protocol import Ping

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

    async def until_done(
        self, child: ChildProcess, ended: asyncio.Future[int], future: asyncio.Future[Any], seconds: float
    ) -> None:
        """Wait until a future is done, the child is gone, or it has loaded for that many seconds."""
        until = loop_time() + seconds
        while not (future.done() or ended.done() or loop_time() > until):
            await self.check_silence(child, ended, [future, ended], loads=True)

    async def check_silence(
        self, child: ChildProcess, ended: asyncio.Future[int], awaited: list[asyncio.Future[Any]], *, loads: bool
    ) -> None:
        """Wait for one of `awaited` for a part of the silence limit; then kill a child that was silent for too long.

        A child that `loads` may compute for `load_seconds_max` more. `ended` is done when the child is gone.
        """
        limit = self._silence_seconds_max
        done, _ = await asyncio.wait(awaited, timeout=limit / 4, return_when=asyncio.FIRST_COMPLETED)
        if done:
            return
        now = loop_time()
        silence, computes = now - child.last_heartbeat, self._activity.is_recent(child.processor_seconds, now)
        if silence > limit + (self._load_seconds_max if loads and computes else 0.0):
            log.error("engine_silent", engine=self._name, pid=child.pid, seconds=round(silence, 1))
            self.killed = True
            child.kill()
            await asyncio.wait([ended])
        elif silence > limit / 2:
            child.send(Ping())


class CpuActivity:
    """Whether a silent process uses the processor. Pure."""

    def __init__(self, patience_seconds: float) -> None:
        """Start without a sample."""
        self._patience = patience_seconds
        self._spent, self._spent_at = -1.0, 0.0

    def is_recent(self, spent_seconds: float, now: float) -> bool:
        """Take a sample of its total processor time; tell whether that has grown within the patience."""
        if spent_seconds != self._spent:
            self._spent, self._spent_at = spent_seconds, now
        return now - self._spent_at <= self._patience
