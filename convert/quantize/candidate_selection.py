"""Chooses among quantized candidates: measures each through the agent's engine on this machine, and takes the fastest
one inside the recipe's budget.

The speed of a type depends on the processor, so it is measured. Losses are measured against the model at full
precision, on texts of the calibration split. Only the accuracy uses labels, and only those of the rows that fit the
temperature: the other rows must still prove the threshold of the chosen candidate.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.calibrate.calibration_split import divide_rows
from convert.clustered_statistics import Numbers, clustered_share, family_numbers, share
from convert.data import row_files
from convert.data.data_row import DataRow
from convert.evaluate.batch_invariance import measure_batch_invariance
from convert.evaluate.predictions import QuestionView, ServedPrediction, matrix, views
from convert.evaluate.scoring import answered_pairs, cosine, is_right, same_answers
from convert.evaluate.serving import BundleFolder, open_bundle, serve_bundles
from convert.package.bundle_assembly import CHOSEN_NAME, candidate_bundle
from convert.pipeline.recipe import BudgetSection
from convert.pipeline.stage import Report, StageJob
from edge_agent.errors import InputTooLong, ModelFailed
from edge_agent.formats.manifest import Manifest, TaskSpec

LINE_NAME = "chosen.json"
"""The figures of the chosen candidate, without times, which differ from run to run."""
ROWS_MAX = 500
_SPECIAL_TOKENS_MAX = 8
ROUNDS, ROUND_TEXTS = 7, 12
# Medians closer than this can differ by chance; then the smaller file is better.
_SAME_SPEED = 0.05
_COSINE_SAME = 0.99
GATE_AGREEMENT_MIN = 0.99
"""Smallest share of the rows that must be on the same side of the gate as at full precision."""
_LOSSES = ("kl_mean", "kl_p999", "kl_max")
_HELD_UP = 0.03
"""The share of rows that each gate holds up in this comparison."""

Floats = npt.NDArray[np.float64]
Reference = Callable[[Sequence[str]], Sequence[Floats]]
"""Returns the log-probabilities of the outputs at full precision, [texts, outputs], for each question."""


@dataclass(frozen=True)
class Candidate:
    """One form of the weights."""

    name: str
    weights: Path
    details: Mapping[str, Any] = field(default_factory=dict)
    """For the report: type, bits_per_weight, fallback_tensors, ..."""


@dataclass(frozen=True)
class _Baseline:
    """The reference for every candidate."""

    manifest: Manifest
    """Of a candidate: all have the same task."""
    rows: Sequence[DataRow]
    labelled: Sequence[tuple[int, DataRow]]
    """The rows whose labels may be used, each with its index in `rows`."""
    full: Sequence[ServedPrediction]
    """Answers at full precision."""
    scores: Floats | None = None
    """The out-of-distribution score of each row at full precision, if there is a gate."""

    def for_question(self, view: QuestionView) -> _Baseline:
        """Return the baseline for one question."""
        labelled = [(self.labelled[index][0], row) for index, row in view.rows([row for _, row in self.labelled])]
        full = [view.prediction(each) for each in self.full]
        return replace(self, manifest=view.manifest, labelled=labelled, full=full)

    @property
    def texts(self) -> list[str]:
        """The inputs, as a device sends them."""
        return [row.text for row in self.rows]


def choose(
    job: StageJob,
    candidates: Sequence[Candidate],
    full: Path,
    reference: Reference | None = None,
    *,
    scored: bool = False,
) -> Report:
    """Measure all candidates, write the name of the best one to `chosen`, and report.

    Args:
        job: of the quantize stage.
        candidates: at least one.
        full: the exported model before quantization, which is the reference if `reference` is None.
        reference: classify and decide: the log-probabilities by the model as it was trained.
        scored: `full` also computes an out-of-distribution score.

    Report: `chosen`; `candidates`: name, size_bytes, the details, `latency_ms` {p50}, `agreement` (same answer as at
    full precision; embed: cosine of 0.99 or more), classify and decide: `kl_mean`, `kl_p999`, `kl_max` in nats,
    `accuracy`, `accuracy_loss` (of the full precision's, on the same rows), `gate_agreement` (same side of the gate as
    at full precision, each with its own scores; None without a gate), `batch_invariance` (see
    `evaluate.batch_invariance`) and `inside_budget`, with `outside`, the reasons. decide: `questions` has the answers'
    figures of each question; those next to it are the worst ones, and the budget holds for each question.

    Raises:
        ModelFailed: no candidate is inside the budget; the message has the table.
    """
    with tempfile.TemporaryDirectory(dir=job.out) as folder:
        bundles = [open_bundle(candidate_bundle(job, each.weights, Path(folder, each.name))) for each in candidates]
        baseline = _baseline_of(job, bundles[0], full, reference, Path(folder))
        if scored:
            full_answers = _answers_at_full_precision(job, baseline, full, None, Path(folder, "scored"))
            baseline = replace(baseline, scores=_ood_scores(full_answers))
        lines = [_measure(job, *pair, baseline) for pair in zip(candidates, bundles, strict=True)]
        times = _race(bundles, baseline.texts[:ROUND_TEXTS])
    measured = [
        {**line, "latency_ms": {"p50": round(1000 * seconds, 3)}} for line, seconds in zip(lines, times, strict=True)
    ]
    best = fastest(measured, job.recipe.budget)
    without_times = {**best}
    del without_times["latency_ms"]
    (job.out / CHOSEN_NAME).write_text(best["name"] + "\n", encoding="utf-8")
    (job.out / LINE_NAME).write_text(json.dumps(without_times, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return {"chosen": best["name"], "rows": len(baseline.rows), "candidates": measured}


def _baseline_of(
    job: StageJob, bundle: BundleFolder, full: Path, reference: Reference | None, folder: Path
) -> _Baseline:
    parts = divide_rows(row_files.rows(job.recipe, "calibration"))
    tuning = set(parts.tuning)
    rows = _accepted_rows([*parts.tuning, *parts.proving][:ROWS_MAX], bundle, job)
    labelled = [(index, row) for index, row in enumerate(rows) if row in tuning]
    baseline = _Baseline(bundle.manifest, rows, labelled if bundle.manifest.task.kind != "embed" else [], ())
    return replace(baseline, full=_answers_at_full_precision(job, baseline, full, reference, folder))


def _accepted_rows(rows: Sequence[DataRow], bundle: BundleFolder, job: StageJob) -> list[DataRow]:
    """Return the rows that a site accepts; a checkpoint can lack positions for longer ones."""
    limit = bundle.manifest.task.limits.input_tokens_max - _SPECIAL_TOKENS_MAX
    long_texts = {row.text for row in rows if len(row.text.encode()) > limit}  # a token has at least one byte
    answers = _answers_of(bundle, [*long_texts], job) if long_texts else []
    refused = {text for text, each in zip(long_texts, answers, strict=True) if each.failure == InputTooLong.reason}
    return [row for row in rows if row.text not in refused]


def fastest(measured: Sequence[dict[str, Any]], budget: BudgetSection) -> dict[str, Any]:
    """Return the fastest candidate inside the budget; of equally fast ones the smallest.

    Raises ModelFailed, with the table, if no candidate is inside the budget.
    """
    within_budget = list(filter(itemgetter("inside_budget"), measured))
    if not within_budget:
        failure = ModelFailed("no candidate is inside the recipe's budget", remedy=_remedy(budget))
        failure.details = tuple(table(measured).splitlines())
        raise failure
    limit = min(map(_p50, within_budget)) * (1 + _SAME_SPEED)
    return min((each for each in within_budget if _p50(each) <= limit), key=itemgetter("size_bytes"))


def _p50(line: Mapping[str, Any]) -> float:
    return float(line["latency_ms"]["p50"])


def table(measured: Sequence[dict[str, Any]]) -> str:
    """Return the figures as plain text, one line for each candidate."""
    lines = [f"  {'candidate':<16} {'MB':>8} {'p50 ms':>8} {'agreement':>10} {'mean KL':>9} {'accuracy':>9}  outside"]
    return "\n".join([*lines, *map(_table_row, measured)])


def _table_row(figures: Mapping[str, Any]) -> str:
    accuracy = figures["accuracy"]["value"] if figures["accuracy"] else math.nan
    return (
        f"  {figures['name']:<16} {figures['size_bytes'] / 1e6:8.1f} {figures['latency_ms']['p50']:8.2f}"
        f" {figures['agreement']['value']:10.4f} {figures.get('kl_mean', math.nan):9.5f} {accuracy:9.4f}"
        f"  {'; '.join(figures['outside'])}"
    )


def judge(line: Mapping[str, Any], budget: BudgetSection) -> list[str]:
    """Return why a candidate is outside the budget; empty if it is inside."""
    gate_agreement = (line.get("gate_agreement") or {}).get("value", 1.0)
    invariance_problem = (line.get("batch_invariance") or {}).get("problem", "")
    rules = {
        f"gate agreement under {GATE_AGREEMENT_MIN:g}": gate_agreement < GATE_AGREEMENT_MIN,
        invariance_problem: bool(invariance_problem),
    }
    answers = [
        f"{name}: {reason}"
        for name, figures in line.get("questions", {}).items()
        for reason in _judge_answers(figures, budget)
    ] or _judge_answers(line, budget)
    return [*answers, *(reason for reason, broken in rules.items() if broken)]


def _judge_answers(figures: Mapping[str, Any], budget: BudgetSection) -> list[str]:
    loss = figures["accuracy_loss"] or 0.0  # None: there were no labels
    rules = {
        f"agreement under {budget.agreement_min:g}": figures["agreement"]["value"] < budget.agreement_min,
        f"mean KL over {budget.kl_mean_max:g}": figures.get("kl_mean", 0.0) > budget.kl_mean_max,
        f"accuracy loss over {budget.accuracy_loss_max:g}": loss > budget.accuracy_loss_max,
    }
    return [reason for reason, broken in rules.items() if broken]


def divergences(full: Floats, served: Floats) -> Floats:
    """Return the Kullback-Leibler divergence of each row of log-probabilities, [texts], in nats."""
    return np.asarray((np.exp(full) * (full - served)).sum(axis=1))


def _answers_at_full_precision(
    job: StageJob, baseline: _Baseline, full: Path, reference: Reference | None, folder: Path
) -> list[ServedPrediction]:
    if reference is None:
        return _answers_of(open_bundle(candidate_bundle(job, full, folder / "full")), baseline.texts, job)
    return [_served_prediction(baseline.manifest.task, line) for line in zip(*reference(baseline.texts), strict=True)]


def _served_prediction(task: TaskSpec, log_probabilities: Sequence[Floats]) -> ServedPrediction:
    """Return the answer with these log-probabilities of each question, at temperature 1."""
    if task.kind == "decide":
        return ServedPrediction(question_scores=tuple(tuple(np.exp(each).tolist()) for each in log_probabilities))
    [scores] = log_probabilities
    return ServedPrediction(task.labels[int(scores.argmax())], log_probabilities=tuple(scores.tolist()))


def _answers_of(bundle: BundleFolder, texts: Sequence[str], job: StageJob) -> list[ServedPrediction]:
    with serve_bundles([bundle]) as served:
        return served.predict(bundle, texts, job.progress)


def _measure(job: StageJob, candidate: Candidate, bundle: BundleFolder, baseline: _Baseline) -> dict[str, Any]:
    predictions = _answers_of(bundle, baseline.texts, job)
    invariance = measure_batch_invariance(bundle, baseline.texts, job.progress)
    line: dict[str, Any] = {
        "name": candidate.name,
        "size_bytes": candidate.weights.stat().st_size,
        **candidate.details,
        **_answer_figures(baseline, predictions),
        "failed": sum(bool(each.failure) for each in predictions),
        "gate_agreement": _gate_agreement(baseline, predictions),
        "batch_invariance": invariance.report() if invariance else None,
    }
    outside = judge(line, job.recipe.budget)
    return line | {"inside_budget": not outside, "outside": outside}


def _answer_figures(baseline: _Baseline, predictions: Sequence[ServedPrediction]) -> dict[str, Any]:
    """Return the figures of the answers; decide: of each question, and the worst ones."""
    if baseline.manifest.task.kind != "decide":
        return {
            "agreement": _agreement(baseline, predictions),
            **_loss(baseline, predictions),
            **_accuracy(baseline, predictions),
        }
    each = {
        view.name: _answer_figures(baseline.for_question(view), [view.prediction(one) for one in predictions])
        for view in views(baseline.manifest)
    }
    figures = list(each.values())
    losses = {key: [one[key] for one in figures if key in one] for key in _LOSSES}
    worst = max(figures, key=lambda one: one["accuracy_loss"] or 0.0)
    return {
        "agreement": min((one["agreement"] for one in figures), key=itemgetter("value")),
        **{key: max(values) for key, values in losses.items() if values},
        "accuracy": worst["accuracy"],
        "accuracy_loss": worst["accuracy_loss"],
        "questions": each,
    }


def _agreement(baseline: _Baseline, predictions: Sequence[ServedPrediction]) -> dict[str, Any]:
    same = same_answers(baseline.full, predictions)
    if baseline.manifest.task.kind == "embed":
        pairs = zip(baseline.full, predictions, strict=True)
        same = [cosine([left], [right]).get("least", 0.0) >= _COSINE_SAME for left, right in pairs]
    return clustered_share(same, _families(baseline.rows)).plain()


def _families(rows: Sequence[DataRow]) -> Numbers:
    return family_numbers([row.family or row.key for row in rows])


def _loss(baseline: _Baseline, predictions: Sequence[ServedPrediction]) -> dict[str, float]:
    pairs = answered_pairs(baseline.full, predictions)
    if baseline.manifest.task.kind != "classify" or not pairs:
        return {}
    kl = divergences(*map(matrix, zip(*pairs, strict=True)))
    return {"kl_mean": float(kl.mean()), "kl_p999": float(np.percentile(kl, 99.9)), "kl_max": float(kl.max())}


def _ood_scores(predictions: Sequence[ServedPrediction]) -> Floats:
    return np.array([math.nan if each.ood_score is None else each.ood_score for each in predictions])


def _gate_agreement(baseline: _Baseline, predictions: Sequence[ServedPrediction]) -> dict[str, float] | None:
    """Return the share of rows that both or neither hold up, if each holds up the _HELD_UP highest of its scores."""
    if baseline.scores is None or all(each.ood_score is None for each in predictions):
        return None
    sides = [scores > np.nanquantile(scores, 1 - _HELD_UP) for scores in (baseline.scores, _ood_scores(predictions))]
    return share(int((sides[0] == sides[1]).sum()), len(predictions)).plain()


def _accuracy(baseline: _Baseline, predictions: Sequence[ServedPrediction]) -> dict[str, Any]:
    if not baseline.labelled:
        return {"accuracy": None, "accuracy_loss": None}
    right, full = _right_flags(baseline, predictions), _right_flags(baseline, baseline.full)
    accuracy = clustered_share(right, _families([row for _, row in baseline.labelled])).plain()
    return {"accuracy": accuracy, "accuracy_loss": (sum(full) - sum(right)) / len(right)}


def _right_flags(baseline: _Baseline, answers: Sequence[ServedPrediction]) -> list[bool]:
    kind = baseline.manifest.task.kind
    return [is_right(kind, row, answers[index]) for index, row in baseline.labelled]


def _race(bundles: Sequence[BundleFolder], texts: Sequence[str]) -> list[float]:
    """Return each bundle's median seconds per answer: one text at a time, with the bundles in turn.

    Each has its own engine with all threads, like a single bundle on a site.
    """
    with ExitStack() as stack:
        served = [(bundle, stack.enter_context(serve_bundles([bundle]))) for bundle in bundles]
        rounds = [
            [statistics.median(each.seconds for each in engine.predict(bundle, texts)) for bundle, engine in served]
            for _ in range(ROUNDS + 1)
        ]
    return list(map(statistics.median, zip(*rounds[1:], strict=True)))  # the first round warms up


def _remedy(budget: BudgetSection) -> str:
    return (
        "Add a larger type under quantize.types (Q8_0 or F16; matmul8-gather8 or fp32), use importance_matrix: true for"
        f" types of 4 bits, or widen the budget, now agreement_min {budget.agreement_min:g},"
        f" kl_mean_max {budget.kl_mean_max:g}, accuracy_loss_max {budget.accuracy_loss_max:g}. A type whose scores"
        " depend on other inputs in the batch is outside every budget, because no threshold would hold for it."
    )
