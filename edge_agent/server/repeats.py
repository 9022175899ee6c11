"""What happens over and over, written down once and then counted. Pure.

The first of a kind is told at once; what follows within a window is counted, and told in one line once the window has
ended. The table is bounded: with too many kinds at a time the rest are one kind.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

WINDOW_SECONDS = 60.0
KINDS_MAX = 256

Kind = TypeVar("Kind", bound=Hashable)


@dataclass
class _Seen:
    until: float
    count: int = 0


class Repeats(Generic[Kind]):
    """The table. `now` is in seconds on a clock that does not go back."""

    def __init__(self, others: Kind) -> None:
        """Name the kind that stands for all that find no place of their own."""
        self._others = others
        self._seen: dict[Kind, _Seen] = {}

    def first(self, kind: Kind, now: float) -> bool:
        """Note one; tell whether it is to be told now. Otherwise it is counted until `due`."""
        if kind not in self._seen and len(self._seen) >= KINDS_MAX:
            kind = self._others
        seen = self._seen.get(kind)
        if seen is None:
            self._seen[kind] = _Seen(now + WINDOW_SECONDS)
            return True
        seen.count += 1
        return False

    def due(self, now: float) -> list[tuple[Kind, int]]:
        """Forget the kinds whose window has ended; return those that came again in it, and how often."""
        over = [kind for kind, seen in self._seen.items() if seen.until <= now]
        counted = [(kind, self._seen.pop(kind).count) for kind in over]
        return [(kind, count) for kind, count in counted if count]

    def rest(self) -> list[tuple[Kind, int]]:
        """Forget everything; return what was counted."""
        return self.due(float("inf"))
