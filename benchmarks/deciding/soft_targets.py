"""What a student learns from a teacher's distributions instead of its labels, on the same rows.

    python -m benchmarks.decisions --part soft-targets [--data FOLDER]

Data: a data set in FOLDER as scripts/bench public reads it, or else the descriptions of food of benchmarks/calibration.
The teacher is a linear classifier on MiniLM's vectors, fitted to more than half of the labelled rows, with a
temperature of its own. The students are such classifiers, too, as `finetune` fits them to begin with, and see
STUDENT_ROWS other rows: one the teacher's distributions, one its likeliest labels, one people's labels. For each the
weight decay is the one of DECAYS with the least log loss on the calibration rows, on which its temperature is fitted
then: the same rows and the same rule for all. The rest of the rows is the test. Training of a whole encoder, which
takes hours for as many repeats, is not measured here.

Bars: the expected calibration error as served, with the temperature, of the student of distributions beside that of the
teacher's labels; and how much lower its accuracy is, in standard errors of the difference. People's labels are another
matter, as no teacher gives them, and are reported.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import calibration
from benchmarks.bars import Bar
from benchmarks.public_data import PublicData
from convert.calibrate import temperature
from convert.encoder import logistic_regression
from convert.encoder.logistic_regression import Floats, Integers
from convert.encoder.sentence_embeddings import sentence_vectors
from convert.evaluate.quality_metrics import reliability
from convert.evaluate.serving import quiet
from tests.support import models

ROWS_MAX = 10_000
STUDENT_ROWS, CALIBRATION_ROWS = 1000, 1000
TEACHER_SHARE = 0.6
"""Of the other rows; the test has the rest."""
TEACHER_DECAY = 3e-4
DECAYS = (3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
SEEDS = 5
ERROR_MAX, LOSS_MAX = 0.8, 1.0
STUDENTS = ("distributions", "teacher's labels", "people's labels")
"""What the students learn."""


@dataclass(frozen=True)
class LabeledVectors:
    """Texts as vectors, with the number of the label."""

    vectors: Floats
    truth: Integers
    labels: int

    def of(self, rows: Integers) -> LabeledVectors:
        """Return some rows."""
        return LabeledVectors(self.vectors[rows], self.truth[rows], self.labels)


class Student(NamedTuple):
    """The answers of one student to the test rows."""

    rows: Integers
    """[rows], the number of each row in the data."""
    served: Floats
    """[rows], the confidence with the temperature."""
    raw: Floats
    """The same without it."""
    right: npt.NDArray[np.bool_]


def measure(data: PublicData | None = None) -> Iterator[Bar]:
    """Teach SEEDS times, each time with other rows, and compare."""
    rows = _labelled(data)
    runs = [_taught(rows, np.random.default_rng(seed)) for seed in range(SEEDS)]
    errors = {}
    for name in STUDENTS:
        # The bins are of all runs together: one run has too few rows to tell such small errors from chance.
        said = Student(*map(np.concatenate, zip(*(run[name] for run in runs), strict=True)))
        errors[name] = _error(said.served, said)
        yield Bar(f"calibration error, {name}", round(errors[name], 4), None, "lower")
        yield Bar(f"the same without temperature, {name}", round(_error(said.raw, said), 4), None, "lower")
        yield Bar(f"accuracy, {name}", round(float(said.right.mean()), 4), None, "higher")
    soft, hard, people = (errors[name] for name in STUDENTS)
    yield Bar("soft targets / people's labels, calibration error", round(soft / people, 3), None, "lower")
    yield Bar("soft targets / hard targets, calibration error", round(soft / hard, 3), ERROR_MAX, "lower")
    yield Bar("soft targets, accuracy lost, standard errors", round(_lost(runs), 2), LOSS_MAX, "lower")


def _error(confidence: Floats, said: Student) -> float:
    value: float = reliability(confidence, said.right, said.rows)["calibration_error"]["value"]
    return value


def _lost(runs: list[dict[str, Student]]) -> float:
    """Return how much accuracy distributions cost, in standard errors of a run: the runs share rows, so those of their
    mean would be too small."""
    soft, hard, _ = STUDENTS
    lost = [run[hard].right.astype(float) - run[soft].right for run in runs]
    error = np.mean([each.std(ddof=1) / math.sqrt(len(each)) for each in lost])
    return float(np.mean([each.mean() for each in lost]) / error)


def _labelled(data: PublicData | None) -> LabeledVectors:
    if data is None:
        pairs = calibration.descriptions()
    else:
        pairs = [*data.train, *data.calibration, *data.test]
        np.random.default_rng(0).shuffle(pairs)
    pairs = pairs[:ROWS_MAX]
    labels = sorted({label for _, label in pairs})
    place = {label: number for number, label in enumerate(labels)}
    vectors = sentence_vectors(models.minilm_dir(), [text for text, _ in pairs], quiet)
    return LabeledVectors(vectors.astype(np.float64), np.array([place[label] for _, label in pairs]), len(labels))


def _taught(rows: LabeledVectors, rng: np.random.Generator) -> dict[str, Student]:
    """Teach each student; the same rows for all."""
    order = rng.permutation(len(rows.truth))
    student, tuning, others = np.split(order, np.cumsum([STUDENT_ROWS, CALIBRATION_ROWS]))
    known, test = np.split(others, [round(TEACHER_SHARE * len(others))])
    seen, tuned, unseen = rows.of(student), rows.of(tuning), rows.of(test)
    teacher = logistic_regression.fit(rows.vectors[known], rows.truth[known], rows.labels, TEACHER_DECAY)
    heat = temperature.fit(teacher.log_probabilities(tuned.vectors), tuned.truth)
    told = np.exp(temperature.scaled_log(teacher.log_probabilities(seen.vectors), heat))
    sure = np.eye(rows.labels)
    targets = (told, sure[told.argmax(axis=1)], sure[seen.truth])
    students = (_student(seen, wanted, tuned, unseen) for wanted in targets)
    return {name: Student(test, *each) for name, each in zip(STUDENTS, students, strict=True)}


def _student(
    seen: LabeledVectors, wanted: Floats, tuned: LabeledVectors, test: LabeledVectors
) -> tuple[Floats, Floats, npt.NDArray[np.bool_]]:
    """Fit a student with the best decay, and its temperature; return its predictions for the test rows."""
    fitted = [logistic_regression.fit_shares(seen.vectors, wanted, decay) for decay in DECAYS]
    best = min(fitted, key=lambda each: _loss(each.log_probabilities(tuned.vectors), tuned.truth))
    heat = temperature.fit(best.log_probabilities(tuned.vectors), tuned.truth)
    said = best.log_probabilities(test.vectors)
    served, raw = temperature.confidences(said, heat), temperature.confidences(said, 1.0)
    return served, raw, said.argmax(axis=1) == test.truth


def _loss(log_probabilities: Floats, truth: Integers) -> float:
    return -float(log_probabilities[np.arange(len(truth)), truth].mean())
