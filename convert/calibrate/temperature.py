"""Fits the temperature that turns scores into probabilities (Guo et al. 2017, arXiv 1706.04599). Pure.

It is one number, fitted by maximum likelihood, and does not change the best label. In each fit half a row counts as
wrong: where every row is right, the likeliest temperature is 0, which would make every answer certain (Platt 1999 does
this for two classes; with the weight of Krichevsky and Trofimov 1981).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

LOWEST, HIGHEST = 0.25, 10.0
_PSEUDO_ROWS = 0.5
# With fewer rows the fit would mostly reflect noise.
ROWS_MIN = 30
# The manifest contains the temperature with all its digits.
_DIGITS = 4
FOLDS = 5
_GAIN_ERRORS_MIN = 1.0
"""Smallest gain in log loss, in standard errors, for which a temperature is kept."""


@dataclass(frozen=True)
class Fit:
    """A fitted temperature, and its gain on rows held out of the fit."""

    tried: float = 1.0
    gain: float = 0.0
    """Reduction of the log loss of such rows compared with temperature 1, in nats per row."""
    error: float = 0.0
    """Standard error of `gain`, which treats a family as one unit."""

    @property
    def kept(self) -> bool:
        """Whether the gain is more than chance."""
        return self.gain > _GAIN_ERRORS_MIN * self.error

    @property
    def temperature(self) -> float:
        """The temperature of the bundle."""
        return self.tried if self.kept else 1.0


def fit(log_probabilities: Floats, truth: Integers) -> float:
    """Return the most likely temperature for the true labels; 1 with fewer than ROWS_MIN rows.

    Args:
        log_probabilities: [rows, labels], at temperature 1.
        truth: [rows], index of the true label.
    """
    if len(truth) < ROWS_MIN:
        return 1.0
    rows, doubt_share = np.arange(len(truth)), doubt(len(truth))
    others = log_probabilities.copy()
    others[rows, truth] = -np.inf
    rival = others.argmax(axis=1)

    def loss(log_temperature: float) -> float:
        scaled = scaled_log(log_probabilities, math.exp(log_temperature))
        return -float(((1 - doubt_share) * scaled[rows, truth] + doubt_share * scaled[rows, rival]).mean())

    optimum = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(optimum.x), _DIGITS)


def doubt(rows: int) -> float:
    """Return the share of each row that counts as wrong in a fit of `rows` rows."""
    return _PSEUDO_ROWS / (rows + 2 * _PSEUDO_ROWS)


def folds_of(families: Integers) -> Integers:
    """Return the fold of each row: families as a whole, in turn."""
    _, first, numbers = np.unique(families, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first))[numbers] % FOLDS)


def fit_and_measure(log_probabilities: Floats, truth: Integers, families: Integers) -> Fit:
    """Fit a temperature, and measure it by cross-validation: each fold with the temperature of the others."""
    if len(truth) < ROWS_MIN:
        return Fit()
    folds, rows = folds_of(families), np.arange(len(truth))
    held_out = np.zeros(len(truth))
    for fold in set(folds.tolist()):
        in_fold = folds == fold
        scaled = scaled_log(log_probabilities[in_fold], fit(log_probabilities[~in_fold], truth[~in_fold]))
        held_out[in_fold] = -scaled[rows[: len(scaled)], truth[in_fold]]
    losses_at_one = -scaled_log(log_probabilities, 1.0)[rows, truth]
    return measure_gain(fit(log_probabilities, truth), held_out, losses_at_one, families)


def measure_gain(tried: float, held_out: Floats, losses_at_one: Floats, families: Integers) -> Fit:
    """Return a temperature with its gain, from the losses of rows held out of its fit and at temperature 1."""
    gains = losses_at_one - held_out
    numbers = np.unique(families, return_inverse=True)[1]
    sums = np.bincount(numbers, gains - gains.mean())
    error = math.sqrt(len(sums) / max(1, len(sums) - 1) * float((sums**2).sum())) / len(gains)
    return Fit(tried, float(gains.mean()), error)


def scaled_log(log_probabilities: Floats, temperature: float) -> Floats:
    """Return the log-softmax of [rows, labels] divided by the temperature."""
    scaled = log_probabilities / temperature
    peaks = scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - peaks - np.log(np.exp(scaled - peaks).sum(axis=1, keepdims=True)))


def confidences(log_probabilities: Floats, temperature: float) -> Floats:
    """Return the probability of the best label, [rows]."""
    return np.asarray(np.exp(scaled_log(log_probabilities, temperature).max(axis=1)))


def log_losses(confidence: Floats, right: Flags) -> Floats:
    """Return the negative log-likelihood, in nats, of each answer being right with its confidence as probability."""
    clipped = np.clip(confidence, 1e-12, 1 - 1e-12)
    return np.asarray(-np.where(right, np.log(clipped), np.log1p(-clipped)))
