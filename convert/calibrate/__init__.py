"""The calibrate stage: computes the manifest's `confidence` section from the answers of the served artefact.

The other modules of this package are pure; the answers come from `convert.evaluate`, through the serving engine.

The calibration rows are divided once (`division`): a part for the temperature, a part for the gate, and the larger part
for the threshold, which is proved with the gate and the floor in force. With more than two labels a temperature changes
the order of rows by confidence, so it must be fixed before the threshold is tested. It is one number and needs a few
hundred rows; all others are for the threshold. The temperature is kept if it lowers the log loss of rows held out of
its fit. The rows of the threshold have no part in that choice, so the test stays valid. The rows of the temperature
also determine the first threshold of the fixed-sequence test.

Rows of one family tend to be right or wrong together, so the test takes one of each, chosen by a hash: the risk
guarantee is for requests in which all families are equally frequent.

extract: the confidence of a record is the smallest probability of its words, at the temperature. The temperature is the
most likely one of TEMPERATURES, given which records are right; the engine answers once for each. The threshold is
tested on whole records.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from convert.calibrate import gate, novelty, temperature, threshold
from convert.calibrate.division import GATE_ROWS_MAX, divided, family, hashed, one_of_each
from convert.calibrate.gate import Conditions
from convert.calibrate.temperature import Fit
from convert.calibrate.threshold import Choice, Floats, Risk
from convert.clustered_statistics import Numbers, clustered_share, family_numbers
from convert.data import row_files
from convert.data.row_files import DataRow
from convert.evaluate import reliability
from convert.evaluate.bundle_folder import BundleFolder, open_bundle
from convert.evaluate.predictions import ServedPrediction, matrix
from convert.evaluate.scoring import is_right
from convert.evaluate.serving import ServedBundles, quiet, serve_bundles
from convert.pipeline import task_file as tasks
from convert.pipeline.stage import Progress, Report, StageJob
from convert.quantize import candidate_bundle
from edge_agent.formats.calibration import AlwaysEscalate, Confidence, Threshold, TypicalInputs
from edge_agent.formats.manifest import Kind

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)
_KINDS: tuple[Kind, ...] = ("classify", "extract")


@dataclass(frozen=True)
class Answers:
    """The answers of a bundle to rows, and whether they are right; rows without an answer are left out."""

    rows: Sequence[DataRow]
    predictions: Sequence[ServedPrediction]
    right: npt.NDArray[np.bool_]

    def confidences(self) -> npt.NDArray[np.float64]:
        """Return the served confidences."""
        return np.array([each.confidence for each in self.predictions])

    def families(self) -> Numbers:
        """Return a number for each row, the same within a family."""
        return family_numbers([family(row) for row in self.rows])

    def and_also(self, more: Answers) -> Answers:
        """Return these answers joined with others."""
        right = np.concatenate([self.right, more.right])
        return Answers([*self.rows, *more.rows], [*self.predictions, *more.predictions], right)

    def one_of_each_family(self) -> Answers:
        """Return one row of each family: the one whose text has the smallest hash."""
        first: dict[str, int] = {}
        for place in sorted(range(len(self.rows)), key=lambda place: hashed(self.rows[place].key)):
            first.setdefault(family(self.rows[place]), place)
        places = sorted(first.values())
        return Answers(
            [self.rows[place] for place in places], [self.predictions[place] for place in places], self.right[places]
        )


def run(job: StageJob) -> Report:
    """Write confidence.json; report temperature, threshold, tested thresholds, reliability before and after, labels
    needed.

    Raises as `row_files.rows` and serving.
    """
    task = tasks.of(job.recipe.path(job.recipe.task))
    asked = job.recipe.risk
    risk, wanted = Risk(asked.target, asked.delta), CalibrationSettings(asked.floor, asked.held_up_max)
    if task.kind == "embed":
        return _leave(job, *_gate_of_vectors(job, wanted))
    if task.kind not in _KINDS:
        said = f"A task of kind {task.kind} has no confidence: nothing is calibrated."
        return _leave(job, AlwaysEscalate(), {"verdict": said, "kind": task.kind})
    sample = row_files.sample(job.recipe, "calibration")
    with tempfile.TemporaryDirectory(dir=job.out) as folder:
        bundle = open_bundle(candidate_bundle.bundle(job, candidate_bundle.chosen(job), Path(folder, "bundle")))
        confidence, report = calibrate(bundle, sample.rows, risk, job.progress, wanted)
    return _leave(job, confidence, report | {"sampling": sample.plain()})


def _gate_of_vectors(job: StageJob, wanted: CalibrationSettings) -> tuple[Confidence, Report]:
    """Return the gate of a bundle that embeds, from all its calibration rows, because there is no threshold to
    prove."""
    rows = one_of_each(row_files.rows(job.recipe, "calibration"))[:GATE_ROWS_MAX]
    with tempfile.TemporaryDirectory(dir=job.out) as folder:
        bundle = open_bundle(candidate_bundle.bundle(job, candidate_bundle.chosen(job), Path(folder, "bundle")))
        with serve_bundles([bundle]) as served:
            said = served.predict(bundle, [row.text for row in rows], job.progress)
    answered = [each for each in said if not each.failure]
    conditions, gated = _conditions(bundle, answered, [str(place) for place in range(len(answered))], wanted)
    verdict = "A task of kind embed has no confidence."
    if conditions.gate:
        verdict += " The gate marks inputs unlike the training texts."
    return AlwaysEscalate(gate=conditions.gate), {"verdict": verdict, "kind": "embed", "gate": gated}


@dataclass(frozen=True)
class CalibrationSettings:
    """The limits of gate and floor in a recipe."""

    floor: float = 0.0
    held_up_max: float = 0.0
    """0 = no gate."""


ANYTHING = CalibrationSettings()


def calibrate(
    bundle: BundleFolder,
    rows: Sequence[DataRow],
    risk: Risk,
    progress: Progress = quiet,
    wanted: CalibrationSettings = ANYTHING,
) -> tuple[Confidence, Report]:
    """Calibrate a bundle of kind classify or extract on labelled rows; see the module."""
    parts = divided(rows)
    fitting = _fit_labels if bundle.manifest.task.kind == "classify" else _fit_records
    # One text at a time, so that the same inputs give the same answers and the same bundle.
    with serve_bundles([bundle]) as served:
        ask = partial(_answers, served, progress=progress)
        fit, tuned = fitting(ask, bundle, parts.tuning)
        fitted = fit.temperature
        held_out = tuned.and_also(ask(bundle, parts.gate[len(parts.tuning) :]))
        proof = ask(bundle.at_temperature(fitted), parts.proving)
        raw = _at_one(ask, bundle, proof)
    tested = proof.one_of_each_family()
    conditions, gated = _conditions(bundle, held_out.predictions, [family(row) for row in held_out.rows], wanted)
    passing = conditions.passing(tested.predictions, tested.confidences())
    known = (conditions.passing(tuned.predictions, _tuned_confidences(bundle, tuned, fitted)), tuned.right)
    start = threshold.start_of(passing, known, risk)
    choice = threshold.choose(passing, tested.right, risk, start=start)
    seen = [*held_out.predictions, *proof.predictions]
    usual = novelty.measure([each.label_mass for each in seen], [each.input_tokens for each in seen])
    report = described(choice, risk) | {
        "temperature": fitted,
        "temperature_fit": asdict(fit) | {"kept": fit.kept},
        "rows": {
            "temperature": len(tuned.rows),
            "gate": len(conditions.gate.scores) if conditions.gate else 0,
            "threshold": len(tested.rows),
            "failed": len(rows) - len(seen),
        },
        "gate": gated,
        "floor": conditions.floor,
        "held_up": gate.holding(conditions, choice.threshold, tested.predictions, tested.confidences()),
        "accuracy": clustered_share(proof.right, proof.families()).plain(),
        "reliability": {
            "before": _reliability(raw, proof),
            "after": _reliability(proof.confidences(), proof),
        },
        "novelty": usual.model_dump() if usual else None,
    }
    return _section(choice, risk, fitted, usual, conditions), report


def _conditions(
    bundle: BundleFolder, held_out: Sequence[ServedPrediction], families: Sequence[str], wanted: CalibrationSettings
) -> tuple[Conditions, Report]:
    """Return gate and floor, and the gate's part of the report."""
    score = gate.score_of(bundle.manifest, held_out)
    made = gate.calibrated(score, held_out, families, wanted.held_up_max)
    count = len(set(families))
    if made is None:
        return Conditions(None, wanted.floor), {
            "score": "none",
            "why": gate.why_none(score, count, wanted.held_up_max),
        }
    report: Report = {"score": score, "held_up_max": wanted.held_up_max, "rows": len(held_out), "families": count}
    return Conditions(made, wanted.floor), report


Ask = Callable[[BundleFolder, Sequence[DataRow]], Answers]


def _answers(served: ServedBundles, bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress) -> Answers:
    said = served.predict(bundle, [row.text for row in rows], progress)
    answered = [not each.failure for each in said]
    kept, predictions = list(compress(rows, answered)), list(compress(said, answered))
    right = map(partial(is_right, bundle.manifest.task.kind), kept, predictions)
    return Answers(kept, predictions, np.fromiter(right, dtype=bool))


def _fit_labels(ask: Ask, bundle: BundleFolder, rows: Sequence[DataRow]) -> tuple[Fit, Answers]:
    answers, labels = ask(bundle, rows), bundle.manifest.task.labels
    truth = np.array([labels.index(row.label) for row in answers.rows], dtype=np.int64)
    return temperature.fit_checked(matrix(answers.predictions), truth, answers.families()), answers


def _fit_records(ask: Ask, bundle: BundleFolder, rows: Sequence[DataRow]) -> tuple[Fit, Answers]:
    if not rows:
        return Fit(), ask(bundle, rows)
    tried = [ask(bundle.at_temperature(each), rows) for each in TEMPERATURES]
    losses = np.array([temperature.log_losses(said.confidences(), said.right) for said in tried])
    families = tried[0].families()
    folds = temperature.folds_of(families)
    held_out = np.zeros(len(families))
    for fold in set(folds.tolist()):
        here = folds == fold
        held_out[here] = losses[np.argmin(losses[:, ~here].mean(axis=1)), here]
    best, at_one = int(np.argmin(losses.mean(axis=1))), TEMPERATURES.index(1.0)
    fit = temperature.checked(TEMPERATURES[best], held_out, losses[at_one], families)
    return fit, tried[best if fit.kept else at_one]


def _tuned_confidences(bundle: BundleFolder, tuned: Answers, fitted: float) -> Floats:
    """Return the confidences of the temperature's rows at that temperature."""
    if bundle.manifest.task.kind == "classify" and tuned.rows:
        return temperature.confidences(matrix(tuned.predictions), fitted)
    return tuned.confidences()  # confidences of records were computed at it


def _at_one(ask: Ask, bundle: BundleFolder, proof: Answers) -> Floats:
    """Return the confidences of the same rows before the temperature."""
    if bundle.manifest.task.kind == "classify" and proof.rows:
        return temperature.confidences(matrix(proof.predictions), 1.0)
    return ask(bundle.at_temperature(1.0), proof.rows).confidences()


def _reliability(confidences: Floats, proof: Answers) -> Report:
    loss = float(temperature.log_losses(confidences, proof.right).mean()) if len(confidences) else None
    return reliability.reliability(confidences, proof.right, proof.families()) | {"log_loss": loss}


def described(choice: Choice, risk: Risk) -> Report:
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


def _verdict(choice: Choice, risk: Risk, needed: int | None) -> str:
    target, sure = f"{100 * risk.target:g}%", f"{100 * (1 - risk.delta):g}%"
    if choice.threshold is not None:
        return (
            f"At a threshold of {choice.threshold:g}, {100 * choice.coverage:.1f}% of the answers are confident."
            f" With {sure} certainty at most {target} of these are wrong, for requests like the calibration rows."
        )
    said = (
        f"No threshold reaches the target of {target} wrong answers with {sure} certainty, so every answer escalates."
    )
    if needed is None:
        seen = min((step.errors / step.rows for step in choice.steps if step.rows >= risk.rows_min), default=None)
        worst = (
            f" Of the most confident answers that could be tested, {100 * seen:.1f}% were wrong."
            if seen is not None
            else ""
        )
        return f"{said}{worst} More labels alone will not help: train a better model, or accept a higher risk."
    return f"{said} About {max(needed - choice.rows, 1)} more labels are needed, at the error rate of these rows."


def _section(
    choice: Choice, risk: Risk, fitted: float, usual: TypicalInputs | None, conditions: Conditions
) -> Confidence:
    if choice.threshold is None:
        return AlwaysEscalate(temperature=fitted, novelty=usual, gate=conditions.gate)
    return Threshold(
        temperature=fitted,
        threshold=choice.threshold,
        target_risk=risk.target,
        delta=risk.delta,
        n=choice.rows,
        bound=round(choice.bound, 6),
        coverage=round(choice.coverage, 6),
        floor=conditions.floor,
        novelty=usual,
        gate=conditions.gate,
    )


def _leave(job: StageJob, confidence: Confidence, report: Report) -> Report:
    plain = json.dumps(confidence.model_dump(mode="json"), indent=2, sort_keys=True)
    (job.out / candidate_bundle.CONFIDENCE_NAME).write_text(plain + "\n", encoding="utf-8")
    return report
