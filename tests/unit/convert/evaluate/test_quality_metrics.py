"""Reliability: bins with similar numbers of rows, and the calibration error with its interval."""

import math

import numpy as np
import pytest

from convert.clustered_statistics import family_numbers
from convert.evaluate.quality_metrics import (
    BIN_FAMILIES_MIN,
    AnswerOutcomes,
    differences,
    gaps_of,
    number_bins,
    reliability,
)


def alone(rows: int) -> np.ndarray:
    return np.arange(rows)


def test_reliability_bins_have_equal_numbers_of_rows():
    """Ten bins get a tenth of the rows each, although nearly all confidences are near 1, and each bin has an
    interval."""
    chance = np.random.default_rng(4)
    confidence = chance.beta(20, 1, 400)
    found = reliability(confidence, chance.random(400) < confidence, alone(400))
    assert [40] * 10 == [each["rows"] for each in found["bins"]]
    assert all(before["to"] <= after["from"] for before, after in zip(found["bins"], found["bins"][1:], strict=False))
    assert all(each["right"]["low"] <= each["right"]["value"] <= each["right"]["high"] for each in found["bins"])
    seen = sum(40 * abs(each["confidence"] - each["right"]["value"]) for each in found["bins"]) / 400
    assert seen == pytest.approx(found["calibration_error"]["value"])
    assert "" == found["note"]


def test_rows_of_the_same_confidence_share_a_bin():
    """Rows with equal confidence share one bin, and no bin is empty."""
    confidence = np.array([1.0] * 150 + [0.5 + 0.001 * i for i in range(50)])
    found = reliability(confidence, confidence > 0.6, alone(200))
    assert (1.0, 160) == (found["bins"][-1]["to"], found["bins"][-1]["rows"])
    assert all(each["rows"] for each in found["bins"])


@pytest.mark.parametrize(
    ("confidence", "said"),
    [
        ([], "No row was answered"),
        ([0.9] * 50, "All 50 answers have the same confidence, 0.900"),
        ([0.9, 0.8, 0.7], "3 rows are too few for bins: each needs at least 20 families of rows."),
    ],
)
def test_reliability_notes_why_there_are_few_bins(confidence: list[float], said: str):
    """If no row was answered, all confidences are equal, or there are too few rows for bins, the note explains it."""
    found = reliability(np.array(confidence), np.ones(len(confidence), np.bool_), alone(len(confidence)))
    assert found["note"].startswith(said)
    assert len(found["bins"]) == min(1, len(confidence))


def test_calibration_error_without_rows_is_unknown():
    """Without rows, the calibration error is None and its interval is 0 to 1."""
    error = reliability(np.empty(0), np.empty(0, np.bool_), alone(0))["calibration_error"]
    assert (None, 0.0, 1.0) == (error["value"], error["low"], error["high"])


def test_bins_are_sized_by_families_of_rows():
    """Each bin needs 20 families: 60 rows in 30 families make one bin, 60 rows without families make three."""
    confidence = np.random.default_rng(4).random(60)
    assert {0} == set(number_bins(confidence, family_numbers([str(i // 2) for i in range(60)])))
    assert {0, 1, 2} == set(number_bins(confidence, alone(60)))
    assert 60 // BIN_FAMILIES_MIN == 3


@pytest.mark.parametrize(("kind", "size"), [("honest", 1), ("too sure", 1), ("flat", 1), ("honest", 4), ("flat", 4)])
def test_calibration_interval_contains_the_true_error(kind: str, size: int):
    """The interval contains the true calibration error in at least 85% of 40 draws, also if that error is 0 or rows of
    a family are right or wrong together."""
    rows, held, draws = 240, 0, 40
    drawn = np.random.default_rng(4)
    families = np.arange(rows) // size
    for _ in range(draws):
        confidence = np.repeat(np.clip(drawn.beta(6, 1, rows // size), 0.2, 1), size)
        chance = {"honest": confidence, "too sure": confidence**1.5, "flat": np.full(rows, 0.8)}[kind]
        own, common = drawn.random(rows), np.repeat(drawn.random(rows // size), size)
        right = np.where(drawn.random(rows) < (0.77 if size > 1 else 0), common, own) < chance
        places = number_bins(confidence, families)
        true = np.abs(np.bincount(places, confidence - chance)).sum() / rows
        error = reliability(confidence, right, families)["calibration_error"]
        held += error["low"] <= true + 1e-9 and true <= error["high"] + 1e-9
    assert held >= 0.85 * draws


def test_family_gaps_sum_to_the_bin_gap():
    """The gaps of all families in a bin sum to the gap of that bin."""
    drawn = np.random.default_rng(4)
    confidence, right = drawn.random(40), drawn.random(40) < 0.5
    families, places = alone(40) // 4, number_bins(confidence, alone(40))
    gaps = gaps_of(confidence, right, families, places)
    assert (10, 2) == gaps.shape
    assert np.allclose(gaps.sum(axis=0), np.bincount(places, confidence - right))
    assert not math.isnan(float(gaps.sum()))


def outcomes(right: np.ndarray, confidence: np.ndarray) -> AnswerOutcomes:
    return AnswerOutcomes(right, confidence > 0.8, confidence, alone(len(right)))


def versions(drawn: np.random.Generator, too_sure: float) -> tuple[AnswerOutcomes, AnswerOutcomes]:
    """Return two versions of equal accuracy; each estimates its probability of being right with an independent
    error."""
    odds = drawn.normal(1.5, 1.2, 400)
    chance = 1 / (1 + np.exp(-odds))
    first, second = (1 / (1 + np.exp(-factor * (odds + drawn.normal(0, 1, 400)))) for factor in (1.0, too_sure))
    common, own = drawn.random(400), drawn.random(400)
    return (
        outcomes(common < chance, first),
        outcomes(np.where(drawn.random(400) < 0.7, common, own) < chance, second),
    )


def test_p_value_does_not_depend_on_the_order_of_versions():
    """Swapping the two versions does not change the p-value of the calibration error, because both use the same
    bins."""
    first, second = versions(np.random.default_rng(4), 1.0)
    p_values = [differences(*pair)["calibration_error"]["p_value"] for pair in ((first, second), (second, first))]
    assert p_values[0] == p_values[1]


@pytest.mark.slow
def test_equally_calibrated_versions_rarely_differ():
    """The calibration errors of equally calibrated versions differ at the 5% level in at most 8 of 60 draws, although
    each version has its own bins."""
    drawn = np.random.default_rng(4)
    p_values = [differences(*versions(drawn, 1.0))["calibration_error"]["p_value"] for _ in range(60)]
    assert sum(each <= 0.05 for each in p_values) <= 8


@pytest.mark.slow
def test_overconfident_version_is_worse_calibrated():
    """An overconfident second version has a significantly larger calibration error in at least 15 of 20 draws."""
    drawn = np.random.default_rng(4)
    found = [differences(*versions(drawn, 3.0))["calibration_error"] for _ in range(20)]
    assert sum(each["p_value"] <= 0.05 and each["value"] > 0 for each in found) >= 15
