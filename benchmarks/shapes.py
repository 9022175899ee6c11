"""Tasks of a known risk: how often a threshold breaks its guarantee on each, and its coverage.

A shape says how a task's confidences are distributed (beta) and how likely an answer is wrong at each of them, so the
true risk and coverage of a threshold are known without rows. Rows may come in families: two rows of one have the same
confidence, and their errors a correlation (each row takes the outcome of its family with the square root of that as
probability, and one of its own otherwise).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convert.calibrate.calibration_split import TUNING_ROWS_MAX, TUNING_SHARE
from convert.calibrate.threshold import GRID, Risk, choose, start_of

Floats = npt.NDArray[np.float64]
_SAMPLE = 400_000


@dataclass(frozen=True)
class Shape:
    """A task."""

    name: str
    confidences: tuple[float, float]
    """Of a beta distribution."""
    wrong: Callable[[Floats], Floats]
    """[rows], how likely an answer of such a confidence is wrong."""

    def truth(self) -> dict[float, tuple[float, float]]:
        """Return for each threshold its true risk and coverage."""
        drawn = np.sort(np.random.default_rng(0).beta(*self.confidences, _SAMPLE))
        risks = self.wrong(drawn)
        found = {}
        for threshold in GRID:
            above = int(np.searchsorted(drawn, threshold))
            rows = _SAMPLE - above
            found[threshold] = (float(risks[above:].mean()) if rows else 0.0, rows / _SAMPLE)
        return found


SHAPES = {
    "flat, half the target": Shape("flat, half the target", (4.0, 1.0), lambda c: np.full(len(c), 0.05)),
    "the surest are the worst": Shape("the surest are the worst", (4.0, 1.0), lambda c: np.where(c > 0.97, 0.25, 0.03)),
    "graded": Shape("graded", (4.0, 1.0), lambda c: 1 - c),
    "graded, hard": Shape("graded, hard", (2.0, 1.0), lambda c: 1 - c),
    "flat, just over the target": Shape("flat, just over the target", (4.0, 1.0), lambda c: np.full(len(c), 0.1001)),
}


@dataclass(frozen=True)
class CalibrationDraws:
    """How calibration rows are drawn."""

    rows: int
    resamples: int
    family_rows: int = 1
    correlation: float = 0.0


class ShapeMeans(NamedTuple):
    """Means over the resamples."""

    broken: float
    """Share in which the threshold risks more than the target."""
    covered: float
    """Share of the rows that it lets through."""
    oracle: float
    """The same of the best threshold there is."""


Answers = tuple[Floats, npt.NDArray[np.bool_]]
"""Confidence of each row, and whether it was right."""
Rule = Callable[[Answers, Answers, Risk], float | None]
"""From tuning rows and proving rows to a threshold."""


def with_start(tuning: Answers, proving: Answers, risk: Risk) -> float | None:
    """Choose as the calibrate stage does."""
    return choose(*proving, risk, start=start_of(proving[0], tuning, risk)).threshold


def from_the_strictest(_tuning: Answers, proving: Answers, risk: Risk) -> float | None:
    """Choose as version 0.1 did."""
    return choose(*proving, risk).threshold


def measure(
    shape: Shape, draws: CalibrationDraws, risk: Risk, rule: Rule = with_start, *, one_each: bool = True
) -> ShapeMeans:
    """Draw, calibrate and look up, `resamples` times; `one_each`: of each family one row is tested."""
    rng, truth = np.random.default_rng(1), shape.truth()
    broken, covered = 0, 0.0
    for _ in range(draws.resamples):
        confidences, right = _drawn(shape, draws, rng)
        families = min(round(TUNING_SHARE * draws.rows), TUNING_ROWS_MAX) // draws.family_rows
        tuning = (confidences[:families].ravel(), right[:families].ravel())
        kept = slice(1) if one_each else slice(None)
        proving = (confidences[families:, kept].ravel(), right[families:, kept].ravel())
        chosen = rule(tuning, proving, risk)
        if chosen is not None:
            broken += truth[chosen][0] > risk.target
            covered += truth[chosen][1]
    oracle = max(itertools.chain([0.0], (share for over, share in truth.values() if over <= risk.target)))
    return ShapeMeans(broken / draws.resamples, covered / draws.resamples, oracle)


def _drawn(shape: Shape, draws: CalibrationDraws, rng: np.random.Generator) -> Answers:
    """Return confidences and whether the answers are right, [families, rows of each]."""
    families = draws.rows // draws.family_rows
    confidences = np.repeat(rng.beta(*shape.confidences, families)[:, None], draws.family_rows, axis=1)
    wrong = shape.wrong(confidences.ravel()).reshape(confidences.shape)
    alike = rng.random((families, 1)) < wrong[:, :1]
    own = rng.random(confidences.shape) < wrong
    takes = rng.random(confidences.shape) < draws.correlation**0.5
    return confidences, ~np.where(takes, alike, own)
