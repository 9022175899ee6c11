"""What operators change: each change runs in a task of its own, which has its line in the audit log when it ends.

A change that has begun comes to its end whoever waits for it, so its line says what came of the change, and not what
became of the caller. The line is on the disk before the caller has its answer. Only a bundle that is not ready yet when
its caller leaves is given up, as one that does not load (`caller_left`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any, NamedTuple

from edge_agent.errors import EdgeAgentError, RequestCancelled
from edge_agent.server import guard
from edge_agent.server.admission import Admission, Place
from edge_agent.server.audit import Audit
from edge_agent.server.callers import Caller
from edge_agent.server.detached_task import DetachedTask

caller_left: ContextVar[asyncio.Event | None] = ContextVar("caller_left", default=None)
"""In the task of a change: set when its caller has left. A change that can be given up as a whole looks at it."""

CHANGES_MAX = 64
"""In progress at a time, those included whose caller has left; each client has its share, as of calls."""


class Change(NamedTuple):
    """What the audit log says of one."""

    caller: Caller
    call: str
    request: Any


class Changes:
    """Those of one daemon. One event loop owns them; `stop` waits for those that run."""

    def __init__(self, audit: Audit) -> None:
        """Write down there what came of each."""
        self._audit = audit
        self._places = Admission(CHANGES_MAX, what="changes")
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: Change, act: Callable[[], Awaitable[Any]]) -> Any:
        """Let a change begin, and return what came of it.

        Raises:
            QueueFull, ShareExceeded: too many are in progress; nothing has begun.
            Exception: what the act raised.
        """
        return await self._begin(change, act, lambda: None).result()

    async def run_told(
        self, change: Change, act: Callable[[Progress], Awaitable[Any]], write: Callable[[Any], Awaitable[Any]]
    ) -> None:
        """Likewise, and write what the act tells of its progress, as long as the caller is there."""
        progress = Progress()
        running = self._begin(change, lambda: act(progress), progress.end)
        with running.attended():
            async with contextlib.aclosing(progress.messages()) as messages:
                async for message in messages:
                    await write(message)
            await running.result()

    async def stop(self) -> None:
        """Return when what runs has come to its end; to be called when no call can come any more."""
        while self._running:
            await asyncio.wait(self._running)

    def _begin(self, change: Change, act: Callable[[], Awaitable[Any]], ended: Callable[[], None]) -> DetachedTask[Any]:
        place = self._places.call(change.caller.account)
        left = asyncio.Event()
        made = self._made(change, act, place, left)
        running = DetachedTask(change.call, made, lambda: self._over(running, ended), left.set)
        self._running.add(running.task)
        return running

    def _over(self, running: DetachedTask[Any], ended: Callable[[], None]) -> None:
        self._running.discard(running.task)
        ended()

    async def _made(self, change: Change, act: Callable[[], Awaitable[Any]], place: Place, left: asyncio.Event) -> Any:
        caller_left.set(left)
        with place:
            outcome = RequestCancelled.reason
            try:
                answer = await act()
                outcome = "OK"
                return answer
            except Exception as error:
                outcome = error.reason if isinstance(error, EdgeAgentError) else guard.BUG
                raise
            finally:
                await self._audit.changed(change.caller, change.call, outcome, change.request)


class Progress:
    """Stands for the context of a call whose act writes: the newest message is for the caller, if it reads.

    So a caller that does not read, or has left, holds nothing up.
    """

    def __init__(self) -> None:
        """Begin with no message."""
        self._newest: Any = None
        self._told = asyncio.Event()
        self._ended = False

    async def write(self, message: Any) -> None:
        """Take a message; one that was not read yet is given up."""
        self._newest = message
        self._told.set()

    def end(self) -> None:
        """Let `messages` end when the newest was read."""
        self._ended = True
        self._told.set()

    async def messages(self) -> AsyncGenerator[Any, None]:
        """Yield the newest message whenever there is a new one."""
        while self._newest is not None or not self._ended:
            await self._told.wait()
            self._told.clear()
            message, self._newest = self._newest, None
            if message is not None:
                yield message
