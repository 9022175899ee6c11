"""Divides rows into the splits of a recipe, so that no row of one split is a variant of a row in another.

A split by row gives figures that are too good: of two sentences from one template, or two sizes of one product, one is
learned and the other counts as unseen. So rows come in groups of variants, and each group goes into one split as a
whole. The scripts in examples/ that make data name the groups themselves. Of a file of rows (`divide`), rows of one
family, with the same text or with nearly the same text form a group. Figures rest on calibration and test, so these
take only measurable rows: text and label are not from a model, and in a file with sampling probabilities the row has
one. Other rows train, except variants of a row in calibration or test, which are left out: they must neither be
measured on nor learned.

Splits that somebody else made are checked: rows of one that are near duplicates of rows of another are counted, by the
rule of `dataset`. Texts that share a band of their sketches are compared, at most `BAND_ROWS_MAX` per band and row, so
the work is linear in the number of rows. 100,000 rows take about a minute of one core, and 128 bytes each for their
sketches.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from convert.collect import near_duplicates
from convert.data.data_row import MACHINES, DataRow, labels_of, normalised
from convert.pipeline.recipe import Split
from edge_agent.durable import atomic_files
from edge_agent.errors import InvalidRequest

BAND_ROWS_MAX = 8
"""Rows of the other split that a row is compared with for one of its 16 bands."""
NO_COPY = -1
COPIES_SHARE_MAX = 0.05
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
        sketches = np.array([near_duplicates.sketch(text) for text in self._texts])
        self._sketches = sketches.reshape(-1, near_duplicates.BANDS)
        self._orders = np.argsort(self._sketches, axis=0, kind="stable")
        self._sorted = np.take_along_axis(self._sketches, self._orders, axis=0)

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self._texts)

    def copies_of(self, others: SplitSketches) -> Places:
        """Return for each text the index of one of `others` that it is a near duplicate of, or NO_COPY; [texts]."""
        copies = np.full(len(self), NO_COPY, np.int64)
        for mine, theirs in self._near_duplicate_pairs(others):
            copies[mine] = theirs
        return copies

    def pairs_within(self) -> list[tuple[int, int]]:
        """Return pairs of indexes of near duplicates among these texts, each text before its later copies."""
        pairs = [np.stack([theirs, mine], 1)[theirs < mine] for mine, theirs in self._near_duplicate_pairs(self)]
        return [(int(first), int(later)) for batch in pairs for first, later in batch]

    def _near_duplicate_pairs(self, others: SplitSketches) -> Iterator[tuple[Places, Places]]:
        """Yield the indexes of near duplicates on both sides, some at a time."""
        for start in range(0, len(self), _ROWS_AT_ONCE):
            mine, theirs = self._candidate_pairs(others, start, min(start + _ROWS_AT_ONCE, len(self)))
            texts = [(self._short(i), others._short(j)) for i, j in zip(mine, theirs, strict=True)]
            alike = near_duplicates.alike(self._sketches[mine], others._sketches[theirs], texts)
            yield mine[alike], theirs[alike]

    def _candidate_pairs(self, others: SplitSketches, start: int, stop: int) -> tuple[Places, Places]:
        """Return the pairs to compare: indexes of both sides."""
        pairs = [np.empty(0, np.int64)]
        for band in range(near_duplicates.BANDS):
            pairs += self._band_pairs(others, band, start, stop)
        different = np.unique(np.concatenate(pairs))
        return different // max(1, len(others)), different % max(1, len(others))

    def _band_pairs(self, others: SplitSketches, band: int, start: int, stop: int) -> Iterator[Places]:
        values, other_values = self._sketches[start:stop, band], others._sorted[:, band]
        first, last = np.searchsorted(other_values, values, "left"), np.searchsorted(other_values, values, "right")
        for nth in range(BAND_ROWS_MAX):
            rows = np.flatnonzero(first + nth < last)
            yield (rows + start) * len(others) + others._orders[first[rows] + nth, band]

    def _short(self, index: int) -> str | None:
        text = self._texts[index]
        return text if len(text) <= near_duplicates.SHORT_LETTERS_MAX else None


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
        """Share of the rows of `split`."""
        return self.rows / self.all_rows if self.all_rows else 0.0

    def sentence(self) -> str:
        """Return this in words, with an example."""
        message = f"{self.rows} of {self.all_rows} {self.split} rows ({100 * self.share:.1f}%) are near duplicates of"
        shown = "; ".join(f"{copy[:_SHOWN_LETTERS]!r} of {of[:_SHOWN_LETTERS]!r}" for copy, of in self.examples)
        return f"{message} {self.of} rows, such as {shown}" if shown else f"{message} {self.of} rows"


def copies_between(splits: Mapping[Split, Sequence[str]]) -> tuple[NearDuplicates, ...]:
    """Count the near duplicates between the given splits."""
    paired = {split for pair in PAIRS for split in pair}
    sketches = {split: SplitSketches(texts) for split, texts in splits.items() if split in paired}
    counts = []
    for of, split in PAIRS:
        if {of, split} <= sketches.keys():
            originals = sketches[split].copies_of(sketches[of])
            rows = np.flatnonzero(originals != NO_COPY).tolist()
            examples = tuple((splits[split][row], splits[of][originals[row]]) for row in rows[:_EXAMPLES_MAX])
            counts.append(NearDuplicates(of, split, len(rows), len(originals), examples))
    return tuple(counts)


def copies_of_any(texts: Sequence[str], splits: Mapping[Split, Sequence[str]]) -> npt.NDArray[np.bool_]:
    """Return for each text whether it is a near duplicate of a row of one of the splits."""
    sketches, copied = SplitSketches(texts), np.zeros(len(texts), np.bool_)
    for others in splits.values():
        copied |= sketches.copies_of(SplitSketches(others)) != NO_COPY
    return copied


def require_few_copies(copies: Sequence[NearDuplicates], share_max: float) -> None:
    """Raise InvalidRequest if the share of near duplicates is above what the recipe accepts."""
    worst = max(copies, key=lambda each: each.share, default=None)
    if worst is not None and worst.share > share_max:
        needed = np.ceil(100 * worst.share) / 100
        raise InvalidRequest(
            f"{worst.sentence()}; the recipe accepts {100 * share_max:g}%",
            remedy="Figures of such rows are too good. Put all variants of a text into one split, as 'edge-convert"
            f" dataset' does; or accept them with 'near_copies_max: {needed:g}' under 'data' in the recipe. The"
            " report gives the figures with and without them.",
        )


def accepted_copies(copies: Sequence[NearDuplicates]) -> Iterator[str]:
    """Yield a warning for each share that needed a decision in the recipe."""
    yield from (f"{each.sentence()}; the recipe accepts that." for each in copies if each.share > COPIES_SHARE_MAX)


Item = TypeVar("Item")

SHARES = {"train": 0.62, "importance": 0.04, "calibration": 0.18, "test": 0.16}


def deal_groups(
    groups: Mapping[str, Sequence[Item]],
    seed: str,
    shares: Mapping[str, float] = SHARES,
    assigned: Mapping[str, Sequence[Item]] = MappingProxyType({}),
) -> dict[str, list[Item]]:
    """Deal groups to splits: each group, in an order shuffled by `seed`, goes whole to the split that lacks most items.

    `assigned` has the items that are in a split already. Four groups of similar size are enough for three splits. Call
    it once per label, so that each label is in every split.
    """
    names = sorted(groups)
    random.Random(seed).shuffle(names)  # noqa: S311 - a fixed shuffle, not a secret
    dealt: dict[str, list[Item]] = {split: list(assigned.get(split, ())) for split in shares}
    total = sum(map(len, (*groups.values(), *dealt.values())))
    for name in names:
        split = max(shares, key=lambda split: shares[split] * total - len(dealt[split]))
        dealt[split].extend(groups[name])
    return dealt


def join_splits(parts: Iterable[Mapping[str, Sequence[Item]]], seed: str) -> dict[str, list[Item]]:
    """Join the splits of several calls, and shuffle each for trainers that read in order."""
    joined: dict[str, list[Item]] = {}
    for part in parts:
        for split, items in part.items():
            joined.setdefault(split, []).extend(items)
    for split, items in joined.items():
        random.Random(f"{seed} {split}").shuffle(items)  # noqa: S311 - likewise
    return joined


def write_splits(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write SPLIT.jsonl for each split, one row per line, for its owner alone. Raises OSError.

    All files are written before the first one gets its name, so a full disk leaves the folder as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        for split, rows in splits.items():
            partial = stack.enter_context(atomic_files.replacing(folder / f"{split}.jsonl"))
            with atomic_files.open_private(partial, "w") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


TRAIN = "train"
DIVISION_SHARES = {TRAIN: 0.6, "calibration": 0.25, "test": 0.15}
_OPTIONAL_KEYS = ("family", "labeled_by", "model", "review_stream", "site", "prediction_id", "sampling_probability")
_FLAG_KEYS = ("synthetic", "composed", "consented")


def divide(
    rows: Sequence[DataRow],
    seed: str,
    shares: Mapping[str, float] = DIVISION_SHARES,
    earlier: Mapping[str, Collection[str]] = MappingProxyType({}),
) -> dict[str, list[DataRow]]:
    """Return the rows of each split, in an order shuffled by `seed`; each first label has its share of every split.

    Rows that are in no split were left out. `earlier` has the keys of the rows of each split of an earlier division:
    these rows stay in their split, with their variants, so that no later bundle is measured on what an earlier one has
    learned. Variants that were in several splits go to training, or else to calibration.
    """
    measurable = measurable_rows(rows)
    strata: dict[str, dict[str, list[DataRow]]] = defaultdict(dict)
    assigned: dict[str, dict[str, list[DataRow]]] = defaultdict(lambda: {split: [] for split in shares})
    training: list[DataRow] = []
    for name, members in _groups(rows).items():
        measurable_members = [row for row in members if measurable(row)]
        if not measurable_members:
            training += members
            continue
        label, split = next(labels_of(measurable_members[0]), ""), _earlier_split(members, earlier)
        if split:
            assigned[label][split] += members
        else:
            strata[label][name] = members
    labels = sorted({*strata, *assigned})
    parts = [deal_groups(strata[label], f"{seed} {label}", shares, assigned[label]) for label in labels]
    measured = [{split: _members_for(split, members, measurable) for split, members in part.items()} for part in parts]
    joined = join_splits([*measured, {TRAIN: training}], seed)
    return {split: joined.get(split, []) for split in shares}


def _earlier_split(members: Sequence[DataRow], earlier: Mapping[str, Collection[str]]) -> str:
    """Return the split in which rows of a group were before, the first of several; empty = in none."""
    keys = {row.key for row in members}
    return next((split for split in DIVISION_SHARES if not keys.isdisjoint(earlier.get(split, ()))), "")


def measurable_rows(rows: Sequence[DataRow]) -> Callable[[DataRow], bool]:
    """Return the condition for a row of this file to be in calibration or test."""
    sampled = any(row.review_stream or row.sampling_probability is not None for row in rows)

    def measurable(row: DataRow) -> bool:
        by_people = not row.synthetic and row.label_source not in MACHINES
        return by_people and (not sampled or row.sampling_probability is not None)

    return measurable


def _members_for(split: str, members: list[DataRow], measurable: Callable[[DataRow], bool]) -> list[DataRow]:
    return members if split == TRAIN else [row for row in members if measurable(row)]


def _groups(rows: Sequence[DataRow]) -> dict[str, list[DataRow]]:
    """Return the rows that belong together, by a name that does not depend on the order of the file."""
    parents = list(range(len(rows)))

    def root(index: int) -> int:
        while parents[index] != index:
            parents[index] = parents[parents[index]]
            index = parents[index]
        return index

    first_index: dict[str, int] = {}
    for index, row in enumerate(rows):
        for name in filter(None, (row.key, row.family and f"family {row.family}")):
            parents[root(index)] = root(first_index.setdefault(name, index))
    for index, other in SplitSketches([row.asked for row in rows]).pairs_within():
        parents[root(index)] = root(other)
    members: dict[int, list[DataRow]] = defaultdict(list)
    for index, row in enumerate(rows):
        members[root(index)].append(row)
    return {min(row.key for row in group): group for group in members.values()}


def plain_of(row: DataRow) -> dict[str, Any]:
    """Return a row as an object of JSONL in the format text-label or text-answers, with all its other keys."""
    plain: dict[str, Any] = {"text": row.text}
    if row.answers:
        plain["answers"] = {each.question: dict(each.shares) or each.label for each in row.answers}
    elif row.label:
        plain["label"] = dict(row.shares) or row.label
    if row.label_source != "imported":
        plain["label_source"] = row.label_source
    plain |= {key: value for key in _OPTIONAL_KEYS if (value := getattr(row, key)) not in ("", None)}
    return plain | {key: True for key in _FLAG_KEYS if getattr(row, key)}
