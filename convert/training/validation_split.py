"""Divides the training rows into those to train on and those held out for early stopping. Pure."""

from __future__ import annotations

import itertools
import random
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from convert.data.row_files import DataRow
from edge_agent.errors import InvalidRequest

Group = list[DataRow]


@dataclass(frozen=True)
class TrainValidationSplit:
    """The two parts of the training split."""

    train: tuple[DataRow, ...]
    validation: tuple[DataRow, ...]


def train_validation_split(rows: Sequence[DataRow], share: float, seed: int) -> TrainValidationSplit:
    """Hold out a share of every label's rows, at least one row in all.

    Rows of one family, or of the same text, stay together, because validation needs phrasings that training never saw.
    Synthetic rows are never held out: early stopping uses real texts. Raises InvalidRequest if there are too few rows
    for both parts.
    """
    chance = random.Random(seed)  # noqa: S311 - an order, no secret
    train: list[Group] = []
    validation: list[Group] = []
    for groups in _by_label(rows):
        chance.shuffle(groups)
        # The last group of a label stays in training.
        room = min(round(share * len(groups)), len(groups) - 1)
        for group in groups:
            if room and _is_real(group):
                validation.append(group)
                room -= 1
            else:
                train.append(group)
    if not validation:
        _keep_one(train, validation)
    return TrainValidationSplit(tuple(itertools.chain(*train)), tuple(itertools.chain(*validation)))


def _by_label(rows: Sequence[DataRow]) -> list[list[Group]]:
    """Return the groups that stay together, one list per label; the first answer of a row counts as its label."""
    groups: dict[str, Group] = defaultdict(list)
    for row in rows:
        groups[row.family or row.key].append(row)
    labels: dict[str, list[Group]] = defaultdict(list)
    for group in groups.values():
        labels[_stratum(group[0])].append(group)
    return [labels[label] for label in sorted(labels)]


def _stratum(row: DataRow) -> str:
    """Return what a row is divided by: its label, or its first answer."""
    return row.label or next((f"{each.question}/{each.label}" for each in row.answers), "")


def _is_real(group: Group) -> bool:
    return not any(row.synthetic for row in group)


def _keep_one(train: list[Group], validation: list[Group]) -> None:
    """Hold out one group of the label with most groups."""
    able = [place for place, group in enumerate(train) if _is_real(group)]
    if not able or len(train) < 2:
        raise InvalidRequest(
            "the training split has too few rows to hold one out for early stopping",
            remedy="Add rows, some of them not made by a model.",
        )
    labels = Counter(_stratum(group[0]) for group in train)
    chosen = max(able, key=lambda place: labels[_stratum(train[place][0])])
    validation.append(train.pop(chosen))
