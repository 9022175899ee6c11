"""Work that others may cut short without cancelling the task that does it.

A task that owns something, such as a child process, must not be cancelled from outside: a second cancellation, by
another caller or by one that loses patience, would come in the middle of its cleaning up. Here callers only say that
what is being awaited is not wanted any more; the owner alone ends it, and continues.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


class InterruptibleStep:
    """Of one task, which awaits one step after the other."""

    def __init__(self) -> None:
        """Start without one."""
        self.requested = False
        """Since `clear`."""
        self._scope: asyncio.Timeout | None = None

    def clear(self) -> None:
        """Begin anew."""
        self.requested = False

    def request(self) -> None:
        """End the step that is being awaited, if there is one; however often it is asked for, it ends once."""
        self.requested = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
            self._scope = None

    async def within(self, step: Coroutine[Any, Any, float | None]) -> float | None:
        """Return what a step returns, or 0 when it was interrupted."""
        try:
            async with asyncio.timeout(None) as self._scope:
                return await step
        except TimeoutError:
            if not self.requested:
                raise
            return 0.0
        finally:
            self._scope = None

    async def pause(self, seconds: float) -> None:
        """Wait so long, or until it is interrupted."""
        await self.within(_sleep(seconds))


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)
