"""Figures of a version on labelled rows, and of two versions on the same rows; reliability of confidence.

Bins have about the same number of rows (Nguyen and O'Connor 2015, arXiv 1508.05154), because bins of equal width would
have most rows at the top. Rows with the same confidence share a bin.

The calibration error is the mean gap between confidence and share of right answers, weighted by rows. Its interval
bounds the joint error of the gaps: by the triangle inequality the true calibration error is within it, even if the true
error is 0, where a bootstrap of the error itself fails.

For one version: accuracy, coverage (the share of confident answers), realised risk (the share of wrong ones among
these), calibration error, and the same per label; each with its interval. For two versions: the differences, with
intervals and paired tests. Intervals and tests account for families (convert/clustered_statistics.py). Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from convert.clustered_statistics import (
    LEVEL,
    Floats,
    Interval,
    Numbers,
    clustered_difference,
    clustered_share,
    difference_of,
    exchange_p_value,
    holm,
    paired_p_value,
)

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
    bin_numbers = number_bins(confidence, families)
    bins = []
    for number in range(int(bin_numbers.max(initial=-1)) + 1):
        in_bin = bin_numbers == number
        confidences = confidence[in_bin]
        bins.append(
            {
                "from": float(confidences.min()),
                "to": float(confidences.max()),
                "rows": int(in_bin.sum()),
                "confidence": float(confidences.mean()),
                "right": clustered_share(right[in_bin], families[in_bin]).plain(),
            }
        )
    error = _error(gaps_of(confidence, right, families, bin_numbers), confidence, bin_numbers)
    return {"bins": bins, "calibration_error": error.plain(), "note": _note(confidence, len(bins))}


def number_bins(confidence: Floats, families: Numbers) -> Numbers:
    """Return the bin of each row, numbered from 0: BINS_MAX of similar size, fewer if families or different confidences
    are few."""
    bins = max(1, min(BINS_MAX, len(np.unique(families)) // BIN_FAMILIES_MIN))
    ranks = np.searchsorted(np.sort(confidence), confidence, "left")
    return np.unique(ranks * bins // max(1, len(confidence)), return_inverse=True)[1].astype(np.int64)


def gaps_of(confidence: Floats, right: Flags, families: Numbers, bin_numbers: Numbers) -> Floats:
    """Return the contribution of each family to each bin's sum of confidence minus right answers, [families, bins]."""
    sums = np.zeros((int(families.max(initial=-1)) + 1, int(bin_numbers.max(initial=-1)) + 1))
    np.add.at(sums, (families, bin_numbers), confidence - right)
    return sums


def _error(gaps: Floats, confidence: Floats, bin_numbers: Numbers) -> Interval:
    rows = len(confidence)
    if not rows:
        return Interval(math.nan, 0.0, 1.0, LEVEL)
    value = float(np.abs(gaps.sum(axis=0)).sum()) / rows
    contributes = (gaps != 0.0).astype(np.float64)
    families_of_bin = np.maximum(1.0, contributes.sum(axis=0))
    deviations = gaps - contributes * (gaps.sum(axis=0) / families_of_bin)
    # A bin without a wrong answer has almost no variance: at least that of a calibrated confidence is used.
    expected = np.bincount(bin_numbers, confidence * (1 - confidence)) + 0.25
    spread = np.maximum((deviations**2).sum(axis=0), expected) * families_of_bin / np.maximum(1.0, families_of_bin - 1)
    deviations *= np.sqrt(spread / np.maximum(1e-12, (deviations**2).sum(axis=0)))
    reach = float(np.quantile(_resample(deviations), LEVEL)) / rows
    return Interval(value, max(0.0, value - reach), min(1.0, value + reach), LEVEL)


def _resample(deviations: Floats) -> Floats:
    """Return the sums of the bins' absolute errors with a random sign for each family, [resamples]."""
    generator, sums = np.random.default_rng(_SEED), []
    step = max(1, _CELLS_AT_ONCE // len(deviations))
    for start in range(0, _RESAMPLES, step):
        signs = 2.0 * generator.integers(0, 2, (min(step, _RESAMPLES - start), len(deviations)), dtype=np.int8) - 1.0
        sums.append(np.abs(signs @ deviations).sum(axis=1))
    return np.concatenate(sums)


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


CHANCE_MAX = 0.05
"""Significance level of a difference, for p-values adjusted for the number of tests."""
_HIGHER_IS_BETTER = {"accuracy": True, "coverage": True, "wrong": False, "calibration_error": False}
RowHit = tuple[int, bool]
"""The row of an entity or label, and whether it was found."""


@dataclass(frozen=True)
class AnswerOutcomes:
    """The answers of a version to labelled rows, [rows] each."""

    right: Flags
    confident: Flags
    """At or above the threshold; False for a version without one, or without an answer."""
    confidence: Floats
    """NaN if the answer failed, or the task has no confidence."""
    families: Numbers
    labels: Sequence[str] = ()
    """classify: the true labels."""
    held_up: Flags | None = None
    """By the gate; None = the version has no gate."""

    def only(self, rows: Flags) -> AnswerOutcomes:
        """Return the answers of some rows."""
        labels = [label for label, keep in zip(self.labels, rows.tolist(), strict=True) if keep] if self.labels else ()
        return AnswerOutcomes(
            self.right[rows],
            self.confident[rows],
            self.confidence[rows],
            self.families[rows],
            labels,
            None if self.held_up is None else self.held_up[rows],
        )


def headline(outcomes: AnswerOutcomes) -> dict[str, Any]:
    """Return `rows`, `families`, `accuracy`, `coverage`, `wrong`; `held_up` if there is a gate, and `calibration` if
    answers have a confidence."""
    has_confidence = ~np.isnan(outcomes.confidence)
    report: dict[str, Any] = {
        "rows": len(outcomes.right),
        "families": len(np.unique(outcomes.families)),
        "accuracy": clustered_share(outcomes.right, outcomes.families).plain(),
        **_selective(outcomes),
    }
    if has_confidence.any():
        answered = outcomes.only(has_confidence)
        report["calibration"] = reliability(answered.confidence, answered.right, answered.families)
    return report


def _selective(outcomes: AnswerOutcomes) -> dict[str, Any]:
    confident = outcomes.confident
    figures = {
        "coverage": clustered_share(confident, outcomes.families).plain(),
        "wrong": clustered_share(~outcomes.right[confident], outcomes.families[confident]).plain(),
    }
    if outcomes.held_up is not None:
        figures["held_up"] = clustered_share(outcomes.held_up, outcomes.families).plain()
    return figures


def label_figures(expected: Sequence[RowHit], predicted: Sequence[RowHit], families: Numbers) -> dict[str, Any]:
    """Return rows, precision, recall and F1 of a label, with intervals, from true and predicted places.

    F1 = 2 J / (1 + J) where J is the share of hits among the places of either; so is its interval.
    """
    overlap = hit_share([*expected, *(hit for hit in predicted if not hit[1])], families)
    return {
        "rows": len(expected),
        "precision": hit_share(predicted, families).plain(),
        "recall": hit_share(expected, families).plain(),
        "f1": Interval(_f1(overlap.value), _f1(overlap.low), _f1(overlap.high), overlap.level).plain(),
    }


def selective_by_label(outcomes: AnswerOutcomes, labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return coverage, realised risk and what the gate holds up, among the rows of each label."""
    true = np.array(outcomes.labels, dtype=object)
    return {label: _selective(outcomes.only(np.asarray(true == label, dtype=np.bool_))) for label in labels}


def hit_share(hits: Sequence[RowHit], families: Numbers) -> Interval:
    """Return the share of places with a hit."""
    rows = np.array([row for row, _ in hits], dtype=np.int64)
    return clustered_share(np.array([hit for _, hit in hits], dtype=np.bool_), families[rows])


def _f1(overlap: float) -> float:
    return 2 * overlap / (1 + overlap)


# --- two versions on the same rows --------------------------------------------------------------------------------


def differences(first: AnswerOutcomes, second: AnswerOutcomes) -> dict[str, dict[str, Any]]:
    """Return the difference second - first of each headline figure: the interval, `p_value`, and `p_adjusted` (Holm).

    accuracy and coverage: McNemar's exact test, in whole families. wrong and calibration_error: random exchanges of
    the two versions, in whole families.
    """
    families = first.families
    gaps = {
        "accuracy": _paired_difference(first.right, second.right, families),
        "coverage": _paired_difference(first.confident, second.confident, families),
        "wrong": _risk_difference(first, second),
    }
    if (have_confidence := ~np.isnan(first.confidence) & ~np.isnan(second.confidence)).any():
        gaps["calibration_error"] = _calibration_difference(first.only(have_confidence), second.only(have_confidence))
    p_values = {name: p for name, (_, p) in gaps.items() if p is not None}
    adjusted = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    return {name: gap.plain() | {"p_value": p, "p_adjusted": adjusted.get(name)} for name, (gap, p) in gaps.items()}


def _paired_difference(first: Flags, second: Flags, families: Numbers) -> tuple[Interval, float | None]:
    gaps = second.astype(np.int64) - first.astype(np.int64)
    return clustered_difference(gaps, families), paired_p_value(gaps, families)


def _risk_difference(first: AnswerOutcomes, second: AnswerOutcomes) -> tuple[Interval, float | None]:
    gap = difference_of(_risk(first), _risk(second))
    if not (first.confident.any() and second.confident.any()):
        return gap, None
    return gap, exchange_p_value(_wrong_by_family(first), _wrong_by_family(second), _ratio)


def _risk(each: AnswerOutcomes) -> Interval:
    return clustered_share(~each.right[each.confident], each.families[each.confident])


def _calibration_difference(first: AnswerOutcomes, second: AnswerOutcomes) -> tuple[Interval, float | None]:
    rows = len(first.right)
    # Bins by the confidences of one version alone would show its calibration errors, and hide those of the other.
    bin_numbers = number_bins((first.confidence + second.confidence) / 2, first.families)
    p_value = exchange_p_value(
        _bin_gaps(first, bin_numbers), _bin_gaps(second, bin_numbers), lambda gaps: np.abs(gaps).sum(axis=1) / rows
    )
    return difference_of(_calibration_error(first), _calibration_error(second)), p_value


def _calibration_error(each: AnswerOutcomes) -> Interval:
    return Interval(**reliability(each.confidence, each.right, each.families)["calibration_error"])


def _bin_gaps(each: AnswerOutcomes, bin_numbers: Numbers) -> Floats:
    """Return each family's gaps in bins that both versions share."""
    return gaps_of(each.confidence, each.right, np.unique(each.families, return_inverse=True)[1], bin_numbers)


def _wrong_by_family(each: AnswerOutcomes) -> Floats:
    """Return each family's wrong confident answers, and its confident ones."""
    numbers = np.unique(each.families, return_inverse=True)[1]
    columns = np.stack([each.confident & ~each.right, each.confident], axis=1).astype(np.float64)
    sums = np.zeros((int(numbers.max(initial=-1)) + 1, columns.shape[1]))
    np.add.at(sums, numbers, columns)
    return sums


def _ratio(sums: Floats) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(sums[:, 1] > 0, sums[:, 0] / sums[:, 1], np.nan))


def label_differences(
    first: AnswerOutcomes, second: AnswerOutcomes, labels: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return per label the rows, `accuracy`, `coverage` and `wrong` of `first` and `second`, and p-values of the paired
    tests on accuracy and coverage, adjusted for the number of labels."""
    true = np.array(first.labels, dtype=object)
    report: dict[str, dict[str, Any]] = {}
    for label in labels:
        rows_of_label = np.asarray(true == label, dtype=np.bool_)
        pair = first.only(rows_of_label), second.only(rows_of_label)
        report[label] = {"rows": int(rows_of_label.sum())} | {
            which: {"accuracy": clustered_share(each.right, each.families).plain()} | _selective(each)
            for which, each in zip(("first", "second"), pair, strict=True)
        }
        report[label]["p_right"] = _paired_difference(pair[0].right, pair[1].right, pair[0].families)[1]
        report[label]["p_confident"] = _paired_difference(pair[0].confident, pair[1].confident, pair[0].families)[1]
    for name in ("p_right", "p_confident"):
        adjusted = holm([each[name] for each in report.values()])
        for each, value in zip(report.values(), adjusted, strict=True):
            each[name] = value
    return report


def changes(figures: Mapping[str, Mapping[str, Any]], better: bool) -> Iterator[str]:
    """Yield the names of the figures in which the second version is better, or worse, by more than chance."""
    for name, each in figures.items():
        differs = each["p_adjusted"] is not None and each["p_adjusted"] <= CHANCE_MAX and each["value"]
        if differs and ((each["value"] > 0) == _HIGHER_IS_BETTER[name]) == better:
            yield name
