"""Cancels a call of a daemon in this process at one exact await, as gRPC does when the caller leaves.

points = CancellationPoints(asyncio.get_running_loop())
points.aim(CancellationPoint("own", "waiting", 3), leave)
await call()

A task factory of the event loop is handed every task that begins. The first task that gRPC makes for a call after `aim`
is the caller's; the tasks that it begins, and those that they begin, belong to it. Each time that one of them suspends,
that is a point. At the chosen one the caller's task is cancelled: exactly what gRPC does when it hears that the caller
is gone (`rpc_task.cancel()`), at a moment of our choice. Nothing of ours is replaced, and no code is there for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal
from weakref import WeakSet

HANDLES_A_CALL = "_handle_exceptions"
"""The coroutine that grpc.aio runs a call in; its task is what it cancels. Without it no point is ever found."""

Whose = Literal["own", "begun"]
"""Awaits of the caller's own task, or of tasks that it has begun and may wait for."""
How = Literal["waiting", "waking", "wire"]
"""Cancelled while it waits; when what it waits for has come, before it goes on; or by the client, over the socket."""


@dataclass(frozen=True)
class CancellationPoint:
    """One await at which a caller leaves: the number counts from 1."""

    whose: Whose
    how: How
    number: int

    def __str__(self) -> str:
        return f"{self.whose} await {self.number}, {self.how}"


class CancellationPoints:
    """See the module. One event loop owns it; one call at a time."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Hear of every task of a loop from now on."""
        self._loop = loop
        self._at: CancellationPoint | None = None
        self._leave: Callable[[], None] = lambda: None
        self._caller: asyncio.Task[Any] | None = None
        self._calls_tasks: WeakSet[asyncio.Task[Any]] = WeakSet()
        self._passed: dict[Whose, int] = {"own": 0, "begun": 0}
        self.reached = asyncio.Event()
        self.arrived = 0
        """How many calls have reached the daemon."""
        self._arrival = asyncio.Event()
        factory: Any = self._make  # Task, too, takes what is not a coroutine, and has a name and a context
        loop.set_task_factory(factory)

    def close(self) -> None:
        """Leave the loop as it was."""
        self._loop.set_task_factory(None)

    def aim(self, at: CancellationPoint | None, leave: Callable[[], None]) -> None:
        """Cancel the next call at that point; None = do not cancel, only count its points.

        `leave` cancels the call at the client, for points on the wire.
        """
        self._at, self._leave, self._caller = at, leave, None
        self._calls_tasks = WeakSet()
        self._passed = {"own": 0, "begun": 0}
        self.reached = asyncio.Event()

    async def arrival(self) -> None:
        """Wait for the next call that reaches the daemon."""
        self._arrival.clear()
        await self._arrival.wait()

    @property
    def passed(self) -> dict[Whose, int]:
        """The number of awaits in which the call has suspended so far."""
        return dict(self._passed)

    @property
    def handled(self) -> bool:
        """Whether the call's task has come to its end."""
        return self._caller is not None and self._caller.done()

    def _make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, Any], **more: Any
    ) -> asyncio.Task[Any]:
        parent, is_call = asyncio.current_task(loop), _name(coroutine) == HANDLES_A_CALL
        if is_call:
            self.arrived += 1
            self._arrival.set()
        is_caller = is_call and self._caller is None
        if not is_caller and (parent is None or parent not in self._calls_tasks):
            return asyncio.Task(coroutine, loop=loop, **more)
        whose: Whose = "own" if is_caller else "begun"
        task = asyncio.Task(_Steps(coroutine, partial(self._suspended, whose)), loop=loop, **more)
        self._calls_tasks.add(task)
        if is_caller:
            self._caller = task
        return task

    def _suspended(self, whose: Whose, waits_for: asyncio.Future[Any] | None) -> None:
        """Count an await, and cancel the caller if it is the one. Called just before the task suspends."""
        caller = self._caller
        if caller is None or caller.done():
            return
        self._passed[whose] += 1
        if self._at is None or self.reached.is_set():
            return
        if (self._at.whose, self._at.number) != (whose, self._passed[whose]):
            return
        self.reached.set()
        if self._at.how == "wire":
            self._loop.call_soon(self._leave)
        elif self._at.how == "waking" and asyncio.isfuture(waits_for):
            # Before the task's own callback, which is added when it has suspended.
            waits_for.add_done_callback(lambda _: caller.cancel())
        else:
            self._loop.call_soon(caller.cancel)


class _Steps(Coroutine[Any, Any, Any]):
    """A coroutine that yields what it awaits: a future, or None for one iteration of the event loop."""

    def __init__(
        self, coroutine: Coroutine[Any, Any, Any], suspended: Callable[[asyncio.Future[Any] | None], None]
    ) -> None:
        self._coroutine = coroutine
        self._suspended = suspended
        self.__qualname__ = _name(coroutine)

    def send(self, value: Any) -> Any:
        waits_for = self._coroutine.send(value)
        self._suspended(waits_for)
        return waits_for

    def throw(self, *error: Any) -> Any:
        waits_for = self._coroutine.throw(*error)
        self._suspended(waits_for)
        return waits_for

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._coroutine.__await__())


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return getattr(coroutine, "__qualname__", type(coroutine).__name__)  # what ends a generator has none
