"""Dealing out data to the splits of a recipe so that nothing in one is a variant of what stands in another.

A split by row flatters: of two sentences that came from one template, or of two sizes of one product, one is learnt
and the other is "unseen". So rows come in groups of variants, and a group goes whole into one split. The scripts in
examples/ that make data use this.
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
    """Return the items of each split; the groups, in an order that `seed` shuffles, go where most is still wanting.

    With four groups of like size, three splits have something. Call it once for each label, so that each is spread.
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
    """Return the splits of many deals as one, each shuffled: a trainer that reads in order sees all labels early."""
    whole: dict[str, list[Item]] = {}
    for part in parts:
        for split, items in part.items():
            whole.setdefault(split, []).extend(items)
    for split, items in whole.items():
        random.Random(f"{seed} {split}").shuffle(items)  # noqa: S311 - likewise
    return whole


def write_splits(folder: Path, splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Write SPLIT.jsonl for each split, one row a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
