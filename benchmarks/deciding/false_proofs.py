"""How often any threshold of a bundle with several questions is proved falsely, by resamples with a known risk.

Each question is as bad as can be: whatever the confidence, a little more of its answers are wrong than the target
allows (benchmarks/shapes.py). So each threshold that is proved is a false proof. The answers come from here instead of
from an engine; what divides the rows, fits temperatures, divides delta and tests thresholds is the calibrate stage. The
questions are answered by different shares of the rows, one of them by too few for any proof; rows are independent, or
of families of four that tend to be right or wrong together.

Beside it stands the same with the whole delta for each question, which is no rule of ours: it shows that these
resamples find a rule that breaks its promise.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.bars import Bar
from benchmarks.resampling import RESAMPLES, broken_max
from benchmarks.shapes import SHAPES, Floats
from convert.calibrate.calibrate_stage import choose_each
from convert.calibrate.calibration_answers import Answers, label_answers
from convert.calibrate.calibration_split import divide_rows
from convert.calibrate.gate import Conditions
from convert.calibrate.threshold import Risk
from convert.data.data_row import DataRow, RowAnswer
from convert.evaluate.predictions import ServedPrediction
from convert.evaluate.serving import BundleFolder
from edge_agent.formats.manifest import Manifest
from tests.support.bundles import fields_of

RISK = Risk(target=0.1, delta=0.1)
ROWS = 400
ANSWERED = {"intent": 1.0, "urgent": 1.0, "personal": 0.8, "department": 0.6, "severity": 0.4, "rare": 0.01}
"""Question: share of the calibration rows that answer it."""
PROVABLE = 5
"""Questions with rows enough for a proof."""
FAMILY_ROWS, CORRELATION = 4, 0.6
CHUNKS = 8
"""Of the resamples, which the processors share; each has a seed of its own."""
LABELS = ("no", "yes")


@dataclass(frozen=True)
class Resample:
    """One resample."""

    rows: Sequence[DataRow]
    """Their texts are their places."""
    yes: Floats
    """The probability of yes at temperature 1, [rows, questions]."""

    def answers(self, bundle: BundleFolder, rows: Sequence[DataRow]) -> Answers:
        """Answer rows at the temperatures of a bundle, as `answer_rows` does by an engine."""
        places = [int(row.text) for row in rows]
        heat = np.array([bundle.manifest.confidence_of(name).temperature for name in ANSWERED])
        odds = np.log(self.yes[places]) - np.log1p(-self.yes[places])
        yes = 1 / (1 + np.exp(-odds / heat))
        scores = np.stack([1 - yes, yes], axis=-1).tolist()
        said = [ServedPrediction(question_scores=tuple(map(tuple, each))) for each in scores]
        return Answers(rows, said, np.zeros(0, dtype=np.bool_))


def measure() -> Iterator[Bar]:
    """Draw, calibrate, and count the bundles with a threshold."""
    limit, whole = broken_max(RISK), Risk(RISK.target, RISK.delta * PROVABLE)
    yield Bar("false proofs over all questions of a bundle", _broken(RISK), limit, "lower")
    kind = f"families of {FAMILY_ROWS} at {CORRELATION:g}"
    yield Bar(f"the same, {kind}", _broken(RISK, FAMILY_ROWS), limit, "lower")
    yield Bar("the same with the whole delta for each question", _broken(whole), limit, "higher")


def _broken(risk: Risk, family_rows: int = 1) -> float:
    """Return the share of resamples in which some question has a threshold."""
    with ProcessPoolExecutor() as pool:
        counts = pool.map(partial(_broken_of, risk, family_rows), range(CHUNKS))
        return round(sum(counts) / RESAMPLES, 4)


def _broken_of(risk: Risk, family_rows: int, seed: int) -> int:
    """Return how many resamples of one chunk have a threshold."""
    rng = np.random.default_rng(seed)
    bundle = BundleFolder(Path(), _manifest(), b"", {})
    broken = 0
    for _ in range(RESAMPLES // CHUNKS):
        drawn = _drawn(rng, family_rows)
        subjects = label_answers(drawn.answers, bundle, divide_rows(drawn.rows)).subjects
        _, _, choices = choose_each(subjects, Conditions(None, 0.0), risk)
        broken += any(each.threshold is not None for each in choices.values())
    return broken


def _drawn(rng: np.random.Generator, family_rows: int) -> Resample:
    """Draw rows: of a family all have the same confidences, and their errors the correlation."""
    shape, size = SHAPES["flat, just over the target"], (ROWS // family_rows, len(ANSWERED))
    sure = np.repeat(0.5 + 0.5 * rng.beta(*shape.confidences, size), family_rows, axis=0)  # of two answers the likelier
    wrong_share = shape.wrong(sure.ravel()).reshape(sure.shape)
    wrong = rng.random(sure.shape) < wrong_share
    if family_rows > 1:
        alike = np.repeat(rng.random(size), family_rows, axis=0) < wrong_share
        wrong = np.where(rng.random(sure.shape) < CORRELATION**0.5, alike, wrong)
    says_yes = rng.random(sure.shape) < 0.5
    there = rng.random(sure.shape) < np.array(list(ANSWERED.values()))
    rows = [
        DataRow(str(place), family=str(place // family_rows), answers=_labels(right, asked))
        for place, (right, asked) in enumerate(zip(says_yes ^ wrong, there, strict=True))
    ]
    return Resample(rows, np.where(says_yes, sure, 1 - sure))


def _labels(right: npt.NDArray[np.bool_], asked: npt.NDArray[np.bool_]) -> tuple[RowAnswer, ...]:
    found = (RowAnswer(name, LABELS[yes]) for name, yes in zip(ANSWERED, right.tolist(), strict=True))
    return tuple(itertools.compress(found, asked))


def _manifest() -> Manifest:
    fields: dict[str, Any] = fields_of("echo", "bench", "decide")
    fields["task"]["questions"] = [
        {"name": name, "type": "predicate", "instructions": "Is it?", "labels": []} for name in ANSWERED
    ]
    return Manifest.model_validate(fields)
