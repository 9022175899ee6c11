"""Which waiting job gets its place in the cache next. Pure: whether there is room for one is asked of the caller.

A job comes in when the cache can promise it all the cells that it may come to need, so that no job runs out of room
half-way. Jobs come in by their turn: the time when they came, later by what their priority costs. One that needs more
than is free lets others pass, so that cells do not lie idle, but no more than PASSED_MAX of them: then nobody comes in
until there is room for it, and there will be, since those inside end. So at most (k + 1) * PASSED_MAX jobs pass one
that has k before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

PASSED_MAX = 8


class Admission:
    """Remembers who waits for room, and how many have passed it."""

    def __init__(self) -> None:
        """Start with nobody."""
        self._first = ""
        self._passed = 0

    def admit(self, keys: Iterable[str], enter: Callable[[str], bool]) -> None:
        """Let jobs in, in this order, while there is room; `enter` tells whether there was for one."""
        waits = False
        for key in keys:
            if waits and self._passed >= PASSED_MAX:
                return
            entered = enter(key)
            if entered and waits:
                self._passed += 1
            elif not entered and not waits:
                waits = True
                self._wait(key)

    def _wait(self, key: str) -> None:
        if key != self._first:
            self._first, self._passed = key, 0
