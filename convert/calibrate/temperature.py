"""The temperature that makes scores readable as probabilities (Guo et al. 2017, arXiv 1706.04599). Pure.

One number, fitted by maximum likelihood. It leaves the best label where it is.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

# Where every row of the fit is right the likeliest temperature is 0, and would call everything certain.
LOWEST, HIGHEST = 0.25, 10.0
# With fewer rows the fit would mostly show which rows these are.
ROWS_MIN = 30
# The manifest carries what was calibrated with, to the last digit.
_DIGITS = 4
_BINS = 10


def fit(log_probabilities: Floats, truth: Integers) -> float:
    """Return the temperature under which the true labels are likeliest; 1 with fewer than ROWS_MIN rows.

    Args:
        log_probabilities: [rows, labels], at temperature 1.
        truth: [rows], index of the true label.
    """
    if len(truth) < ROWS_MIN:
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = scaled_log(log_probabilities, math.exp(log_temperature))
        return -float(scaled[np.arange(len(truth)), truth].mean())

    found = minimize_scalar(loss, bounds=(math.log(LOWEST), math.log(HIGHEST)), method="bounded")
    return round(math.exp(found.x), _DIGITS)


def scaled_log(log_probabilities: Floats, temperature: float) -> Floats:
    """Return the log-softmax of [rows, labels] divided by the temperature."""
    scaled = log_probabilities / temperature
    peaks = scaled.max(axis=1, keepdims=True)
    return np.asarray(scaled - peaks - np.log(np.exp(scaled - peaks).sum(axis=1, keepdims=True)))


def confidences(log_probabilities: Floats, temperature: float) -> Floats:
    """Return the probability of the best label, [rows]."""
    return np.asarray(np.exp(scaled_log(log_probabilities, temperature).max(axis=1)))


def log_loss(confidence: Floats, right: Flags) -> float:
    """Return the mean negative log-likelihood, in nats, of answers being right with their confidence as probability."""
    sure = np.clip(confidence, 1e-12, 1 - 1e-12)
    return -float(np.where(right, np.log(sure), np.log1p(-sure)).mean())


def reliability(confidence: Floats, right: Flags) -> list[dict[str, float]]:
    """Return, for each tenth of confidence that has rows: their number, mean confidence and share of right answers."""
    places = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    inside = [(place, places == place) for place in sorted(set(places.tolist()))]
    return [
        {
            "from": place / _BINS,
            "rows": int(here.sum()),
            "confidence": float(confidence[here].mean()),
            "right": float(right[here].mean()),
        }
        for place, here in inside
    ]


def calibration_error(bins: list[dict[str, float]]) -> float:
    """Return the expected calibration error of `reliability`: the mean gap, weighted by rows."""
    rows = sum(each["rows"] for each in bins)
    return sum(each["rows"] * abs(each["confidence"] - each["right"]) for each in bins) / rows if rows else math.nan
