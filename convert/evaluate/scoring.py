"""Judges which answers are right, reports on a version on labelled rows, and compares two versions on the same rows.

A comparison tests whether differences are more than chance. Pure.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.clustered_statistics import clustered_share, family_numbers
from convert.data.data_row import DataRow, TextSpan
from convert.evaluate import quality_metrics, site_redaction
from convert.evaluate.predictions import FoundEntity, QuestionView, ServedPrediction, views
from convert.evaluate.quality_metrics import AnswerOutcomes
from edge_agent.formats.calibration import Confidence, Threshold
from edge_agent.formats.manifest import Kind, Manifest, TaskSpec
from edge_agent.formats.questions import expected_level

FAILED = "(no answer)"
_PERCENTILES = (50, 90, 95, 99)


def is_right(kind: Kind, row: DataRow, prediction: ServedPrediction) -> bool:
    """Return whether the whole answer is right; a failed one is not.

    classify: the same label. extract: the same entities in the same places. generate, and extract with a record: the
    same JSON value if the expected text is JSON, otherwise the same text apart from surrounding white space. redact: no
    part of a labelled value remains.
    """
    return not prediction.failure and _IS_RIGHT[kind](row, prediction)


def _same_record(row: DataRow, prediction: ServedPrediction) -> bool:
    if row.completion:
        return _same_text(row, prediction)
    return _places(row.spans) == _places(prediction.entities)


def _places(entities: Iterable[TextSpan | FoundEntity]) -> set[tuple[int, int, str]]:
    return {(each.start, each.end, each.label) for each in entities}


def _same_text(row: DataRow, prediction: ServedPrediction) -> bool:
    if prediction.answer.strip() == row.completion.strip():
        return True
    expected = _json(row.completion)
    return expected is not None and _json(prediction.answer) == expected


_IS_RIGHT: dict[str, Callable[[DataRow, ServedPrediction], bool]] = {
    "classify": lambda row, prediction: prediction.answer == row.label,
    "extract": _same_record,
    "generate": _same_text,
    "redact": lambda row, prediction: not site_redaction.remaining(row.text, row.spans, prediction.entities),
}


def expected_answer(kind: Kind, row: DataRow) -> str:
    """Return the expected value of `ServedPrediction.answer`; decide: of the questions that the row answers."""
    if kind == "decide":
        return json.dumps({answer.question: answer.label for answer in row.answers}, ensure_ascii=False)
    if kind in ("extract", "redact") and not row.completion:
        return json.dumps([[span.label, span.start, span.end] for span in row.spans])
    return row.label or row.completion


def measure(manifest: Manifest, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]) -> dict[str, Any]:
    """Return the report of one bundle on labelled rows.

    Keys: `rows`; `failed` (reason: rows); `latency_ms`; then by kind those of `quality_metrics.headline`, `confusion`
    and `per_label` (classify), `per_label` of entities (extract), `fields` (generate and extract, JSON), `neighbours`
    (embed, where rows have labels). decide: `questions` has the keys of classify for each question, on the rows that
    answer it, and of a score question `score_error`. With a threshold, `sure`: the threshold, the share of confident
    answers (`coverage`), and the share of wrong ones among these (`wrong`). Every share has its 95% interval.
    """
    task = manifest.task
    report: dict[str, Any] = {
        "rows": len(rows),
        "failed": dict(Counter(questions.failure for questions in predictions if questions.failure)),
        "latency_ms": latency(predictions),
    }
    if task.kind == "embed":
        return report | _neighbours(rows, predictions)
    if task.kind == "decide":
        questions = {view.name: _measure_question(view, rows, predictions) for view in views(manifest)}
        return report | {"questions": questions}
    row_outcomes = outcomes(manifest, rows, predictions)
    figures = _BY_KIND[task.kind](task, rows, predictions, row_outcomes)
    return report | summary(manifest.confidence, row_outcomes) | figures


def _measure_question(
    view: QuestionView, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
) -> dict[str, Any]:
    """Return the report of one question; only the number of rows, 0, where no row answers it."""
    answered, predicted = view.pairs(rows, predictions)
    if not answered:
        return {"type": view.question.type, "rows": 0}
    row_outcomes = outcomes(view.manifest, answered, predicted)
    classes = _classes(view.manifest.task, answered, predicted, row_outcomes)
    report = summary(view.manifest.confidence, row_outcomes) | classes
    if view.question.type == "score" and (error := score_error(view.question.outputs, answered, predicted)):
        report["score_error"] = error
    return {"type": view.question.type} | report


def score_error(
    levels: Sequence[str], rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
) -> dict[str, float]:
    """Return how far the expected level is from the true one, in levels.

    `mean` is the mean absolute error of the expected value, `constant` that of always answering with the median level
    of these rows, for comparison. Failed answers are left out; if all failed there are no figures.
    """
    true = np.array([levels.index(row.label) for row in rows], np.float64)
    answered = np.array([bool(each.scores) for each in predictions])
    if not answered.any():
        return {}
    levels_given = np.array([expected_level(each.scores) for each in predictions if each.scores])
    constant = np.abs(true[answered] - np.median(true[answered])).mean()
    return {"mean": float(np.abs(levels_given - true[answered]).mean()), "constant": float(constant)}


def summary(confidence: Confidence, outcomes: AnswerOutcomes) -> dict[str, Any]:
    """Return the headline figures. With a threshold, `sure` has coverage and realised risk; with a gate, `gate` has the
    share that it holds up, and the largest share that it should hold up of ordinary inputs."""
    plain = quality_metrics.headline(outcomes)
    if confidence.gate is not None and "held_up" in plain:
        plain["gate"] = {"held_up_max": confidence.gate.held_up_max, "held_up": plain.pop("held_up")}
    selective = {"coverage": plain.pop("coverage"), "wrong": plain.pop("wrong")}
    if not isinstance(confidence, Threshold):
        return plain
    return plain | {"sure": {"threshold": confidence.threshold, "target_risk": confidence.target_risk, **selective}}


def outcomes(manifest: Manifest, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]) -> AnswerOutcomes:
    """Return which answers are right and which are confident, for kinds that can be right or wrong."""
    kind, confidence = manifest.task.kind, manifest.confidence
    answered = np.array([not each.failure for each in predictions], dtype=np.bool_)
    graded = answered & (kind not in ("generate", "redact"))
    gate = confidence.gate
    scores = [gate.score_of(each.ood_score, each.label_mass) if gate else 0.0 for each in predictions]
    passed = [
        isinstance(confidence, Threshold) and confidence.is_confident(each.confidence, score)
        for each, score in zip(predictions, scores, strict=True)
    ]
    return AnswerOutcomes(
        right=np.array(list(map(partial(is_right, kind), rows, predictions)), dtype=np.bool_),
        confident=graded & np.array(passed, dtype=np.bool_),
        confidence=np.where(graded, np.array([each.confidence for each in predictions], dtype=np.float64), np.nan),
        families=family_numbers([row.family or row.key for row in rows]),
        labels=[row.label for row in rows],
        held_up=answered & np.array(list(map(gate.holds_up, scores)), dtype=np.bool_) if gate else None,
    )


def latency(predictions: Sequence[ServedPrediction]) -> dict[str, float]:
    """Return percentiles and mean of the answers' times, in milliseconds."""
    times = [1000 * each.seconds for each in predictions if not each.failure]
    if not times:
        return {}
    percentiles = zip(_PERCENTILES, np.percentile(times, _PERCENTILES).tolist(), strict=True)
    figures = {f"p{percent}": round(value, 3) for percent, value in percentiles}
    return figures | {"mean": round(float(np.mean(times)), 3)}


def _classes(
    task: TaskSpec, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], outcomes: AnswerOutcomes
) -> dict[str, Any]:
    """Return confusion[true][answered] = rows, zeros left out, and the figures of each label."""
    true, predicted = [row.label for row in rows], [each.answer or FAILED for each in predictions]
    confusion: dict[str, dict[str, int]] = {}
    for (label, answered), count in sorted(Counter(zip(true, predicted, strict=True)).items()):
        confusion.setdefault(label, {})[answered] = count
    expected_hits: dict[str, list[quality_metrics.RowHit]] = {label: [] for label in task.labels}
    predicted_hits: dict[str, list[quality_metrics.RowHit]] = {label: [] for label in task.labels}
    for index, (label, answer) in enumerate(zip(true, predicted, strict=True)):
        expected_hits.setdefault(label, []).append((index, label == answer))
        predicted_hits.setdefault(answer, []).append((index, label == answer))
    selective = quality_metrics.selective_by_label(outcomes, task.labels)
    per_label = {
        label: quality_metrics.label_figures(expected_hits[label], predicted_hits[label], outcomes.families)
        | selective[label]
        for label in task.labels
    }
    return {"confusion": confusion, "per_label": per_label}


def _entities(
    task: TaskSpec, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], outcomes: AnswerOutcomes
) -> dict[str, Any]:
    if task.record_schema is not None:
        return _fields(task, rows, predictions, outcomes)
    expected_hits: dict[str, list[quality_metrics.RowHit]] = {label: [] for label in entity_types(task)}
    predicted_hits: dict[str, list[quality_metrics.RowHit]] = {label: [] for label in entity_types(task)}
    for index, (row, each) in enumerate(zip(rows, predictions, strict=True)):
        truth, predicted = _places(row.spans), _places(each.entities)
        for entity in sorted(truth):
            expected_hits.setdefault(entity[2], []).append((index, entity in predicted))
        for entity in sorted(predicted):
            predicted_hits.setdefault(entity[2], []).append((index, entity in truth))
    per_label = {
        label: quality_metrics.label_figures(expected_hits[label], predicted_hits[label], outcomes.families)
        for label in entity_types(task)
    }
    return {"per_label": per_label}


def entity_types(task: TaskSpec) -> list[str]:
    """Return the entity labels of a task's BIO tags: B-x and I-x mean x."""
    return list(dict.fromkeys(tag[2:] for tag in task.labels if tag[:2] in ("B-", "I-")))


def _fields(
    _task: TaskSpec, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], outcomes: AnswerOutcomes
) -> dict[str, Any]:
    """Return the share of rows with each field right, if the expected texts are JSON objects."""
    hits: dict[str, list[quality_metrics.RowHit]] = {}
    for index, (row, each) in enumerate(zip(rows, predictions, strict=True)):
        truth, answer = _object(row.completion), _object(each.answer)
        for key, value in truth.items():
            hits.setdefault(key, []).append((index, key in answer and answer[key] == value))
    fields = {key: quality_metrics.hit_share(hits[key], outcomes.families).plain() for key in sorted(hits)}
    return {"fields": fields} if fields else {}


def _neighbours(rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]) -> dict[str, Any]:
    """Return the share of rows whose nearest other row has the same label."""
    usable = [bool(row.label and each.vector) for row, each in zip(rows, predictions, strict=True)]
    if sum(usable) < 2:
        return {}
    labels = np.array([row.label for row in compress(rows, usable)])
    points = vectors(list(compress(predictions, usable)))
    similar = cosines(points, points)
    np.fill_diagonal(similar, -np.inf)
    families = family_numbers([row.family or row.key for row in compress(rows, usable)])
    return {"neighbours": clustered_share(labels[similar.argmax(axis=1)] == labels, families).plain()}


def vectors(predictions: Sequence[ServedPrediction]) -> npt.NDArray[np.float64]:
    """Return the vectors as [texts, size]."""
    return np.array([each.vector for each in predictions])


def cosines(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cosine of each row of the first with each of the second."""
    lengths = np.linalg.norm(first, axis=1)[:, None] * np.linalg.norm(second, axis=1)[None, :]
    return np.asarray(first @ second.T / np.maximum(lengths, 1e-12))


def _object(text: str) -> dict[str, Any]:
    value = _json(text)
    return value if isinstance(value, dict) else {}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


_BY_KIND: dict[
    str, Callable[[TaskSpec, Sequence[DataRow], Sequence[ServedPrediction], AnswerOutcomes], dict[str, Any]]
] = {
    "classify": _classes,
    "extract": _entities,
    "generate": _fields,
    "redact": lambda _task, rows, predictions, found: site_redaction.measure_redaction(
        rows, predictions, found.families
    ),
}


def compare(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
) -> dict[str, Any]:
    """Return the report of a comparison.

    Keys: `rows`, `latency_ms` of both; for kinds that can be right or wrong, `first` and `second` (the same headline as
    `measure`), `same_answer`, `agreement` (the same answer, and both confident or neither), `only_first` and
    `only_second` (rows that only one has right), `differences` (`quality_metrics.differences`), `better` and `worse`
    (figures in which the second differs by more than chance); classify: `per_label`. embed: `cosine` of the two vectors
    of a text. decide: `questions` has the keys of classify for each question that both have, and its `rows`.
    """
    kind = manifests[0].task.kind
    report: dict[str, Any] = {"rows": len(rows), "latency_ms": {"first": latency(first), "second": latency(second)}}
    if kind == "embed":
        return report | {"cosine": cosine(first, second)}
    if kind == "decide":
        return report | {"questions": _by_question(manifests, rows, first, second)}
    return report | _compare_answers(manifests, rows, first, second)


def _by_question(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
) -> dict[str, Any]:
    """Return the comparison of each question that both bundles have; p-values are adjusted for their number, too."""
    views_by_name = [{view.name: view for view in views(manifest)} for manifest in manifests]
    names = common_questions(manifests[0].task, manifests[1].task)
    reports = {}
    for name in names:
        first_view, second_view = views_by_name[0][name], views_by_name[1][name]
        answered, first_answers = first_view.pairs(rows, first)
        if answered:
            pair = (first_view.manifest, second_view.manifest)
            second_answers = second_view.pairs(rows, second)[1]
            report = _compare_answers(pair, answered, first_answers, second_answers, tests=len(names))
            reports[name] = {"rows": len(answered)} | report
    return reports


def common_questions(first: TaskSpec, second: TaskSpec) -> list[str]:
    """Return the names of the questions that both tasks have with the same outputs, in the order of `first`."""
    outputs = {question.name: question.outputs for question in second.questions_asked}
    return [question.name for question in first.questions_asked if outputs.get(question.name) == question.outputs]


def _compare_answers(
    manifests: tuple[Manifest, Manifest],
    rows: Sequence[DataRow],
    first: Sequence[ServedPrediction],
    second: Sequence[ServedPrediction],
    tests: int = 1,
) -> dict[str, Any]:
    """Compare answers that can be right or wrong; `tests` is how many questions are compared together."""
    kind = manifests[0].task.kind
    first_outcomes, second_outcomes = outcomes(manifests[0], rows, first), outcomes(manifests[1], rows, second)
    same = np.array(same_answers(first, second), dtype=np.bool_)
    agree = same & (first_outcomes.confident == second_outcomes.confident)
    differences = quality_metrics.differences(first_outcomes, second_outcomes)
    for each in differences.values():
        if each["p_adjusted"] is not None:
            each["p_adjusted"] = min(1.0, tests * each["p_adjusted"])
    report: dict[str, Any] = {
        "first": summary(manifests[0].confidence, first_outcomes),
        "second": summary(manifests[1].confidence, second_outcomes),
        "same_answer": clustered_share(same, first_outcomes.families).plain(),
        "agreement": clustered_share(agree, first_outcomes.families).plain(),
        "only_first": int((first_outcomes.right & ~second_outcomes.right).sum()),
        "only_second": int((second_outcomes.right & ~first_outcomes.right).sum()),
        "differences": differences,
        "better": list(quality_metrics.changes(differences, better=True)),
        "worse": list(quality_metrics.changes(differences, better=False)),
    }
    if kind == "classify":
        labels = list(dict.fromkeys([*manifests[0].task.labels, *manifests[1].task.labels]))
        report["per_label"] = quality_metrics.label_differences(first_outcomes, second_outcomes, labels)
    return report


def same_answers(first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]) -> list[bool]:
    """Return which texts got the same answer from both; two failures are the same."""
    return [
        (left.answer, left.failure) == (right.answer, right.failure) for left, right in zip(first, second, strict=True)
    ]


def cosine(first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]) -> dict[str, float]:
    """Return mean and smallest cosine between the two vectors of each text that has both."""
    pairs = answered_pairs(first, second)
    if not pairs:
        return {}
    left, right = zip(*pairs, strict=True)
    pair_cosines = np.diagonal(cosines(vectors(left), vectors(right)))
    return {"mean": float(pair_cosines.mean()), "least": float(pair_cosines.min())}


def answered_pairs(
    first: Sequence[ServedPrediction], second: Sequence[ServedPrediction]
) -> list[tuple[ServedPrediction, ServedPrediction]]:
    """Return the pairs of answers to texts that both answered."""
    return [pair for pair in zip(first, second, strict=True) if not any(each.failure for each in pair)]
