"""What happens repeatedly is logged once and then counted: the table of the audit log and of refused calls. Pure."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

WINDOW_SECONDS = 60.0
KINDS_MAX = 256

Kind = TypeVar("Kind", bound=Hashable)


@dataclass
class _RepeatedEvent:
    until: float
    count: int = 0


class LogDeduplicator(Generic[Kind]):
    """Logs the first event of a kind at once, and counts the rest of a window. Pure; `now` is in monotonic seconds.

    The table is bounded: beyond KINDS_MAX all further kinds count as one.
    """

    def __init__(self, others: Kind) -> None:
        """Count kinds beyond the bound as `others`."""
        self._others = others
        self._seen: dict[Kind, _RepeatedEvent] = {}

    def first(self, kind: Kind, now: float) -> bool:
        """Record an event; tell whether to log it now. Otherwise it is counted until `due`."""
        if kind not in self._seen and len(self._seen) >= KINDS_MAX:
            kind = self._others
        seen = self._seen.get(kind)
        if seen is None:
            self._seen[kind] = _RepeatedEvent(now + WINDOW_SECONDS)
            return True
        seen.count += 1
        return False

    def due(self, now: float) -> list[tuple[Kind, int]]:
        """Remove the kinds whose window has ended; return those that were repeated in it, with the count."""
        over = [kind for kind, seen in self._seen.items() if seen.until <= now]
        counted = [(kind, self._seen.pop(kind).count) for kind in over]
        return [(kind, count) for kind, count in counted if count]

    def rest(self) -> list[tuple[Kind, int]]:
        """Remove all kinds; return the counts."""
        return self.due(float("inf"))
