"""Decides which texts are near duplicates, by sketches that estimate their share of common five-letter pieces. Pure.

MinHash (Broder 1997), 64 hashes of which 16 bits each are kept (Li and König 2010), in 16 bands of 4 (Leskovec et al.,
Mining of Massive Datasets, chapter 3). Two texts share a band with probability 1 - (1 - s^4)^16 where s is the share of
pieces that they have in common: 0.999 at s = 0.85, 0.64 at s = 0.5.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

BANDS = 16
HASHES = 64
ALIKE_SHARE_MIN = 0.85
"""Two texts with at least this share of common five-letter pieces are near duplicates."""
ALIKE_HASHES_MIN = 55
"""Of 64 hashes: an estimate of that share with a standard error of 0.05."""
SHORT_LETTERS_MAX = 400
"""Up to this length the pieces are counted exactly, because the estimate is least accurate there."""
_PIECE_LETTERS = 5
_COUNTED_HASHES_MIN = 32  # a share of 0.85 never gives an estimate this low (6 standard deviations)
# Fixed, because sketches are stored and compared later.
_RANDOM = np.random.default_rng(20261125)
_FACTORS = _RANDOM.integers(1, 2**63, size=(HASHES, 1), dtype=np.uint64) | np.uint64(1)
_SUMMANDS = _RANDOM.integers(0, 2**63, size=(HASHES, 1), dtype=np.uint64)
_LETTER_FACTOR = np.uint64(0x9E3779B97F4A7C15)

Sketch = npt.NDArray[np.uint64]


def text_key(normalised: str) -> int:
    """Return a 64-bit hash of the whole text."""
    return int.from_bytes(hashlib.blake2b(normalised.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def sketch(normalised: str) -> Sketch:
    """Return 16 bands of 64 bits; an empty text has a sketch too."""
    pieces = _mix_bits(_pieces(normalised))
    lowest = (pieces * _FACTORS + _SUMMANDS).min(axis=1)
    top_bits: npt.NDArray[np.uint16] = (_mix_bits(lowest) >> np.uint64(48)).astype(np.uint16)
    return top_bits.view(np.uint64)


def common_hashes(left: Sketch, right: Sketch) -> npt.NDArray[np.int64]:
    """Return for each pair of sketches, row by row, how many of their 64 hashes are equal."""
    same = left.reshape(-1, BANDS).view(np.uint16) == right.reshape(-1, BANDS).view(np.uint16)
    count: npt.NDArray[np.int64] = same.sum(axis=1, dtype=np.int64)
    return count


def alike(left: Sketch, right: Sketch, texts: Sequence[tuple[str | None, str | None]]) -> npt.NDArray[np.bool_]:
    """Return for each pair of texts whether they are near duplicates, by the one rule for that.

    Args:
        left: sketches, [pairs, 16].
        right: likewise.
        texts: the two normalised texts of each pair, or None for a text of over SHORT_LETTERS_MAX letters.
    """
    common = common_hashes(left, right)
    similar: npt.NDArray[np.bool_] = common >= ALIKE_HASHES_MIN
    for index in np.flatnonzero(~similar & (common >= _COUNTED_HASHES_MIN)).tolist():
        first, second = texts[index]
        similar[index] = first is not None and second is not None and common_share(first, second) >= ALIKE_SHARE_MIN
    return similar


def common_share(left: str, right: str) -> float:
    """Return the Jaccard index of two normalised texts: common pieces divided by all different pieces."""
    first, second = set(_pieces(left).tolist()), set(_pieces(right).tolist())
    return len(first & second) / len(first | second)


def _pieces(text: str) -> npt.NDArray[np.uint64]:
    """Return a number for each run of five letters; a shorter text is one piece."""
    letters = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    length = min(_PIECE_LETTERS, len(letters))
    piece_count = max(1, len(letters) - length + 1)
    pieces = np.zeros(piece_count, np.uint64)
    for offset in range(length):
        pieces = pieces * _LETTER_FACTOR + letters[offset : offset + piece_count]
    return pieces


def _mix_bits(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread numbers over all 64 bits (the finish of SplitMix64)."""
    mixed = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
