"""Which cells of llama.cpp's key-value buffer are taken: a mirror of what llama.cpp decides for itself. Pure.

Its rule (llama_kv_cache::find_slot of the pinned release): the tokens of a batch take the lowest free cells, in the
order of the batch; tokens that are restored take the lowest free cells as well. So nothing needs to be asked.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable


class Cells:
    """The free cells of one buffer: all from `_top` on, and holes below it."""

    def __init__(self, count: int) -> None:
        """Start with all of them free."""
        self.count = count
        self._top = 0
        self._holes: list[int] = []  # a heap, and small: cells that are taken for every token are looked for in it

    @property
    def lowest(self) -> int:
        """The cell that the next token gets; the number of cells when there is none."""
        return self._holes[0] if self._holes else self._top

    @property
    def taken(self) -> int:
        """How many are taken: just the lowest ones, without a hole, where `lowest` is as many."""
        return self._top - len(self._holes)

    @property
    def free(self) -> int:
        """How many are free."""
        return self.count - self.taken

    def take(self, tokens: int) -> list[int]:
        """Take the cells that llama.cpp takes for so many tokens; they ascend. There must be as many."""
        holes, pop = self._holes, heapq.heappop
        cells = [pop(holes) for _ in range(min(tokens, len(holes)))]
        above = tokens - len(cells)
        cells += range(self._top, self._top + above)
        self._top += above
        return cells

    def give(self, cells: Iterable[int]) -> None:
        """Take note that cells are empty again."""
        holes, push = self._holes, heapq.heappush
        for cell in cells:
            push(holes, cell)
        if len(holes) == self._top:
            holes.clear()
            self._top = 0
