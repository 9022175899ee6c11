"""A linear classifier on vectors: multinomial logistic regression with weight decay. Pure.

Ten thousand rows take seconds. It initializes a new classification head (Kumar et al. 2022, arXiv 2202.10054), finds
likely label errors in `dataset.label_review`, and is the baseline for a fine-tuned encoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

DECAY = 3e-3
_ROUNDS_MAX = 150
# Tolerance of the loss: further iterations change no answer.
_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LinearClassifier:
    """Weights [labels, size] and bias [labels], for the original vectors."""

    weight: Floats
    bias: Floats

    def log_probabilities(self, vectors: npt.ArrayLike) -> Floats:
        """Return [rows, labels]."""
        return np.asarray(log_softmax(np.asarray(vectors) @ self.weight.T + self.bias, axis=1))


def fit(vectors: npt.ArrayLike, truth: Integers, labels: int, decay: float = DECAY) -> LinearClassifier:
    """Fit by L-BFGS on labels; see `fit_shares`.

    Args:
        vectors: [rows, size].
        truth: [rows], the number of the label.
        labels: how many labels there are; a label without rows becomes improbable.
        decay: of the weights.
    """
    return fit_shares(vectors, np.eye(labels)[truth], decay)


def fit_shares(
    vectors: npt.ArrayLike, targets: Floats, decay: float = DECAY, weights: npt.ArrayLike = 1.0
) -> LinearClassifier:
    """Fit by L-BFGS on distributions, by their cross-entropy.

    Args:
        vectors: [rows, size]; they are centred, and scaled by one number, for the fit.
        targets: [rows, labels], the probability of each label.
        decay: of the weights, not of the bias, relative to the mean loss of a row.
        weights: [labels], the weight of each label in the loss.
    """
    inputs, labels = np.asarray(vectors, np.float64), targets.shape[1]
    centre = inputs.mean(axis=0)
    scale = (inputs - centre).std() or 1.0
    features = (inputs - centre) / scale
    weighted = targets * np.asarray(weights, np.float64)
    weighted /= weighted.sum()
    rows = weighted.sum(axis=1, keepdims=True)

    def loss(flat: Floats) -> tuple[float, Floats]:
        bias, weight = flat[:labels], flat[labels:].reshape(labels, -1)
        logs = log_softmax(features @ weight.T + bias, axis=1)
        residuals = rows * np.exp(logs) - weighted
        total = -float((logs * weighted).sum()) + 0.5 * decay * float((weight**2).sum())
        return total, np.concatenate([residuals.sum(axis=0), (residuals.T @ features + decay * weight).ravel()])

    start = np.zeros(labels * (1 + features.shape[1]))
    options = {"maxiter": _ROUNDS_MAX, "ftol": _TOLERANCE}
    solution = minimize(loss, start, jac=True, method="L-BFGS-B", options=options).x
    weight = solution[labels:].reshape(labels, -1) / scale
    return LinearClassifier(weight, solution[:labels] - weight @ centre)
