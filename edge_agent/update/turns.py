"""Changes of one task come one after the other, and one whose caller has left can be given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from edge_agent.errors import RequestCancelled

Result = TypeVar("Result")


class TaskLocks:
    """A lock for each task that is being changed: what takes long in one keeps no other waiting."""

    def __init__(self) -> None:
        """Begin with none."""
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    @contextlib.asynccontextmanager
    async def held(self, task: str) -> AsyncGenerator[None, None]:
        """Hold the lock of a task inside the block."""
        lock = self._locks.setdefault(task, asyncio.Lock())
        self._users[task] = self._users.get(task, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[task] -= 1
            if not self._users[task]:
                del self._users[task], self._locks[task]


async def unless(left: asyncio.Event | None, work: Coroutine[Any, Any, Result]) -> Result:
    """Return what work returns, which is cancelled when `left` is set. Raises RequestCancelled then."""
    if left is None:
        return await work
    working, leaving = asyncio.create_task(work), asyncio.create_task(left.wait())
    try:
        await asyncio.wait([working, leaving], return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        leaving.cancel()
        await asyncio.wait([working, leaving])
    if working.cancelled():
        raise RequestCancelled("the caller left before the bundle was ready")
    return working.result()
