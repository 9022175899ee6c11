"""Divides data into the splits of a recipe so that no row of one split is a variant of a row in another.

A split by row gives figures that are too good: of two sentences from one template, or two sizes of one product, one is
learnt and the other counts as unseen. So rows come in groups of variants, and each group goes into one split as a
whole. The scripts in examples/ that make data use this.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

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
