"""Compares two bundles on the same rows, with tests whether differences are more than chance. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from convert.clustered_statistics import clustered_share
from convert.data.row_files import DataRow
from convert.evaluate import quality_metrics
from convert.evaluate.predictions import ServedPrediction, views
from convert.evaluate.scoring import cosines, latency, outcomes, summary, vectors
from edge_agent.formats.manifest import Manifest, TaskSpec


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
    of a text. decide: `questions` has the keys of classify for each question that both have, and its `rows`.
    """
    kind = manifests[0].task.kind
    report: dict[str, Any] = {
        "rows": len(rows),
        "latency_ms": {"first": latency(first), "second": latency(second)},
    }
    if kind == "embed":
        return report | {"cosine": cosine(first, second)}
    if kind == "decide":
        return report | {"questions": _by_question(manifests, rows, first, second)}
    return report | _answers(manifests, rows, first, second)


def _by_question(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
) -> dict[str, Any]:
    """Return the comparison of each question that both bundles have; p-values are adjusted for their number, too."""
    sides = [{view.name: view for view in views(manifest)} for manifest in manifests]
    names = common_questions(manifests[0].task, manifests[1].task)
    found = {}
    for name in names:
        one, other = sides[0][name], sides[1][name]
        answered, left = one.pairs(rows, first)
        if answered:
            pair = (one.manifest, other.manifest)
            report = _answers(pair, answered, left, other.pairs(rows, second)[1], tests=len(names))
            found[name] = {"rows": len(answered)} | report
    return found


def common_questions(first: TaskSpec, second: TaskSpec) -> list[str]:
    """Return the names of the questions that both tasks have, with the same outputs, in the order of the first."""
    there = {question.name: question.outputs for question in second.questions_asked}
    return [question.name for question in first.questions_asked if there.get(question.name) == question.outputs]


def _answers(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
    tests: int = 1,
) -> dict[str, Any]:
    """Compare answers that can be right or wrong; `tests` is how many questions are compared together."""
    kind = manifests[0].task.kind
    left, right = outcomes(manifests[0], rows, first), outcomes(manifests[1], rows, second)
    same = np.array(same_answers(first, second), dtype=np.bool_)
    found = quality_metrics.differences(left, right)
    for each in found.values():
        if each["p_adjusted"] is not None:
            each["p_adjusted"] = min(1.0, tests * each["p_adjusted"])
    report: dict[str, Any] = {
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
