"""How often a threshold breaks its risk guarantee: repeated calibration on rows drawn from a population.

Each resample draws calibration rows with replacement, fits a temperature on a part of them and tests thresholds on the
rest, as the calibrate stage does. What a threshold really risks and covers is then known exactly: it is counted on the
whole population, which is the test of every resample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from convert.calibrate import temperature
from convert.calibrate.calibration_split import TUNING_ROWS_MAX, TUNING_SHARE
from convert.calibrate.threshold import Risk, choose, lowest_below, start_of

RESAMPLES, SEED = 1000, 1

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Population:
    """A bundle's answers to rows that it was not trained on, and the index of each right label."""

    log_probabilities: Floats
    truth: Integers

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Which of its best labels are right."""
        return np.asarray(self.log_probabilities.argmax(axis=1) == self.truth)


class ResampleMeans(NamedTuple):
    """Means over the resamples."""

    broken: float
    """Share in which the rule's threshold risks more than the target."""
    naive: float
    """The same of the lowest threshold that kept the target on the calibration rows."""
    covered: float
    """Share of the rows that the rule's threshold lets through."""
    oracle: float
    """The same of the best threshold there is for the population."""


def resample(population: Population, risk: Risk, calibration_rows: int) -> ResampleMeans:
    """Draw, calibrate and count, RESAMPLES times."""
    rng = np.random.default_rng(SEED)
    drawn = [
        _once(population, risk, rng.integers(0, len(population.truth), calibration_rows)) for _ in range(RESAMPLES)
    ]
    return ResampleMeans(*np.array(drawn).mean(axis=0).tolist())


def broken_max(risk: Risk) -> float:
    """Return the largest share of broken targets that agrees with the guarantee: delta and two standard errors."""
    return round(risk.delta + 2 * math.sqrt(risk.delta * (1 - risk.delta) / RESAMPLES), 4)


def _once(population: Population, risk: Risk, rows: Integers) -> tuple[float, float, float, float]:
    log_probabilities, truth, right = population.log_probabilities, population.truth, population.right
    tuning = min(round(TUNING_SHARE * len(rows)), TUNING_ROWS_MAX)
    fitted = temperature.fit(log_probabilities[rows[:tuning]], truth[rows[:tuning]])
    confidences, proving = temperature.confidences(log_probabilities, fitted), rows[tuning:]
    start = start_of(confidences[proving], (confidences[rows[:tuning]], right[rows[:tuning]]), risk)
    chosen = choose(confidences[proving], right[proving], risk, start=start).threshold
    lowest = lowest_below(confidences[proving], right[proving], risk.target)
    best = lowest_below(confidences, right, risk.target)
    return (
        _risk(chosen, confidences, right) > risk.target,
        _risk(lowest, confidences, right) > risk.target,
        _coverage(chosen, confidences),
        _coverage(best, confidences),
    )


def _coverage(threshold: float | None, confidences: Floats) -> float:
    return 0.0 if threshold is None else float((confidences >= threshold).mean())


def _risk(threshold: float | None, confidences: Floats, right: npt.NDArray[np.bool_]) -> float:
    sure = confidences >= (2.0 if threshold is None else threshold)
    return float((~right[sure]).mean()) if sure.any() else 0.0
