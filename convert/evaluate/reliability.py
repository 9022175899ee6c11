"""Compares confidence with the share of right answers, in bins with intervals. Pure.

Bins have about the same number of rows (Nguyen and O'Connor 2015, arXiv 1508.05154), because bins of equal width would
have most rows at the top. Rows with the same confidence share a bin.

The calibration error is the mean gap between confidence and share of right answers, weighted by rows. Its interval
bounds the joint error of the gaps: by the triangle inequality the true calibration error is within it, even if the true
error is 0, where a bootstrap of the error itself fails.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.clustered_statistics import LEVEL, Floats, Interval, Numbers, clustered_share

BINS_MAX = 10
BIN_FAMILIES_MIN = 20
"""Smallest number of families in a bin, because rows of one family tend to be right or wrong together."""
_RESAMPLES = 1000
_SEED = 20261128
_CELLS_AT_ONCE = 2_000_000

Flags = npt.NDArray[np.bool_]


def reliability(confidence: Floats, right: Flags, families: Numbers) -> dict[str, Any]:
    """Return `bins` (from, to, rows, confidence, right with its interval), `calibration_error` with its interval, and
    `note`: a sentence if the bins show little."""
    places = bin_places(confidence, families)
    bins = []
    for place in range(int(places.max(initial=-1)) + 1):
        here = places == place
        inside = confidence[here]
        bins.append(
            {
                "from": float(inside.min()),
                "to": float(inside.max()),
                "rows": int(here.sum()),
                "confidence": float(inside.mean()),
                "right": clustered_share(right[here], families[here]).plain(),
            }
        )
    error = _error(gaps_of(confidence, right, families, places), confidence, places)
    return {"bins": bins, "calibration_error": error.plain(), "note": _note(confidence, len(bins))}


def bin_places(confidence: Floats, families: Numbers) -> Numbers:
    """Return the bin of each row, numbered from 0: BINS_MAX of similar size, fewer if families or different confidences
    are few."""
    bins = max(1, min(BINS_MAX, len(np.unique(families)) // BIN_FAMILIES_MIN))
    ranks = np.searchsorted(np.sort(confidence), confidence, "left")
    return np.unique(ranks * bins // max(1, len(confidence)), return_inverse=True)[1].astype(np.int64)


def gaps_of(confidence: Floats, right: Flags, families: Numbers, places: Numbers) -> Floats:
    """Return the contribution of each family to each bin's sum of confidence minus right answers, [families, bins]."""
    sums = np.zeros((int(families.max(initial=-1)) + 1, int(places.max(initial=-1)) + 1))
    np.add.at(sums, (families, places), confidence - right)
    return sums


def _error(gaps: Floats, confidence: Floats, places: Numbers) -> Interval:
    rows = len(confidence)
    if not rows:
        return Interval(math.nan, 0.0, 1.0, LEVEL)
    value = float(np.abs(gaps.sum(axis=0)).sum()) / rows
    inside = (gaps != 0.0).astype(np.float64)
    number = np.maximum(1.0, inside.sum(axis=0))
    off = gaps - inside * (gaps.sum(axis=0) / number)
    # A bin without a wrong answer has almost no variance: at least that of a calibrated confidence is used.
    expected = np.bincount(places, confidence * (1 - confidence)) + 0.25
    spread = np.maximum((off**2).sum(axis=0), expected) * number / np.maximum(1.0, number - 1)
    off *= np.sqrt(spread / np.maximum(1e-12, (off**2).sum(axis=0)))
    reach = float(np.quantile(_resampled(off), LEVEL)) / rows
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), LEVEL)


def _resampled(off: Floats) -> Floats:
    """Return the sums of the bins' absolute errors with a random sign for each family, [resamples]."""
    drawn, found = np.random.default_rng(_SEED), []
    step = max(1, _CELLS_AT_ONCE // len(off))
    for start in range(0, _RESAMPLES, step):
        signs = 2.0 * drawn.integers(0, 2, (min(step, _RESAMPLES - start), len(off)), dtype=np.int8) - 1.0
        found.append(np.abs(signs @ off).sum(axis=1))
    return np.concatenate(found)


def _note(confidence: Floats, bins: int) -> str:
    rows = len(confidence)
    if not rows:
        return "No row was answered, so the confidence cannot be judged."
    if len(np.unique(confidence)) == 1:
        return (
            f"All {rows} answers have the same confidence, {confidence[0]:.3f}: it does not distinguish right from"
            " wrong answers."
        )
    if bins == 1:
        return f"{rows} rows are too few for bins: each needs at least {BIN_FAMILIES_MIN} families of rows."
    return ""
