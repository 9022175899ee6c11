"""The answers of a bundle to its calibration rows, by the serving engine, at temperatures fitted to these rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import compress

import numpy as np
import numpy.typing as npt

from convert.calibrate import temperature
from convert.calibrate.calibration_split import GATE_ROWS_MAX, Division, family, hashed
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
    """[rows]; decide: empty, because each question has its own (`of`)."""

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

    def first(self, count: int) -> Answers:
        """Return the first answers."""
        return Answers(self.rows[:count], self.predictions[:count], self.right[:count])

    def of(self, view: QuestionView) -> Answers:
        """Return the answers to one question, for the rows that have a label for it."""
        rows, predictions = view.pairs(self.rows, self.predictions)
        right = np.fromiter(map(partial(is_right, "classify"), rows, predictions), dtype=bool)
        return Answers(rows, predictions, right)

    def one_of_each_family(self) -> Answers:
        """Return the answer to one row of each family: the row whose text has the smallest hash."""
        first: dict[str, int] = {}
        for place in sorted(range(len(self.rows)), key=lambda place: hashed(self.rows[place].key)):
            first.setdefault(family(self.rows[place]), place)
        places = sorted(first.values())
        right = self.right[places] if len(self.right) else self.right
        return Answers([self.rows[place] for place in places], [self.predictions[place] for place in places], right)


@dataclass(frozen=True)
class Subject:
    """A question, or the records of a bundle that extracts: each subject gets its own threshold."""

    name: str
    fit: Fit
    tuned: Answers
    known: Floats
    """Confidences of `tuned` at the fitted temperature, [rows]."""
    proof: Answers
    raw: Floats
    """Confidences of `proof` before the temperature, [rows]."""
    tested: Answers
    """The part of `proof` that tests the threshold: one row of each family."""


@dataclass(frozen=True)
class CalibrationAnswers:
    """All answers of a bundle to its calibration rows."""

    subjects: Sequence[Subject]
    tuned: Answers
    """The answers to the rows that fit the temperature."""
    proof: Answers
    """The answers to all other rows."""

    @property
    def every(self) -> Answers:
        """The answers to all rows, `tuned` first."""
        return self.tuned.and_also(self.proof)

    @property
    def held_out(self) -> tuple[Sequence[ServedPrediction], Sequence[ServedPrediction]]:
        """The answers whose scores make the gate, one of each family and at most GATE_ROWS_MAX: from all rows, and
        from `tuned` alone."""
        every, tuning = (each.one_of_each_family().first(GATE_ROWS_MAX) for each in (self.every, self.tuned))
        return every.predictions, tuning.predictions


Ask = Callable[[BundleFolder, Sequence[DataRow]], Answers]


def answer_rows(served: ServedBundles, bundle: BundleFolder, rows: Sequence[DataRow], progress: Progress) -> Answers:
    """Ask a bundle about rows, one at a time."""
    answers = served.predict(bundle, [row.text for row in rows], progress)
    answered = [not each.failure for each in answers]
    kept, predictions = list(compress(rows, answered)), list(compress(answers, answered))
    kind = bundle.manifest.task.kind
    if kind == "decide":
        return Answers(kept, predictions, np.zeros(0, dtype=bool))
    return Answers(kept, predictions, np.fromiter(map(partial(is_right, kind), kept, predictions), dtype=bool))


def label_answers(ask: Ask, bundle: BundleFolder, parts: Division) -> CalibrationAnswers:
    """Ask a bundle that answers questions: at temperature 1, then at the fitted temperature of each question."""
    tuned = ask(bundle, parts.tuning)
    fits = {view.name: _fit_labels(tuned.of(view), view) for view in views(bundle.manifest)}
    fitted = bundle.at_temperatures({name: fit.temperature for name, fit in fits.items()})
    proof = ask(fitted, parts.proving)
    drawn = proof.one_of_each_family()
    subjects = []
    for before, after in zip(views(bundle.manifest), views(fitted.manifest), strict=True):
        fit, known, proved = fits[before.name], tuned.of(before), proof.of(after)
        at_fitted = _best_probabilities(known.predictions, fit.temperature)
        raw = _best_probabilities(proved.predictions, 1.0)
        subjects.append(Subject(before.name, fit, known, at_fitted, proved, raw, drawn.of(after)))
    return CalibrationAnswers(subjects, tuned, proof)


def _fit_labels(answers: Answers, view: QuestionView) -> Fit:
    truth = np.array([view.question.outputs.index(row.label) for row in answers.rows], dtype=np.int64)
    return temperature.fit_checked(matrix(answers.predictions), truth, answers.families())


def _best_probabilities(predictions: Sequence[ServedPrediction], at: float) -> Floats:
    """Return the confidence of each answer at a temperature."""
    return temperature.confidences(matrix(predictions), at) if predictions else np.zeros(0)


def record_answers(ask: Ask, bundle: BundleFolder, parts: Division) -> CalibrationAnswers:
    """Ask a bundle that extracts, once at each of TEMPERATURES."""
    fit, tuned = _fit_records(ask, bundle, parts.tuning)
    proof = ask(bundle.at_temperature(fit.temperature), parts.proving)
    raw = ask(bundle.at_temperature(1.0), proof.rows).confidences()
    name, drawn = bundle.manifest.task.name, proof.one_of_each_family()
    subject = Subject(name, fit, tuned, tuned.confidences(), proof, raw, drawn)
    return CalibrationAnswers([subject], tuned, proof)


def _fit_records(ask: Ask, bundle: BundleFolder, rows: Sequence[DataRow]) -> tuple[Fit, Answers]:
    if not rows:
        return Fit(), ask(bundle, rows)
    tried = [ask(bundle.at_temperature(each), rows) for each in TEMPERATURES]
    if not tried[0].rows:
        return Fit(), tried[0]
    losses = np.array([temperature.log_losses(said.confidences(), said.right) for said in tried])
    wrong = np.array([temperature.log_losses(said.confidences(), ~said.right) for said in tried])
    families = tried[0].families()
    folds = temperature.folds_of(families)
    held_out = np.zeros(len(families))
    for fold in set(folds.tolist()):
        here = folds == fold
        held_out[here] = losses[_likeliest(losses[:, ~here], wrong[:, ~here]), here]
    best, at_one = _likeliest(losses, wrong), TEMPERATURES.index(1.0)
    fit = temperature.checked(TEMPERATURES[best], held_out, losses[at_one], families)
    return fit, tried[best if fit.kept else at_one]


def _likeliest(losses: Floats, wrong: Floats) -> int:
    """Return the index of the temperature with the least loss; `wrong` has the losses for opposite verdicts."""
    doubted = temperature.doubt(losses.shape[1])
    return int(np.argmin(((1 - doubted) * losses + doubted * wrong).mean(axis=1)))
