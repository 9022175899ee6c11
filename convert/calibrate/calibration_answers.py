"""The answers of a bundle to its calibration rows, by the serving engine, at temperatures fitted to these rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress

import numpy as np
import numpy.typing as npt

from convert.calibrate import temperature
from convert.calibrate.calibration_split import GATE_ROWS_MAX, Division, family, text_hash
from convert.calibrate.temperature import Fit
from convert.calibrate.threshold import Floats
from convert.clustered_statistics import Numbers, family_numbers
from convert.data.data_row import DataRow
from convert.evaluate.predictions import QuestionView, ServedPrediction, matrix, views
from convert.evaluate.scoring import is_right
from convert.evaluate.serving import BundleFolder, ServedBundles
from convert.pipeline.stage import Progress

TEMPERATURES = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


@dataclass(frozen=True)
class Answers:
    """The answers of a bundle to rows, and whether they are right; rows without an answer are left out."""

    rows: Sequence[DataRow]
    predictions: Sequence[ServedPrediction]
    right: npt.NDArray[np.bool_]
    """[rows]; decide: empty, because each question has its own (`for_question`)."""

    def confidences(self) -> npt.NDArray[np.float64]:
        """Return the served confidences."""
        return np.array([each.confidence for each in self.predictions])

    def families(self) -> Numbers:
        """Return a number for each row, the same within a family."""
        return family_numbers([family(row) for row in self.rows])

    def first(self, count: int) -> Answers:
        """Return the first answers."""
        return Answers(self.rows[:count], self.predictions[:count], self.right[:count])

    def for_question(self, view: QuestionView) -> Answers:
        """Return the answers to one question, for the rows that have a label for it."""
        rows, predictions = view.pairs(self.rows, self.predictions)
        right = np.fromiter(map(partial(is_right, "classify"), rows, predictions), dtype=bool)
        return Answers(rows, predictions, right)

    def one_of_each_family(self) -> Answers:
        """Return the answer to one row of each family: the row whose text has the smallest hash."""
        chosen: dict[str, int] = {}
        for index in sorted(range(len(self.rows)), key=lambda index: text_hash(self.rows[index].key)):
            chosen.setdefault(family(self.rows[index]), index)
        indexes = sorted(chosen.values())
        right = self.right[indexes] if len(self.right) else self.right
        return Answers([self.rows[index] for index in indexes], [self.predictions[index] for index in indexes], right)


@dataclass(frozen=True)
class Subject:
    """A question, or the records of a bundle that extracts: each subject gets its own threshold."""

    name: str
    fit: Fit
    tuning: Answers
    tuning_confidences: Floats
    """Confidences of `tuning` at the fitted temperature, [rows]."""
    proving: Answers
    raw_confidences: Floats
    """Confidences of `proving` before the temperature, [rows]."""
    sample: Answers
    """The part of `proving` that tests the threshold: one row of each family."""


@dataclass(frozen=True)
class CalibrationAnswers:
    """All answers of a bundle to its calibration rows."""

    subjects: Sequence[Subject]
    tuning: Answers
    """The answers to the rows that fit the temperature."""
    proving: Answers
    """The answers to all other rows."""

    @property
    def every(self) -> Answers:
        """The answers to all rows, `tuning` first."""
        tuning, proving = self.tuning, self.proving
        right = np.concatenate([tuning.right, proving.right])
        return Answers([*tuning.rows, *proving.rows], [*tuning.predictions, *proving.predictions], right)

    @property
    def held_out(self) -> tuple[Sequence[ServedPrediction], Sequence[ServedPrediction]]:
        """The answers whose scores make the gate, one of each family and at most GATE_ROWS_MAX: from all rows, and
        from `tuning` alone."""
        every, tuning = (each.one_of_each_family().first(GATE_ROWS_MAX) for each in (self.every, self.tuning))
        return every.predictions, tuning.predictions


Ask = Callable[[BundleFolder, Sequence[DataRow]], Answers]


def answer_rows(served: ServedBundles, bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress) -> Answers:
    """Ask a bundle about rows, one at a time."""
    answers = served.predict(bundle, [row.text for row in rows], progress)
    answered = [not each.failure for each in answers]
    rows, predictions = list(compress(rows, answered)), list(compress(answers, answered))
    kind = bundle.manifest.task.kind
    if kind == "decide":
        return Answers(rows, predictions, np.zeros(0, dtype=bool))
    return Answers(rows, predictions, np.fromiter(map(partial(is_right, kind), rows, predictions), dtype=bool))


def label_answers(ask: Ask, bundle: BundleFolder, parts: Division) -> CalibrationAnswers:
    """Ask a bundle that answers questions: at temperature 1, then at the fitted temperature of each question."""
    tuning = ask(bundle, parts.tuning)
    fits = {view.name: _fit_labels(tuning.for_question(view), view) for view in views(bundle.manifest)}
    fitted_bundle = bundle.at_temperatures({name: fit.temperature for name, fit in fits.items()})
    proving = ask(fitted_bundle, parts.proving)
    sample = proving.one_of_each_family()
    subjects = []
    for view, fitted_view in zip(views(bundle.manifest), views(fitted_bundle.manifest), strict=True):
        fit, fitting, proof = fits[view.name], tuning.for_question(view), proving.for_question(fitted_view)
        confidences = _best_probabilities(fitting.predictions, fit.temperature)
        raw_confidences = _best_probabilities(proof.predictions, 1.0)
        tested = sample.for_question(fitted_view)
        subjects.append(Subject(view.name, fit, fitting, confidences, proof, raw_confidences, tested))
    return CalibrationAnswers(subjects, tuning, proving)


def _fit_labels(answers: Answers, view: QuestionView) -> Fit:
    truth = np.array([view.question.outputs.index(row.label) for row in answers.rows], dtype=np.int64)
    return temperature.fit_and_measure(matrix(answers.predictions), truth, answers.families())


def _best_probabilities(predictions: Sequence[ServedPrediction], at_temperature: float) -> Floats:
    """Return the confidence of each answer at a temperature."""
    return temperature.confidences(matrix(predictions), at_temperature) if predictions else np.zeros(0)


def record_answers(ask: Ask, bundle: BundleFolder, parts: Division) -> CalibrationAnswers:
    """Ask a bundle that extracts, once at each of TEMPERATURES."""
    fit, tuning = _fit_records(ask, bundle, parts.tuning)
    proving = ask(bundle.at_temperature(fit.temperature), parts.proving)
    raw_confidences = ask(bundle.at_temperature(1.0), proving.rows).confidences()
    name, sample = bundle.manifest.task.name, proving.one_of_each_family()
    subject = Subject(name, fit, tuning, tuning.confidences(), proving, raw_confidences, sample)
    return CalibrationAnswers([subject], tuning, proving)


def _fit_records(ask: Ask, bundle: BundleFolder, rows: Sequence[DataRow]) -> tuple[Fit, Answers]:
    if not rows:
        return Fit(), ask(bundle, rows)
    answers_at = [ask(bundle.at_temperature(each), rows) for each in TEMPERATURES]
    if not answers_at[0].rows:
        return Fit(), answers_at[0]
    losses = np.array([temperature.log_losses(each.confidences(), each.right) for each in answers_at])
    opposite_losses = np.array([temperature.log_losses(each.confidences(), ~each.right) for each in answers_at])
    families = answers_at[0].families()
    folds = temperature.folds_of(families)
    held_out = np.zeros(len(families))
    for fold in set(folds.tolist()):
        in_fold = folds == fold
        held_out[in_fold] = losses[_likeliest_index(losses[:, ~in_fold], opposite_losses[:, ~in_fold]), in_fold]
    best_index, index_of_one = _likeliest_index(losses, opposite_losses), TEMPERATURES.index(1.0)
    fit = temperature.measure_gain(TEMPERATURES[best_index], held_out, losses[index_of_one], families)
    return fit, answers_at[best_index if fit.kept else index_of_one]


def _likeliest_index(losses: Floats, opposite_losses: Floats) -> int:
    """Return the index of the temperature with the least loss; `opposite_losses` are for opposite verdicts."""
    doubt_share = temperature.doubt(losses.shape[1])
    return int(np.argmin(((1 - doubt_share) * losses + doubt_share * opposite_losses).mean(axis=1)))
