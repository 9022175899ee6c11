"""Divides rows into the splits of a recipe, so that no row of one split is a variant of a row in another.

A split by row gives figures that are too good: of two sentences from one template, or two sizes of one product, one is
learnt and the other counts as unseen. So rows come in groups of variants, and each group goes into one split as a
whole. The scripts in examples/ that make data name the groups themselves. Of a file of rows (`divide`), rows of one
family, with the same text or with nearly the same text form a group. Figures rest on calibration and test, so these
take only rows that can be measured on: their text and label are not of a model, and in a file that knows sampling
probabilities theirs is known. Other rows train. Those that are variants of a row in calibration or test are left out:
they must not be measured on, and must not be learnt.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from convert.data.data_row import MACHINES, DataRow, labels_of
from convert.data.split_leakage import SplitSketches

Item = TypeVar("Item")

SHARES = {"train": 0.62, "importance": 0.04, "calibration": 0.18, "test": 0.16}


def deal_groups(
    groups: Mapping[str, Sequence[Item]], seed: str, shares: Mapping[str, float] = SHARES
) -> dict[str, list[Item]]:
    """Return the items of each split; each group, in an order shuffled by `seed`, goes to the split that lacks most.

    Four groups of similar size are enough for three splits. Call it once per label, so that each label is in every
    split.
    """
    names = sorted(groups)
    random.Random(seed).shuffle(names)  # noqa: S311 - a fixed shuffle, not a secret
    total = sum(len(groups[name]) for name in names)
    dealt: dict[str, list[Item]] = {split: [] for split in shares}
    for name in names:
        split = max(shares, key=lambda split: shares[split] * total - len(dealt[split]))
        dealt[split].extend(groups[name])
    return dealt


def join_splits(parts: Iterable[Mapping[str, Sequence[Item]]], seed: str) -> dict[str, list[Item]]:
    """Join the splits of several calls and shuffle each, so that a trainer that reads in order sees all labels
    early."""
    whole: dict[str, list[Item]] = {}
    for part in parts:
        for split, items in part.items():
            whole.setdefault(split, []).extend(items)
    for split, items in whole.items():
        random.Random(f"{seed} {split}").shuffle(items)  # noqa: S311 - likewise
    return whole


def write_splits(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write SPLIT.jsonl for each split, one row per line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


TRAIN = "train"
DIVISION_SHARES = {TRAIN: 0.6, "calibration": 0.25, "test": 0.15}
_MARKS = ("family", "labeled_by", "model", "review_stream", "site", "prediction_id", "sampling_probability")
_FLAGS = ("synthetic", "composed", "consented")


def divide(
    rows: Sequence[DataRow], seed: str, shares: Mapping[str, float] = DIVISION_SHARES
) -> dict[str, list[DataRow]]:
    """Return the rows of each split, in an order shuffled by `seed`; each first label has its share of every split.

    Rows that are in no split were left out.
    """
    measurable = measurable_rows(rows)
    strata: dict[str, dict[str, list[DataRow]]] = defaultdict(dict)
    training: list[DataRow] = []
    for name, members in _groups(rows).items():
        counting = [row for row in members if measurable(row)]
        if counting:
            strata[next(labels_of(counting[0]), "")][name] = members
        else:
            training += members
    parts = [deal_groups(strata[label], f"{seed} {label}", shares) for label in sorted(strata)]
    measured = [{split: _kept(split, members, measurable) for split, members in part.items()} for part in parts]
    whole = join_splits([*measured, {TRAIN: training}], seed)
    return {split: whole.get(split, []) for split in shares}


def measurable_rows(rows: Sequence[DataRow]) -> Callable[[DataRow], bool]:
    """Return the condition for a row of this file to be in calibration or test."""
    sampled = any(row.review_stream or row.sampling_probability is not None for row in rows)

    def measurable(row: DataRow) -> bool:
        by_people = not row.synthetic and row.label_source not in MACHINES
        return by_people and (not sampled or row.sampling_probability is not None)

    return measurable


def _kept(split: str, members: list[DataRow], measurable: Callable[[DataRow], bool]) -> list[DataRow]:
    return members if split == TRAIN else [row for row in members if measurable(row)]


def _groups(rows: Sequence[DataRow]) -> dict[str, list[DataRow]]:
    """Return the rows that belong together, by a name that does not depend on the order of the file."""
    parents = list(range(len(rows)))

    def root(place: int) -> int:
        while parents[place] != place:
            parents[place] = parents[parents[place]]
            place = parents[place]
        return place

    first: dict[str, int] = {}
    for place, row in enumerate(rows):
        for name in filter(None, (row.key, row.family and f"family {row.family}")):
            parents[root(place)] = root(first.setdefault(name, place))
    for place, other in SplitSketches([row.asked for row in rows]).pairs_within():
        parents[root(place)] = root(other)
    members: dict[int, list[DataRow]] = defaultdict(list)
    for place, row in enumerate(rows):
        members[root(place)].append(row)
    return {min(row.key for row in group): group for group in members.values()}


def plain_of(row: DataRow) -> dict[str, Any]:
    """Return a row as it stands in JSONL, for the formats text-label and text-answers, with all that is known of it."""
    plain: dict[str, Any] = {"text": row.text}
    if row.answers:
        plain["answers"] = {each.question: dict(each.shares) or each.label for each in row.answers}
    elif row.label:
        plain["label"] = dict(row.shares) or row.label
    if row.label_source != "imported":
        plain["label_source"] = row.label_source
    plain |= {key: value for key in _MARKS if (value := getattr(row, key)) not in ("", None)}
    return plain | {key: True for key in _FLAGS if getattr(row, key)}
