"""The evaluate stage, and the measurement of any bundle on any rows, each through the agent's own engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convert.data import row_files, splits
from convert.data.data_row import DataRow
from convert.evaluate import scoring
from convert.evaluate.batch_invariance import measure_batch_invariance
from convert.evaluate.predictions import ServedPrediction, views
from convert.evaluate.quality_metrics import Flags
from convert.evaluate.scoring import entity_types, expected_answer, measure, outcomes, summary
from convert.evaluate.serving import BundleFolder, chosen_bundle, open_bundle, quiet, serve_bundles
from convert.pipeline.recipe import Recipe, Split
from convert.pipeline.stage import Progress, Report, StageJob
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Manifest

PREDICTIONS_NAME = "predictions.jsonl"
QUALITY_NAME = "quality.json"
KNOWN: tuple[Split, ...] = ("train", "calibration")
_CHUNK_ROWS = 64


def run(job: StageJob) -> Report:
    """Measure the chosen artefact, as it was calibrated, on the test split, one text at a time.

    Writes predictions.jsonl (text, expected and a prediction per line), and quality.json: the report without times.
    """
    sample = row_files.sample(job.recipe, "test")
    rows = sample.rows
    with chosen_bundle(job) as bundle:
        report, predictions = _measure(bundle, rows, job.progress)
    report["sampling"] = sample.plain()
    near_copies = _report_near_copies(job.recipe, bundle.manifest, rows, predictions)
    if "questions" in report:
        without = near_copies.get("questions", {})
        near_copies["questions"] = {name: each | without.get(name, {}) for name, each in report["questions"].items()}
    report |= near_copies
    write(job.out / PREDICTIONS_NAME, bundle, rows, predictions)
    quality = {key: value for key, value in report.items() if key != "latency_ms"}
    (job.out / QUALITY_NAME).write_text(json.dumps(quality, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return report


def _report_near_copies(
    recipe: Recipe, manifest: Manifest, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]
) -> Report:
    """Return how many test rows are near duplicates of other splits, and the headline figures without them."""
    texts = {
        split: [row.asked for row in row_files.rows(recipe, split)] for split in KNOWN if getattr(recipe.data, split)
    }
    copies = splits.copies_of_any([row.asked for row in rows], texts)
    report: Report = {"near_copies": {"rows": int(copies.sum()), "splits": list(texts)}}
    if manifest.task.kind == "embed" or not copies.any() or copies.all():
        return report
    if manifest.task.kind == "decide":
        return report | {"questions": _questions_without(manifest, rows, predictions, copies)}
    remaining = outcomes(manifest, rows, predictions).only(~copies)
    return report | {"without_near_copies": summary(manifest.confidence, remaining)}


def _questions_without(
    manifest: Manifest, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction], copies: Flags
) -> Report:
    """Return `without_near_copies` of each question that has rows with and without near duplicates."""
    report: Report = {}
    for view in views(manifest):
        answered, predicted = view.pairs(rows, predictions)
        is_original = ~copies[[index for index, _ in view.rows(rows)]]
        if is_original.any() and not is_original.all():
            remaining = outcomes(view.manifest, answered, predicted).only(is_original)
            report[view.name] = {"without_near_copies": summary(view.manifest.confidence, remaining)}
    return report


def evaluate(
    folder: Path, rows: Sequence[DataRow], progress: Progress = quiet
) -> tuple[Report, list[ServedPrediction]]:
    """Measure any bundle directory on rows, one text at a time; see `scoring.measure` for the report.

    Only rows that figures rest on are used (probability_sampling.py), and only these have predictions.

    Raises:
        BundleError: it is not a bundle, or it does not fit this agent.
        InvalidRequest: rows have labels that the bundle lacks.
        ModelError, MemoryShort: it does not load.
    """
    bundle, sample = open_bundle(folder), row_files.equally_likely(rows)
    _check_labels(bundle, sample.rows)
    report, predictions = _measure(bundle, sample.rows, progress)
    return report | {"sampling": sample.plain()}, predictions


def compare(first: Path, second: Path, rows: Sequence[DataRow], progress: Progress = quiet) -> Report:
    """Measure two bundle directories on the same rows; see `scoring.compare` for the report.

    They take turns, a few rows each, so that other load of the machine affects both.

    Raises what `evaluate` raises; InvalidRequest also for two kinds of task.
    """
    bundles, rows = (open_bundle(first), open_bundle(second)), row_files.equally_likely(rows).rows
    _check_comparable(bundles)
    for bundle in bundles:
        _check_labels(bundle, rows)
    texts = [row.text for row in rows]
    first_answers: list[ServedPrediction] = []
    second_answers: list[ServedPrediction] = []
    with serve_bundles([bundles[0]]) as left, serve_bundles([bundles[1]]) as right:
        for start in range(0, len(texts), _CHUNK_ROWS):
            chunk = texts[start : start + _CHUNK_ROWS]
            first_answers += left.predict(bundles[0], chunk)
            second_answers += right.predict(bundles[1], chunk)
            progress("both bundles", len(first_answers), len(texts))
    names: dict[str, Any] = {"bundles": [f"{bundle.name} {bundle.digest[:12]}" for bundle in bundles]}
    manifests = (bundles[0].manifest, bundles[1].manifest)
    return names | scoring.compare(manifests, rows, first_answers, second_answers)


def _check_comparable(bundles: tuple[BundleFolder, BundleFolder]) -> None:
    tasks = [bundle.manifest.task for bundle in bundles]
    if tasks[0].kind != tasks[1].kind:
        message = f"the bundles are of kind {' and '.join(sorted(task.kind for task in tasks))}"
        raise InvalidRequest(message, remedy="Compare two bundles of one kind.")
    if tasks[0].kind == "decide" and not scoring.common_questions(*tasks):
        listed = [", ".join(question.name for question in task.questions) for task in tasks]
        message = f"the bundles have no question in common: {listed[0][:200]} and {listed[1][:200]}"
        raise InvalidRequest(message, remedy="Compare two versions of one task.")


def write(path: Path, bundle: BundleFolder, rows: Sequence[DataRow], predictions: Sequence[ServedPrediction]) -> None:
    """Write predictions.jsonl."""
    kind = bundle.manifest.task.kind
    lines = [each.line(row.text, expected_answer(kind, row)) for row, each in zip(rows, predictions, strict=True)]
    path.write_text("".join(lines), encoding="utf-8")


def _measure(
    bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress
) -> tuple[Report, list[ServedPrediction]]:
    with serve_bundles([bundle]) as served:
        served.predict(bundle, [row.text for row in rows[:1]])  # the first answer of an engine takes longer
        predictions = served.predict(bundle, [row.text for row in rows], progress)
    invariance = measure_batch_invariance(bundle, [row.text for row in rows], progress)
    report = measure(bundle.manifest, rows, predictions)
    return report | ({"batch_invariance": invariance.report()} if invariance else {}), predictions


def _check_labels(bundle: BundleFolder, rows: Sequence[DataRow]) -> None:
    task = bundle.manifest.task
    kind, known = task.kind, {*task.labels, *entity_types(task)}
    if kind == "decide":
        row_files.check_answers(rows, task)
        if not any(row.answers for row in rows):
            raise InvalidRequest("no row answers a question", remedy="Give rows 'answers': docs/data-formats.md.")
    if kind == "classify" and not all(row.label for row in rows):
        raise InvalidRequest("some rows have no label", remedy="Give each row a label: docs/data-formats.md.")
    unknown = sorted(_row_labels(rows) - known)
    if kind in ("classify", "extract", "redact") and unknown:
        phrase = "label of the rows is not one" if len(unknown) == 1 else "labels of the rows are not labels"
        message = f"{len(unknown)} {phrase} of {bundle.name}: {', '.join(unknown)[:300]}"
        raise InvalidRequest(message, remedy=f"Its labels are: {', '.join(sorted(known))[:500]}.")


def _row_labels(rows: Sequence[DataRow]) -> set[str]:
    return {row.label for row in rows} - {""} | {span.label for row in rows for span in row.spans}
