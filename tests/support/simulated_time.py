"""An event loop whose time passes only when nothing else is left to do, and then at once.

simulated(look_for_a_minute())
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """A selector that advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        assert ready or timeout is not None, "nothing would ever happen again"
        if not ready and timeout:
            self.seconds += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _Selector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.seconds

    def skip(self, seconds: float) -> None:
        self._clock.seconds += seconds


def simulated(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in such a loop, which begins at 0."""
    with asyncio.Runner(loop_factory=_Loop) as runner:
        return runner.run(work)


async def advance(seconds: float) -> None:
    """Let simulated time pass. Raises AssertionError under another loop, where it would wait."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop), "time is not simulated here"
    passed = loop.create_future()
    loop.call_later(seconds, passed.set_result, None)
    await passed


def stand_still(seconds: float) -> None:
    """Let simulated time pass while nothing of this process runs, as in a paused container."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, _Loop), "time is not simulated here"
    loop.skip(seconds)
