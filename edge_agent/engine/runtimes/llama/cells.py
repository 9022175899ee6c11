"""Which cells of llama.cpp's key-value buffer are taken: a mirror of what llama.cpp decides for itself. Pure.

Its rule (llama_kv_cache::find_slot of the pinned release): the tokens of a batch take the lowest free cells, in the
order of the batch; tokens that are restored take the lowest free cells as well. So nothing needs to be asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Cells:
    """The free cells of one buffer."""

    def __init__(self, count: int) -> None:
        """Start with all of them free."""
        self.count = count
        self._free = list(range(count))  # sorted, and so a heap

    @property
    def lowest(self) -> int:
        """The cell that the next token gets; the number of cells when there is none."""
        return self._free[0] if self._free else self.count

    @property
    def taken(self) -> int:
        """How many are taken: just the lowest ones, without a hole, where `lowest` is as many."""
        return self.count - len(self._free)

    @property
    def free(self) -> int:
        """How many are free."""
        return len(self._free)

    def take(self, tokens: int) -> list[int]:
        """Take the cells that llama.cpp takes for so many tokens; they ascend. There must be as many."""
        free, pop = self._free, heapq.heappop
        return [pop(free) for _ in range(tokens)]

    def give(self, cells: Iterable[int]) -> None:
        """Take note that cells are empty again."""
        free, push = self._free, heapq.heappush
        for cell in cells:
            push(free, cell)
