"""Counts rows of one split that are near duplicates of rows of another, by the rule of `dataset`. Pure.

Texts that share a band of their sketches are compared, at most `BAND_ROWS_MAX` per band and row, so the work is linear
in the number of rows. 100,000 rows take about a minute of one core, and 128 bytes each for their sketches.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from convert.collect import minhash
from convert.data.data_row import normalised
from convert.pipeline.recipe import Split
from edge_agent.errors import InvalidRequest

BAND_ROWS_MAX = 8
"""Rows of the other split that a row is compared with for one of its 16 bands."""
NONE = -1
SHARE_MAX = 0.05
"""A larger share needs a decision in the recipe."""
PAIRS: tuple[tuple[Split, Split], ...] = (("train", "calibration"), ("train", "test"), ("calibration", "test"))
_EXAMPLES_MAX = 3
_SHOWN_LETTERS = 80
_ROWS_AT_ONCE = 2_000

Places = npt.NDArray[np.int64]


class SplitSketches:
    """The texts of one split, ready to be compared."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Sketch them."""
        self._texts = [normalised(text) for text in texts]
        self._sketches = np.array([minhash.sketch(text) for text in self._texts]).reshape(-1, minhash.BANDS)
        self._orders = np.argsort(self._sketches, axis=0, kind="stable")
        self._sorted = np.take_along_axis(self._sketches, self._orders, axis=0)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def copies_of(self, others: SplitSketches) -> Places:
        """Return for each text the index of one of `others` that it is a near duplicate of, or NONE; [texts]."""
        found = np.full(len(self), NONE, np.int64)
        for mine, theirs in self._alike(others):
            found[mine] = theirs
        return found

    def pairs_within(self) -> list[tuple[int, int]]:
        """Return pairs of indexes of near duplicates among these texts, each text before its later copies."""
        pairs = [np.stack([theirs, mine], 1)[theirs < mine] for mine, theirs in self._alike(self)]
        return [(int(first), int(later)) for some in pairs for first, later in some]

    def _alike(self, others: SplitSketches) -> Iterator[tuple[Places, Places]]:
        """Yield the indexes of near duplicates on both sides, some at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            mine, theirs = self._pairs(others, start, min(start + _ROWS_AT_ONCE, len(self)))
            texts = [(self._short(i), others._short(j)) for i, j in zip(mine, theirs, strict=True)]
            alike = minhash.alike(self._sketches[mine], others._sketches[theirs], texts)
            yield mine[alike], theirs[alike]

    def _pairs(self, others: SplitSketches, start: int, stop: int) -> tuple[Places, Places]:
        """Return the pairs to compare: indexes of both sides."""
        pairs = [
            np.empty(0, np.int64),
            *(band for each in range(minhash.BANDS) for band in self._of_band(others, each, start, stop)),
        ]
        different = np.unique(np.concatenate(pairs))
        return different // max(1, len(others)), different % max(1, len(others))

    def _of_band(self, others: SplitSketches, band: int, start: int, stop: int) -> Iterator[Places]:
        wanted, there = self._sketches[start:stop, band], others._sorted[:, band]
        first, last = np.searchsorted(there, wanted, "left"), np.searchsorted(there, wanted, "right")
        for nth in range(BAND_ROWS_MAX):
            here = np.flatnonzero(first + nth < last)
            yield (here + start) * len(others) + others._orders[first[here] + nth, band]

    def _short(self, place: int) -> str | None:
        text = self._texts[place]
        return text if len(text) <= minhash.SHORT_LETTERS_MAX else None


@dataclass(frozen=True)
class NearDuplicates:
    """The number of rows of one split that are near duplicates of rows of another."""

    of: Split
    split: Split
    rows: int
    all_rows: int
    """Of `split`."""
    examples: tuple[tuple[str, str], ...]
    """A near duplicate, and its original."""

    @property
    def share(self) -> float:
        """Of the rows of `split`."""
        return self.rows / self.all_rows if self.all_rows else 0.0

    def sentence(self) -> str:
        """Return this in words, with an example."""
        said = f"{self.rows} of {self.all_rows} {self.split} rows ({100 * self.share:.1f}%) are near duplicates of"
        shown = "; ".join(f"{copy[:_SHOWN_LETTERS]!r} of {of[:_SHOWN_LETTERS]!r}" for copy, of in self.examples)
        return f"{said} {self.of} rows, such as {shown}" if shown else f"{said} {self.of} rows"


def between(splits: Mapping[Split, Sequence[str]]) -> tuple[NearDuplicates, ...]:
    """Count the near duplicates between the given splits."""
    named = {split for pair in PAIRS for split in pair}
    sketched = {split: SplitSketches(texts) for split, texts in splits.items() if split in named}
    return tuple(_counted(of, split, splits, sketched) for of, split in PAIRS if of in sketched and split in sketched)


def any_of(texts: Sequence[str], splits: Mapping[Split, Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Return for each text whether it is a near duplicate of a row of one of the splits."""
    sketched, found = SplitSketches(texts), np.zeros(len(texts), np.bool_)
    for others in splits.values():
        found |= sketched.copies_of(SplitSketches(others)) != NONE
    return found


def _counted(
    of: Split, split: Split, splits: Mapping[Split, Sequence[str]], sketched: Mapping[Split, SplitSketches]
) -> NearDuplicates:
    found = sketched[split].copies_of(sketched[of])
    rows = np.flatnonzero(found != NONE).tolist()
    examples = tuple((splits[split][row], splits[of][found[row]]) for row in rows[:_EXAMPLES_MAX])
    return NearDuplicates(of, split, len(rows), len(found), examples)


def require_few(found: Sequence[NearDuplicates], share_max: float) -> None:
    """Raise InvalidRequest if the share of near duplicates is above what the recipe accepts."""
    worst = max(found, key=lambda each: each.share, default=None)
    if worst is not None and worst.share > share_max:
        needed = np.ceil(100 * worst.share) / 100
        raise InvalidRequest(
            f"{worst.sentence()}; the recipe accepts {100 * share_max:g}%",
            remedy="Figures of such rows are too good. Put all variants of a text into one split, as 'edge-convert"
            f" dataset' does; or accept them with 'near_copies_max: {needed:g}' under 'data' in the recipe. The"
            " report gives the figures with and without them.",
        )


def accepted(found: Sequence[NearDuplicates]) -> Iterator[str]:
    """Yield a warning for each share that needed a decision in the recipe."""
    yield from (f"{each.sentence()}; the recipe accepts that." for each in found if each.share > SHARE_MAX)
