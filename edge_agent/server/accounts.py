"""What the callers of one socket are counted as: nobody checks the names that they give themselves."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

ACCOUNT_SECONDS = 60.0
"""A name that has not called for so long may lose its account to another."""


class Accounts:
    """The accounts of one socket, numbered from 1: a name has one, as long as there are any.

    A name keeps its account while it calls. Another name takes the account as it is, with what is counted on it, so
    that a new name is worth nothing.
    """

    def __init__(self, accounts_max: int, now: Callable[[], float] = time.monotonic) -> None:
        """Have that many."""
        self._accounts_max = accounts_max
        self._now = now
        self._held: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def of(self, name: str) -> int:
        """Return the number of a name's account; 0 = none is left, and it is counted with those without a name."""
        now = self._now()
        held = self._held.get(name)
        number = held[0] if held else self._free(now)
        if number:
            self._held[name] = (number, now)
            self._held.move_to_end(name)
        return number

    def _free(self, now: float) -> int:
        if len(self._held) < self._accounts_max:
            return len(self._held) + 1
        if not self._held:
            return 0
        name, (number, at) = next(iter(self._held.items()))
        if now - at < ACCOUNT_SECONDS:
            return 0
        del self._held[name]
        return number
