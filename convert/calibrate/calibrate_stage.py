"""The calibrate stage: computes the manifest's `confidence` section from the answers of the served artefact.

The other modules of this package are pure; the answers come from `convert.evaluate`, through the serving engine.

The calibration rows are divided once (`calibration_split`): a part for the temperature, and the larger part for the
threshold, which is proved with the gate and the floor in force. The gate takes one row of each family of both parts.
With more than two labels a temperature changes the order of rows by confidence, so it must be fixed before the
threshold is tested. It is one number and needs a few hundred rows; all others are for the threshold. The temperature is
kept if it lowers the log loss of rows held out of its fit. The rows of the threshold have no part in that choice, so
the test stays valid. The rows of the temperature also determine the first threshold of the fixed-sequence test.

Rows of one family tend to be right or wrong together, so the test takes one of each, chosen by a hash: the risk
guarantee is for requests in which all families are equally frequent.

A decide task is calibrated question by question, by the rows that answer each: a temperature, a threshold and a verdict
of its own. The rows are divided once, and the gate, which judges the input, is one. The recipe's `delta` is divided
equally among the questions that have enough rows for a proof (`divided_delta`), so the probability that any of the
thresholds violates its target is at most `delta` (union bound). A classify task is one question.

redact: there is no confidence; `redaction_cutoff` proves what the bundle misses, if the recipe asks for it.

extract: the confidence of a record is the smallest probability of its words, at the temperature. The temperature is the
most likely one of TEMPERATURES, given which records are right; the engine answers once for each. The threshold is
tested on whole records.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from convert.calibrate import gate, temperature, threshold
from convert.calibrate.calibration_answers import Answers, Subject, answer_rows, label_answers, record_answers
from convert.calibrate.calibration_split import GATE_ROWS_MAX, divide_rows, one_of_each
from convert.calibrate.gate import Conditions
from convert.calibrate.redaction_cutoff import MissedTarget, calibrate_cutoff
from convert.calibrate.threshold import Choice, Floats, Risk
from convert.clustered_statistics import clustered_share
from convert.data import row_files
from convert.data.data_row import DataRow
from convert.evaluate import quality_metrics
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.serving import BundleFolder, chosen_bundle, quiet, serve_bundles
from convert.package.bundle_assembly import CONFIDENCE_NAME, QUESTIONS_NAME, REDACTION_NAME
from convert.pipeline import task_file as tasks
from convert.pipeline.stage import Progress, Report, StageJob
from edge_agent.errors import InvalidRequest
from edge_agent.formats.calibration import AlwaysEscalate, Confidence, OodGate, Threshold, TypicalInputs
from edge_agent.formats.manifest import SCORED_KINDS
from edge_agent.statistics import divided_delta


@dataclass(frozen=True)
class Calibration:
    """The sections of a manifest with the confidence, and the report."""

    confidence: Confidence
    report: Report
    questions: Mapping[str, Confidence] = field(default_factory=dict)
    """decide: the confidence of each question; `confidence` has the gate."""
    redaction: Mapping[str, Any] = field(default_factory=dict)
    """redact: the proved cut-off with its bound; empty = nothing is proved."""


def run(job: StageJob) -> Report:
    """Write confidence.json; report temperature, threshold, tested thresholds, reliability before and after, labels
    needed.

    Raises as `row_files.rows` and serving.
    """
    task = tasks.of(job.recipe.path(job.recipe.task))
    section = job.recipe.risk
    risk, settings = Risk(section.target, section.delta), CalibrationSettings(section.floor, section.held_up_max)
    if job.recipe.redaction is not None:
        return _write_results(job, _calibrate_redaction(job, task.kind))
    if task.kind == "embed":
        return _write_results(job, _gate_of_vectors(job, settings))
    if task.kind not in SCORED_KINDS:
        verdict = f"A task of kind {task.kind} has no confidence: nothing is calibrated."
        return _write_results(job, Calibration(AlwaysEscalate(), {"verdict": verdict, "kind": task.kind}))
    sample = row_files.sample(job.recipe, "calibration")
    with chosen_bundle(job) as bundle:
        calibration = calibrate(bundle, sample.rows, risk, job.progress, settings)
    return _write_results(job, replace(calibration, report={**calibration.report, "sampling": sample.plain()}))


def _calibrate_redaction(job: StageJob, kind: str) -> Calibration:
    """Return the proved cut-off of a bundle that redacts."""
    section = job.recipe.redaction
    if kind != "redact" or section is None:
        message = f"the recipe has 'redaction', and its task is of kind {kind}"
        raise InvalidRequest(message, remedy="Remove the section, or set 'kind: redact' in task.yaml.")
    sample = row_files.sample(job.recipe, "calibration")
    target = MissedTarget(section.missed_max, section.delta)
    with chosen_bundle(job) as bundle:
        result = calibrate_cutoff(bundle, sample.rows, target, job.progress)
    return Calibration(AlwaysEscalate(), result.report | {"sampling": sample.plain()}, redaction=result.section)


def _gate_of_vectors(job: StageJob, settings: CalibrationSettings) -> Calibration:
    """Return the gate of a bundle that embeds, from all calibration rows, since there is no threshold to prove."""
    rows = one_of_each(row_files.rows(job.recipe, "calibration"))[:GATE_ROWS_MAX]
    with chosen_bundle(job) as bundle, serve_bundles([bundle]) as served:
        predictions = served.predict(bundle, [row.text for row in rows], job.progress)
    usable = [each for each in predictions if not each.failure]
    conditions, gate_report = _conditions(bundle, (usable, usable), settings)
    verdict = "A task of kind embed has no confidence."
    if conditions.gate:
        verdict += " The gate marks inputs unlike the training texts."
    return Calibration(AlwaysEscalate(gate=conditions.gate), {"verdict": verdict, "kind": "embed", "gate": gate_report})


@dataclass(frozen=True)
class CalibrationSettings:
    """The limits of gate and floor in a recipe."""

    floor: float = 0.0
    held_up_max: float = 0.0
    """0 = no gate."""
    gate: OodGate | None = None
    """A gate to keep; None = the calibration rows make a new one."""


NO_CONDITIONS = CalibrationSettings()
"""Neither gate nor floor."""


def calibrate(
    bundle: BundleFolder,
    rows: Sequence[DataRow],
    risk: Risk,
    progress: Progress = quiet,
    settings: CalibrationSettings = NO_CONDITIONS,
) -> Calibration:
    """Calibrate a bundle of kind classify, decide or extract on labelled rows, as the module describes."""
    parts = divide_rows(rows)
    # One text at a time, so that the same inputs give the same answers and the same bundle.
    with serve_bundles([bundle]) as served:
        ask = partial(answer_rows, served, progress=progress)
        answers = (label_answers if bundle.manifest.task.questions_asked else record_answers)(ask, bundle, parts)
    predictions = answers.every.predictions
    conditions, gate_report = _conditions(bundle, answers.held_out, settings)
    shared_report: Report = {"gate": gate_report, "floor": conditions.floor}
    failed = len(rows) - len(predictions)
    if bundle.manifest.task.kind != "decide":
        [subject] = answers.subjects
        choice = _choose(subject, conditions, risk)
        typical_inputs = _typical_inputs(predictions)
        report = _subject_report(subject, choice, conditions, risk, failed) | shared_report
        report["novelty"] = typical_inputs.model_dump() if typical_inputs else None
        return Calibration(_section(choice, risk, subject.fit.temperature, typical_inputs, conditions), report)
    return _calibrate_questions(answers.subjects, conditions, risk, shared_report, failed)


def _calibrate_questions(
    subjects: Sequence[Subject], conditions: Conditions, risk: Risk, shared_report: Report, failed: int
) -> Calibration:
    """Calibrate each question; one gate serves all of them."""
    question_risk, provable, choices = choose_each(subjects, conditions, risk)
    sections: dict[str, Confidence] = {}
    reports: dict[str, Report] = {}
    for subject in subjects:
        choice = choices[subject.name]
        # With a decoder each question has its own label mass, so the typical range is computed for each question.
        typical_inputs = _typical_inputs([*subject.tuning.predictions, *subject.proving.predictions])
        section = _section(choice, question_risk, subject.fit.temperature, typical_inputs, conditions)
        sections[subject.name] = section.model_copy(update={"gate": None})
        report = _subject_report(subject, choice, conditions, question_risk, failed) | shared_report
        reports[subject.name] = report | {"novelty": typical_inputs.model_dump() if typical_inputs else None}
    verdict = _verdict_of_all(sections, risk, len(provable))
    report = {
        **{"verdict": verdict, "questions": reports, "target_risk": risk.target},
        **{"delta": risk.delta, "delta_of_each": question_risk.delta, **shared_report},
    }
    return Calibration(AlwaysEscalate(gate=conditions.gate), report, sections)


def choose_each(
    subjects: Sequence[Subject], conditions: Conditions, risk: Risk
) -> tuple[Risk, list[str], dict[str, Choice]]:
    """Test the thresholds of each question; return the risk of each test, the questions that have enough rows for a
    proof, and the result for each question."""
    rows = {subject.name: len(subject.sample.rows) for subject in subjects}
    delta, provable = divided_delta(rows, risk.target, risk.delta)
    question_risk = Risk(risk.target, delta)
    return question_risk, provable, {subject.name: _choose(subject, conditions, question_risk) for subject in subjects}


def _verdict_of_all(sections: Mapping[str, Confidence], risk: Risk, provable: int) -> str:
    """Return the result for all questions as sentences."""
    with_threshold = [name for name, each in sections.items() if isinstance(each, Threshold)]
    without_threshold = [name for name in sections if name not in with_threshold]
    certainty, target = f"{100 * (1 - risk.delta):g}%", f"{100 * risk.target:g}%"
    sentences = []
    if with_threshold:
        sentences.append(
            f"{len(with_threshold)} of {len(sections)} questions have a threshold: {', '.join(with_threshold)}."
            f" With {certainty} certainty at most {target} of the confident answers to each of them are wrong, for"
            f" requests like the calibration rows; delta is divided equally among the {provable} questions that have"
            " enough rows for a proof."
        )
    if without_threshold:
        sentences.append(f"Every answer to {', '.join(without_threshold)} escalates.")
    return " ".join(sentences)


def _typical_inputs(predictions: Sequence[ServedPrediction]) -> TypicalInputs | None:
    return gate.measure([each.label_mass for each in predictions], [each.input_tokens for each in predictions])


def _choose(subject: Subject, conditions: Conditions, risk: Risk) -> Choice:
    sample, tuning = subject.sample, subject.tuning
    confidences = conditions.passing(sample.predictions, sample.confidences())
    tuning_answers = (conditions.passing(tuning.predictions, subject.tuning_confidences), tuning.right)
    start = threshold.start_of(confidences, tuning_answers, risk)
    return threshold.choose(confidences, sample.right, risk, start=start)


def _subject_report(subject: Subject, choice: Choice, conditions: Conditions, risk: Risk, failed: int) -> Report:
    """Return the report of one subject; `failed` rows got no answer."""
    sample, proof, fit = subject.sample, subject.proving, subject.fit
    return choice_report(choice, risk) | {
        "temperature": fit.temperature,
        "temperature_fit": asdict(fit) | {"kept": fit.kept},
        "rows": {
            "temperature": len(subject.tuning.rows),
            "gate": len(conditions.gate.scores) if conditions.gate else 0,
            "threshold": len(sample.rows),
            "failed": failed,
        },
        "held_up": gate.held_up_shares(conditions, choice.threshold, sample.predictions, sample.confidences()),
        "accuracy": clustered_share(proof.right, proof.families()).plain(),
        "reliability": {
            "before": _reliability(subject.raw_confidences, proof),
            "after": _reliability(proof.confidences(), proof),
        },
    }


def _conditions(
    bundle: BundleFolder,
    held_out: tuple[Sequence[ServedPrediction], Sequence[ServedPrediction]],
    settings: CalibrationSettings,
) -> tuple[Conditions, Report]:
    """Return gate and floor, and the gate's part of the report; `held_out` are the `rows` of `gate.conditions_of`."""
    if (existing := settings.gate) is not None:
        report: Report = {"score": existing.score, "held_up_max": existing.held_up_max, "rows": len(existing.scores)}
        return Conditions(existing, settings.floor, separate_rows=True), report
    score = gate.score_of(bundle.manifest, held_out[0])
    conditions, rows = gate.conditions_of(score, held_out, settings.held_up_max, settings.floor)
    if conditions.gate is None:
        return conditions, {"score": "none", "why": gate.reason_without_gate(score, rows, settings.held_up_max)}
    return conditions, {"score": score, "held_up_max": settings.held_up_max, "rows": rows}


def _reliability(confidences: Floats, proof: Answers) -> Report:
    loss = float(temperature.log_losses(confidences, proof.right).mean()) if len(confidences) else None
    return quality_metrics.reliability(confidences, proof.right, proof.families()) | {"log_loss": loss}


def choice_report(choice: Choice, risk: Risk) -> Report:
    """Return the tested thresholds for the report, and the result as a sentence in `verdict`."""
    needed = threshold.rows_needed(choice, risk) if choice.threshold is None else None
    return {
        "verdict": _verdict(choice, risk, needed),
        "threshold": choice.threshold,
        "target_risk": risk.target,
        "delta": risk.delta,
        "bound": choice.bound,
        "coverage": choice.coverage,
        "labels_needed": None if needed is None else max(needed - choice.rows, 1),
        "walk": [asdict(step) for step in choice.steps if step.rows],
    }


def _verdict(choice: Choice, risk: Risk, rows_needed: int | None) -> str:
    target, certainty = f"{100 * risk.target:g}%", f"{100 * (1 - risk.delta):g}%"
    if choice.threshold is not None:
        return (
            f"At a threshold of {choice.threshold:g}, {100 * choice.coverage:.1f}% of the answers to the calibration"
            f" rows are confident. With {certainty} certainty at most {target} of these are wrong, for requests like"
            " the calibration rows."
        )
    message = (
        f"No threshold reaches the target of {target} wrong answers with {certainty} certainty, so every answer"
        " escalates."
    )
    if rows_needed is None:
        shares = [step.errors / step.rows for step in choice.steps if step.rows >= risk.rows_min]
        if shares:
            message += f" Of the most confident answers that could be tested, {100 * min(shares):.1f}% were wrong."
        return f"{message} More labels alone will not help: train a better model, or accept a higher risk."
    labels_needed = max(rows_needed - choice.rows, 1)
    labels = "label is" if labels_needed == 1 else "labels are"
    return f"{message} About {labels_needed} more {labels} needed, at the error rate of these rows."


def _section(
    choice: Choice, risk: Risk, fitted_temperature: float, typical_inputs: TypicalInputs | None, conditions: Conditions
) -> Confidence:
    if choice.threshold is None:
        return AlwaysEscalate(temperature=fitted_temperature, novelty=typical_inputs, gate=conditions.gate)
    return Threshold(
        temperature=fitted_temperature,
        threshold=choice.threshold,
        target_risk=risk.target,
        delta=risk.delta,
        n=choice.rows,
        bound=round(choice.bound, 6),
        coverage=round(choice.coverage, 6),
        floor=conditions.floor,
        novelty=typical_inputs,
        gate=conditions.gate,
    )


def _write_results(job: StageJob, calibration: Calibration) -> Report:
    _write(job.out / CONFIDENCE_NAME, calibration.confidence.model_dump(mode="json"))
    if calibration.redaction:
        _write(job.out / REDACTION_NAME, calibration.redaction)
    if calibration.questions:
        plain = {name: each.model_dump(mode="json") for name, each in calibration.questions.items()}
        _write(job.out / QUESTIONS_NAME, plain)
    return calibration.report


def _write(path: Path, plain: Mapping[str, object]) -> None:
    path.write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n", encoding="utf-8")
