"""Which token comes next, and the text that a caller sees of it. Pure.

A token is drawn by inverting the cumulative distribution (Devroye 1986, chapter III): its probability is the softmax of
the logits over the temperature, the tokens stand in the order of their numbers, and the first one whose cumulative
probability exceeds a uniform random number is drawn. Nothing is sorted, and only one block of BLOCK probabilities is
added up token by token. llama.cpp's own sampler, which makes 12 bytes of each token first, takes ten times as long with
a vocabulary of 262,144.
"""

from __future__ import annotations

import codecs
import math
import random
from collections.abc import Sequence

import numpy as np

from edge_agent.engine.runtimes.llama.label_scoring import Logits, scratch

BLOCK = 512
"""Tokens whose probabilities are added up at once."""
TEMPERATURE_MIN = 1e-6
"""A lower temperature counts as this one: only tokens with the same logit share the draw then."""


class TokenSampler:
    """Draws the tokens of one generation. The seed determines which, whatever else is computed."""

    def __init__(self, temperature: float, seed: int) -> None:
        """Take a temperature above 0."""
        self._temperature = np.float32(max(temperature, TEMPERATURE_MIN))
        self._uniform = random.Random(seed).random  # noqa: S311 - no secret

    def draw(self, logits: Logits, best: int) -> int:
        """Return a token; -1 if the logits are not numbers. `best` has the highest logit."""
        if not math.isfinite(logits[best]):
            return -1
        shares = scratch(logits.size)
        np.subtract(logits, logits[best], out=shares)
        if self._temperature != 1:
            np.divide(shares, self._temperature, out=shares)
        np.exp(shares, out=shares)
        return token_at(shares, self._uniform())


def token_at(shares: Logits, place: float) -> int:
    """Return the first token up to which more than `place` (0 <= place < 1) of the sum of all shares lies.

    -1 if the shares are not numbers. Shares are at least 0, and at least one is above it.
    """
    whole = shares.size // BLOCK * BLOCK
    # In single precision within a block, pairwise, and in double from block to block.
    sums = [*shares[:whole].reshape(-1, BLOCK).sum(axis=1), shares[whole:].sum()]
    reached = np.cumsum(sums, dtype=np.float64)
    total = float(reached[-1])
    if math.isnan(total):
        return -1
    wanted = place * total
    block = min(int(reached.searchsorted(wanted, "right")), int(reached.searchsorted(total, "left")))
    inside = shares[block * BLOCK : (block + 1) * BLOCK]
    before = float(reached[block - 1]) if block else 0.0
    sums_inside = before + np.cumsum(inside, dtype=np.float64)
    found = int(sums_inside.searchsorted(wanted, "right"))
    # Both sums of a block may differ in their last bits: then it is the last token that has a share.
    last = int(np.flatnonzero(inside)[-1])
    return block * BLOCK + min(found, last)


def likeliest_tokens(logits: Logits, count: int) -> list[int]:
    """Return the tokens with the highest logits, the highest first; of equal ones, those with lower numbers.

    The highest logits of as many blocks are at least as high as the last one wanted is: only what reaches them is
    sorted.
    """
    if not count:
        return []
    blocks = logits.size // BLOCK
    if blocks < count:
        return [int(token) for token in np.argsort(-logits, kind="stable")[:count]]
    highest = logits[: blocks * BLOCK].reshape(blocks, BLOCK).max(axis=1)
    reach = np.flatnonzero(logits >= np.partition(highest, blocks - count)[blocks - count])
    return [int(token) for token in reach[np.argsort(-logits[reach], kind="stable")[:count]]]


# From tokens' bytes to the text that a caller sees: whole characters, and nothing from a stop string on.
def whole_text(data: bytes) -> str:
    """Return the text of bytes that are whole characters; nothing for others."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return ""


class TextStream:
    """Turns the bytes of one generation into text.

    A token may hold part of a character, or part of a stop string. What could still become either is held back.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Take the strings that end the text; none of them is empty."""
        self._stops = tuple(dict.fromkeys(stops))
        self._half = b""
        self._plain = not stops
        """What comes passes at once: nothing is held back."""
        self._held = ""
        self.stopped = False
        """A stop string has come: the text is complete without it."""

    def feed(self, data: bytes, text: str = "") -> str:
        """Return the text that is certain now; nothing once `stopped`. `text`: of the bytes, where it is known."""
        if text and self._plain:
            return text
        if self.stopped:
            return ""
        data = self._half + data if self._half else data
        text, used = codecs.utf_8_decode(data, "replace", False)  # what an incremental decoder of codecs calls itself
        self._half = data[used:]
        self._plain = not (self._stops or self._half)
        if not self._stops:
            return text
        self._held += text
        found = [at for at in map(self._held.find, self._stops) if at >= 0]
        self.stopped = bool(found)
        certain = min(found) if found else len(self._held) - self._uncertain()
        text, self._held = self._held[:certain], self._held[certain:]
        return text

    def finish(self) -> str:
        """Return what was held back for a stop string that did not come. Half a character is dropped."""
        text, self._held = "" if self.stopped else self._held, ""
        return text

    def _uncertain(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0
