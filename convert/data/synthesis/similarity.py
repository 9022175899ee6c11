"""Recognizes texts that resemble an existing text letter by letter. Pure.

Two texts resemble each other if enough of their three-letter pieces are in both (Jaccard index). Case, punctuation and
spaces do not count.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

SHARE_MAX = 0.7


class SimilarityIndex:
    """The existing texts."""

    def __init__(self, texts: Iterable[str], share_max: float = SHARE_MAX) -> None:
        """Start with these texts."""
        self._share_max = share_max
        self._there: list[frozenset[str]] = []
        self._with: dict[str, list[int]] = defaultdict(list)
        for text in texts:
            self._keep(runs(text))

    def add(self, text: str) -> bool:
        """Add a text that resembles no other; return whether it was added."""
        new = runs(text)
        shared: dict[int, int] = defaultdict(int)
        for run in new:
            for index in self._with[run]:
                shared[index] += 1
        for index, both in shared.items():
            if both / (len(new) + len(self._there[index]) - both) >= self._share_max:
                return False
        self._keep(new)
        return True

    def _keep(self, new: frozenset[str]) -> None:
        for run in new:
            self._with[run].append(len(self._there))
        self._there.append(new)


def runs(text: str) -> frozenset[str]:
    """Return the runs of three letters of a text, its words with a space around each."""
    words = re.findall(r"\w+", text.casefold()) or [text]
    plain = f" {' '.join(words)} "
    return frozenset(plain[at : at + 3] for at in range(max(1, len(plain) - 2)))
