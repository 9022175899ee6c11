"""How well a bundle of kind redact finds personal values. Pure.

A value counts as found when every letter and digit of it is covered, whatever type the model gives it. A text leaks if
a value of it is not found. Precision is by characters: of the letters and digits that are replaced, the share that a
label covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convert.clustered_statistics import Numbers, clustered_share, family_numbers
from convert.data.row_files import DataRow, TextSpan
from convert.evaluate.predictions import FoundEntity, ServedPrediction

Stretch = TextSpan | FoundEntity
"""A stretch of a text: `text[start:end]`."""
MarkedText = tuple[str, Sequence[TextSpan]]
"""A text with its personal values."""


def remaining(text: str, wanted: Sequence[Stretch], found: Sequence[Stretch]) -> list[Stretch]:
    """Return the values of which a letter or digit remains."""
    covered = _places(found)
    return [each for each in wanted if _marks(text, each) - covered]


def measure(rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], families: Numbers) -> dict[str, Any]:
    """Return the figures of some rows.

    Keys: `values_found`, a share with its interval; `per_type`, values and found ones by label; `texts_that_leak`, of
    those with a value; `clean_touched`, of those without one; `precision`, by characters, None where nothing was
    replaced.
    """
    texts = [(row.text, row.spans) for row in rows]
    return _figures(texts, [said.entities for said in predictions], families)


def redaction_figures(
    texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Sequence[str]
) -> dict[str, Any]:
    """Return the figures of `measure` for texts with their values, and what is replaced in each."""
    return _figures(texts, replaced, family_numbers(families))


def _figures(texts: Sequence[MarkedText], replaced: Sequence[Sequence[Stretch]], families: Numbers) -> dict[str, Any]:
    hits: list[tuple[int, bool]] = []
    types: dict[str, list[int]] = {}
    leaks: list[tuple[int, bool]] = []
    touched: list[tuple[int, bool]] = []
    right = characters = 0
    for place, ((text, spans), found) in enumerate(zip(texts, replaced, strict=True)):
        left = remaining(text, spans, found)
        for span in spans:
            hits.append((place, span not in left))
            count = types.setdefault(span.label, [0, 0])
            count[0] += 1
            count[1] += span not in left
        (leaks if spans else touched).append((place, bool(left if spans else found)))
        taken = set().union(*(_marks(text, each) for each in found))
        right += len(taken & _places(spans))
        characters += len(taken)
    return {
        "values_found": _share(hits, families),
        "per_type": {label: {"values": values, "found": found} for label, (values, found) in sorted(types.items())},
        "texts_that_leak": _share(leaks, families),
        "clean_touched": _share(touched, families),
        "precision": right / characters if characters else None,
    }


def _share(places: Sequence[tuple[int, bool]], families: Numbers) -> dict[str, Any] | None:
    if not places:
        return None
    rows = np.array([row for row, _ in places], dtype=np.int64)
    return clustered_share(np.array([hit for _, hit in places], dtype=np.bool_), families[rows]).plain()


def _marks(text: str, stretch: Stretch) -> set[int]:
    """Return the places of the letters and digits of a stretch."""
    return {place for place in range(stretch.start, stretch.end) if text[place].isalnum()}


def _places(stretches: Sequence[Stretch]) -> set[int]:
    return {place for each in stretches for place in range(each.start, each.end)}
