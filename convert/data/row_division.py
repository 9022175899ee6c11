"""Divides one file of rows into the splits of a recipe, so that no row of one split is a variant of a row in another.

Rows of one family, with the same text or with nearly the same text form a group, and each group goes into one split as
a whole. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from convert.data import splits
from convert.data.data_row import DataRow
from convert.data.question_rows import labels_of
from convert.data.split_leakage import SplitSketches

SHARES = {"train": 0.6, "calibration": 0.25, "test": 0.15}


def divide(rows: Sequence[DataRow], seed: str, shares: Mapping[str, float] = SHARES) -> dict[str, list[DataRow]]:
    """Return the rows of each split, in an order shuffled by `seed`; each first label has its share of every split."""
    strata: dict[str, dict[str, list[DataRow]]] = defaultdict(dict)
    for name, members in _groups(rows).items():
        strata[next(labels_of(members[0]), "")][name] = members
    parts = [splits.deal_groups(strata[label], f"{seed} {label}", shares) for label in sorted(strata)]
    whole = splits.join_splits(parts, seed)
    return {split: whole.get(split, []) for split in shares}


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
    """Return a row as it stands in JSONL, for the formats text-label and text-answers."""
    plain: dict[str, Any] = {"text": row.text}
    if row.answers:
        plain["answers"] = {each.question: dict(each.shares) or each.label for each in row.answers}
    elif row.label:
        plain["label"] = dict(row.shares) or row.label
    marks = {"family": row.family, "label_source": row.label_source, "labeled_by": row.labeled_by}
    return plain | {key: value for key, value in marks.items() if value and value != "imported"}
