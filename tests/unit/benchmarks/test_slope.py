"""The slope of a figure with its interval, from which a memory benchmark judges growth."""

from __future__ import annotations

import math
import random

import pytest

from benchmarks.attacking.mixing import BLOCKS, blocks, slope

HOUR = 3600.0


@pytest.mark.parametrize("growth", [0.0, 5.0, -40.0])
def test_straight_line_has_an_exact_slope(growth: float) -> None:
    """The slope of a straight line is its growth per hour, with an interval of width zero."""
    found = slope([(at, 100 + growth * at / HOUR) for at in range(0, 1200, 3)])
    assert (pytest.approx(growth, abs=1e-6), pytest.approx(0, abs=1e-6)) == (found.an_hour, found.half_width)


def test_slope_interval_covers_the_true_slope_19_times_in_20() -> None:
    """The intervals of 200 noisy series that grow by 30 per hour contain the true slope in at least 90% of the
    cases."""
    rng = random.Random(1)
    series = ([(at, 30 * at / HOUR + rng.gauss(0, 4)) for at in range(0, 1200, 2)] for _ in range(200))
    found = [slope(samples) for samples in series]
    held = sum(abs(each.an_hour - 30) <= each.half_width for each in found)
    assert 0.9 <= held / len(found) <= 1.0


def test_repeated_samples_do_not_narrow_the_interval() -> None:
    """A series of plateaus has the same interval as one sample per plateau, because the samples are averaged in
    blocks."""
    rng = random.Random(2)
    plateaus = [rng.gauss(0, 1) for _ in range(BLOCKS)]
    once = [(60.0 * at, value) for at, value in enumerate(plateaus)]
    often = [(60.0 * at + second, value) for at, value in enumerate(plateaus) for second in range(-25, 26)]
    assert [value for _, value in once] == pytest.approx([value for _, value in blocks(often)])
    assert slope(once).half_width == pytest.approx(slope(often).half_width)


def test_too_few_samples_have_an_infinite_interval() -> None:
    """The slope of three samples has an infinite interval."""
    assert math.inf == slope([(0, 1), (1, 2), (2, 3)]).half_width
