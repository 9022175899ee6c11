"""Two bundles on the same rows: which is right more often, and could that be chance? Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convert.data import Row
from convert.evaluate.predictions import Prediction
from convert.evaluate.scoring import cosines, is_right, latency, vectors
from convert.intervals import mcnemar, paired_difference, share
from edge_agent.formats.manifest import Kind


def compare(
    kind: Kind, rows: Sequence[Row], first: Sequence[Prediction], second: Sequence[Prediction]
) -> dict[str, Any]:
    """Return the report of a comparison.

    Keys: `rows`, `agreement` (same answer), `latency_ms` of both; then, for what can be right or wrong, `first` and
    `second` (accuracy), `only_first` and `only_second` (rows that one alone has right), `difference` (second less
    first, with its interval) and `p_value` (McNemar, exact, two-sided). embed: `cosine` of the two vectors of a text.
    """
    report: dict[str, Any] = {
        "rows": len(rows),
        "latency_ms": {"first": latency(first), "second": latency(second)},
    }
    if kind == "embed":
        return report | {"cosine": cosine(first, second)}
    pairs = [
        (is_right(kind, row, left), is_right(kind, row, right))
        for row, left, right in zip(rows, first, second, strict=True)
    ]
    only_first, only_second = pairs.count((True, False)), pairs.count((False, True))
    both = pairs.count((True, True))
    return report | {
        "agreement": share(agreeing(first, second), len(rows)).plain(),
        "first": share(both + only_first, len(rows)).plain(),
        "second": share(both + only_second, len(rows)).plain(),
        "only_first": only_first,
        "only_second": only_second,
        "difference": paired_difference(only_first, only_second, len(rows)).plain(),
        "p_value": mcnemar(only_first, only_second),
    }


def agreeing(first: Sequence[Prediction], second: Sequence[Prediction]) -> int:
    """Return how many texts got the same answer from both; two failures are the same."""
    return sum(
        (left.answer, left.failure) == (right.answer, right.failure) for left, right in zip(first, second, strict=True)
    )


def cosine(first: Sequence[Prediction], second: Sequence[Prediction]) -> dict[str, float]:
    """Return mean and least cosine between the two vectors of each text that has both."""
    pairs = answered(first, second)
    if not pairs:
        return {}
    left, right = zip(*pairs, strict=True)
    each = np.diagonal(cosines(vectors(left), vectors(right)))
    return {"mean": float(each.mean()), "least": float(each.min())}


def answered(first: Sequence[Prediction], second: Sequence[Prediction]) -> list[tuple[Prediction, Prediction]]:
    """Return the pairs of answers to texts that both answered."""
    return [pair for pair in zip(first, second, strict=True) if not any(each.failure for each in pair)]
