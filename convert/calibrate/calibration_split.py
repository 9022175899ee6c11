"""Divides the calibration rows: a part fits the temperature, and the rest proves the threshold. Pure.

Rows are ordered by a hash of their families or texts. So the division does not depend on the order of the file, and
rows of one family, or with the same text, stay together.

    tuning    the temperature, and the first threshold to test: 30%, at most 500 rows
    proving   the threshold, with the gate and the floor in force: all others

The gate takes one row of each family from both parts; `gate` explains why the proof stays exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from convert.calibrate import temperature
from convert.data.data_row import DataRow

TUNING_SHARE = 0.3
TUNING_ROWS_MAX, GATE_ROWS_MAX = 500, 1000


@dataclass(frozen=True)
class Division:
    """The two parts."""

    tuning: list[DataRow]
    proving: list[DataRow]


def divide_rows(rows: Sequence[DataRow]) -> Division:
    """Divide the calibration rows; if there are too few to fit a temperature, all go to `proving`."""
    ordered = sorted(rows, key=lambda row: (text_hash(family(row)), text_hash(row.key)))
    count = round(TUNING_SHARE * len(ordered))
    if count < temperature.ROWS_MIN:
        return Division([], ordered)
    tuning = min(count, TUNING_ROWS_MAX)
    while tuning < len(ordered) and family(ordered[tuning]) == family(ordered[tuning - 1]):
        tuning += 1  # no family is divided
    return Division(ordered[:tuning], ordered[tuning:])


def one_of_each(rows: Sequence[DataRow]) -> list[DataRow]:
    """Return one row of each family, in an order that is independent of their texts."""
    chosen: dict[str, DataRow] = {}
    for row in sorted(rows, key=lambda row: (text_hash(family(row)), text_hash(row.key))):
        chosen.setdefault(family(row), row)
    return list(chosen.values())


def family(row: DataRow) -> str:
    """Return the name of a row's family; a row without one is a family of its own."""
    return row.family or row.key


def text_hash(text: str) -> str:
    """Hash a name, for an order that does not depend on the order of a file."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
