"""Turns texts into vectors without a model: hashed pieces of words and pairs of words, weighted and reduced. Pure.

Pieces of two to four letters inside words, words, and pairs of neighbouring words are counted by a hash; rare ones
weigh more (tf-idf), and a truncated singular value decomposition (Halko, Martinsson & Tropp 2011, by random projection)
leaves SIZE numbers. It ignores meaning, so an encoder's vectors are better if there is one.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse

SIZE = 192
TEXT_CHARACTERS_MAX = 2000
_BUCKETS = 2**17
_PASSES, _SPARE = 2, 16
_WORD = re.compile(r"\w+")


def vectors(texts: Sequence[str], seed: int = 1) -> npt.NDArray[np.float64]:
    """Return [texts, SIZE or fewer], of length one; a text without a letter or digit is all zeros."""
    counts = _weighed(_counted(texts))
    size = min(SIZE, *counts.shape)
    return _unit(counts @ _directions(counts, size, seed))


def _counted(texts: Sequence[str]) -> sparse.csr_array:
    starts, buckets, counts = [0], list[int](), list[float]()
    for text in texts:
        found = Counter(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % _BUCKETS for piece in _pieces(text))
        buckets += found.keys()
        counts += found.values()
        starts.append(len(buckets))
    made = sparse.csr_array((np.log1p(counts), buckets, starts), shape=(len(texts), _BUCKETS))
    return made[:, np.unique(made.indices)]


def _pieces(text: str) -> Iterator[str]:
    words = _WORD.findall(text[:TEXT_CHARACTERS_MAX].casefold())
    yield from words
    yield from map(" ".join, itertools.pairwise(words))
    for word in words:
        marked = f"<{word}>"
        yield from (marked[at : at + size] for size in (2, 3, 4) for at in range(len(marked) - size + 1))


def _weighed(counts: sparse.csr_array) -> sparse.csr_array:
    seen = np.bincount(counts.indices, minlength=counts.shape[1])
    weighed = counts * np.log((1 + counts.shape[0]) / (1 + seen))
    lengths = np.sqrt(np.asarray((weighed * weighed).sum(axis=1)).ravel())
    return sparse.csr_array(sparse.diags_array(1 / np.maximum(lengths, 1e-12)) @ weighed)


def _directions(counts: sparse.csr_array, size: int, seed: int) -> npt.NDArray[np.float64]:
    """Return [buckets, size]: about the right singular vectors of the largest singular values."""
    width = min(size + _SPARE, *counts.shape)
    basis = np.random.default_rng(seed).standard_normal((counts.shape[1], width))
    for _ in range(_PASSES):
        basis = np.linalg.qr(counts.T @ np.linalg.qr(counts @ basis)[0])[0]
    values, turned = np.linalg.eigh((counts @ basis).T @ (counts @ basis))
    return np.asarray(basis @ turned[:, np.argsort(-values)[:size]])


def _unit(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12))
