"""The calls of one listener that are in progress, so that a stop can wait for their ends, and end others with a reason.

gRPC ends a call that outlasts a stop with UNAVAILABLE and no details: its caller could not tell that it may try again.
And it closes a connection as soon as its last call has ended: a client that writes at that moment, if only to
acknowledge something, loses the end of the call, which it has not read. So a listener is closed when its calls have
been over for a while.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edge_agent.errors import Draining

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
