"""How sure a model is of a record that it wrote, as a whole and of each field. Pure.

A token's probability is that among the tokens that were allowed there; one that was forced is certain. A record's
confidence is the product over all its tokens. A field's is the product over the tokens that hold a character of its
value or the character behind it: whether a number goes on is decided there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ITEM_SEPARATOR, KEY_SEPARATOR = ", ", ": "


def choose(logits: NDArray[np.float32], allowed: NDArray[np.intp], temperature: float) -> tuple[int, float]:
    """Return the likeliest of the allowed tokens, and its log-probability among them at the temperature.

    That is not a number where the logits are not.
    """
    weights = logits.take(allowed)
    best = int(weights.argmax())  # the first NaN, if there is one
    weights -= weights[best]
    weights /= np.float32(temperature)
    np.exp(weights, out=weights)
    return int(allowed[best]), -math.log(float(weights.sum(dtype=np.float64)))


class Transcript:
    """The tokens of a record, in order."""

    def __init__(self) -> None:
        """Start with none."""
        self._pieces: list[bytes] = []
        self._log_probs: list[float] = []

    def add(self, piece: bytes, log_prob: float = 0.0) -> None:
        """Add a token's bytes and its log-probability; a forced one has none."""
        self._pieces.append(piece)
        self._log_probs.append(log_prob)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self._pieces)

    @property
    def text(self) -> str:
        """What is written."""
        return b"".join(self._pieces).decode()

    def confidence(self) -> float:
        """Return the probability of the whole record, 0 to 1."""
        return math.exp(sum(self._log_probs))

    def fields(self) -> dict[str, float]:
        """Return the probability of each field of a complete record, 0 to 1, in the order of the record."""
        tokens, start = [], 0
        for piece, log_prob in zip(self._pieces, self._log_probs, strict=True):
            tokens.append((start, start + len(piece), log_prob))
            start += len(piece)
        return {
            name: math.exp(sum(log_prob for first, end, log_prob in tokens if first <= after and end > begin))
            for name, begin, after in spans(self.text)
        }


def spans(record: str) -> Iterator[tuple[str, int, int]]:
    """Yield each field of a record as `Grammar` has it written: name, and [start, end) of its value in UTF-8 bytes."""
    decode = json.JSONDecoder().raw_decode
    at = 1
    while record[at] != "}":
        name, at = decode(record, at)
        at += len(KEY_SEPARATOR)
        _, end = decode(record, at)
        yield name, len(record[:at].encode()), len(record[:end].encode())
        at = end + (len(ITEM_SEPARATOR) if record[end] == "," else 0)
