"""Texts to measure with: as long as wanted in the model's own tokens, and no two with a beginning in common. Pure.

Whoever keeps a cache of prompts shall find nothing in it but the prompt that a task's texts share: every text begins
with two words drawn at random.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

SEED = 9
TRIES_MAX = 200
TOKENS_PER_WORD_MAX = 2
"""On average: so many words are too few, and need not be counted."""

Count = Callable[[str], int]
"""How many tokens a text is."""


class Texts:
    """Draws texts out of sentences; the same seed draws the same ones."""

    def __init__(self, sentences: Sequence[str], count: Count) -> None:
        """Take the sentences, and who counts tokens."""
        self._random = random.Random(SEED)  # noqa: S311 - texts, no secrets
        self._sentences = [sentence.split() for sentence in sentences]
        self._words = sorted({word.strip(",.?!").lower() for sentence in self._sentences for word in sentence})
        self._count = count
        self._ahead: list[str] = []
        self._openings: set[tuple[str, ...]] = set()

    def short(self, tokens: int, frame: Callable[[str], str] = str) -> str:
        """Return a text that is exactly that long inside its frame.

        Raises:
            LookupError: no text of that length turned up, or the words do not suffice for another beginning.
        """
        least = (tokens - self._count(frame(""))) // TOKENS_PER_WORD_MAX
        for _ in range(TRIES_MAX):
            words = list(self._opening())
            counted = 0
            while counted < tokens:
                if len(words) >= least:
                    counted = self._count(frame(" ".join(words)))
                    if counted == tokens:
                        return " ".join(words)
                words += self._next_words(1 if len(words) + 1 >= least else least - len(words))
        raise LookupError(f"no text of {tokens} tokens in {TRIES_MAX} tries")

    def long(self, tokens: int) -> str:
        """Return a text of about that many tokens: within one in a hundred."""
        words = list(self._opening())
        while (missing := tokens - self._count(" ".join(words))) > 0:
            words += self._next_words(max(1, missing // TOKENS_PER_WORD_MAX))
        return " ".join(words)

    def opening(self) -> str:
        """Return two words that no other text begins with."""
        return " ".join(self._opening())

    def _next_words(self, number: int) -> list[str]:
        """Return the next words of sentences in a row."""
        while len(self._ahead) < number:
            self._ahead += self._random.choice(self._sentences)
        taken, self._ahead = self._ahead[:number], self._ahead[number:]
        return taken

    def _opening(self) -> tuple[str, ...]:
        for _ in range(TRIES_MAX):
            drawn = (self._random.choice(self._words).capitalize(), self._random.choice(self._words))
            if drawn not in self._openings:
                self._openings.add(drawn)
                return drawn
        raise LookupError(f"no two words in {TRIES_MAX} tries that no other text begins with")
