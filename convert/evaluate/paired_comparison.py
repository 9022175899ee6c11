"""Compares two bundles on the same rows, with tests whether differences are more than chance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convert.clustered_statistics import clustered_share
from convert.data.row_files import DataRow
from convert.evaluate import quality_metrics
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.scoring import cosines, latency, outcomes, summary, vectors
from edge_agent.formats.manifest import Manifest


def compare(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
) -> dict[str, Any]:
    """Return the report of a comparison.

    Keys: `rows`, `latency_ms` of both; for kinds that can be right or wrong, `first` and `second` (the same headline as
    `scoring.measure`), `same_answer`, `agreement` (the same answer, and both confident or neither), `only_first` and
    `only_second` (rows that only one has right), `differences` (`quality_metrics.differences`), `better` and `worse`
    (figures in which the second differs by more than chance); classify: `per_label`. embed: `cosine` of the two vectors
    of a text.
    """
    kind = manifests[0].task.kind
    report: dict[str, Any] = {
        "rows": len(rows),
        "latency_ms": {"first": latency(first), "second": latency(second)},
    }
    if kind == "embed":
        return report | {"cosine": cosine(first, second)}
    left, right = outcomes(manifests[0], rows, first), outcomes(manifests[1], rows, second)
    same = np.array(same_answers(first, second), dtype=np.bool_)
    found = quality_metrics.differences(left, right)
    report |= {
        "first": summary(manifests[0].confidence, left),
        "second": summary(manifests[1].confidence, right),
        "same_answer": clustered_share(same, left.families).plain(),
        "agreement": clustered_share(same & (left.confident == right.confident), left.families).plain(),
        "only_first": int((left.right & ~right.right).sum()),
        "only_second": int((right.right & ~left.right).sum()),
        "differences": found,
        "better": list(quality_metrics.changes(found, better=True)),
        "worse": list(quality_metrics.changes(found, better=False)),
    }
    if kind == "classify":
        labels = list(dict.fromkeys([*manifests[0].task.labels, *manifests[1].task.labels]))
        report["per_label"] = quality_metrics.label_differences(left, right, labels)
    return report


def same_answers(first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]) -> list[bool]:
    """Return which texts got the same answer from both; two failures are the same."""
    return [
        (left.answer, left.failure) == (right.answer, right.failure) for left, right in zip(first, second, strict=True)
    ]


def cosine(first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]) -> dict[str, float]:
    """Return mean and smallest cosine between the two vectors of each text that has both."""
    pairs = answered(first, second)
    if not pairs:
        return {}
    left, right = zip(*pairs, strict=True)
    each = np.diagonal(cosines(vectors(left), vectors(right)))
    return {"mean": float(each.mean()), "least": float(each.min())}


def answered(
    first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]
) -> list[tuple[ServedPrediction, ServedPrediction]]:
    """Return the pairs of answers to texts that both answered."""
    return [pair for pair in zip(first, second, strict=True) if not any(each.failure for each in pair)]
