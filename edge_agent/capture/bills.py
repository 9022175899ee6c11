"""What questions to the large model cost, on its way to the book of the field: counted at once, written each second.

The uplink keeps what was spent, and the caps; this only says which task it was for. A kill may lose a second of it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from edge_agent.monitoring.book import Paid

WAITING_MAX = 10_000
"""While nothing can be written; then the oldest are forgotten."""


class Bills:
    """One thread adds, another one writes."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: deque[Paid] = deque(maxlen=WAITING_MAX)

    def add(self, task: str, micros: int) -> None:
        """Note the price of a question, in millionths of the currency that the prices are in."""
        self._waiting.append(Paid(task, time.time(), micros))

    def settle(self, write: Callable[[list[Paid]], None]) -> None:
        """Hand over what waits; what could not be written goes on waiting."""
        paid = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not paid:
            return
        try:
            write(paid)
        except BaseException:
            self._waiting.extendleft(reversed(paid))
            raise
