"""Temperature, reliability and the limits of the usual."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.calibrate import novelty, temperature
from edge_agent.formats.manifest import Novelty

RNG = np.random.default_rng(2)


def drawn(rows: int, labels: int, distortion: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities that are `distortion` times too sure, and labels drawn from the true ones."""
    logits = RNG.normal(0, 2, (rows, labels))
    true = temperature.scaled_log(logits, 1.0)
    truth = np.array([RNG.choice(labels, p=np.exp(row)) for row in true])
    return temperature.scaled_log(logits, 1 / distortion), truth


@pytest.mark.parametrize("distortion", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("labels", [2, 8])
def test_the_fit_undoes_what_was_done(distortion, labels):
    """From scores that are sharper or flatter by a factor, the fit finds the factor."""
    assert distortion == pytest.approx(temperature.fit(*drawn(6000, labels, distortion)), rel=0.08)


def test_few_rows_fit_nothing():
    """With fewer than 30 rows the temperature stays 1."""
    assert 1.0 == temperature.fit(*drawn(29, 3, 3.0))


def test_a_fit_that_is_always_right_stays_in_bounds():
    """Where every answer is right the likeliest temperature is 0; the fit ends at its lowest."""
    sure = np.log(np.tile([0.9, 0.1], (50, 1)))
    assert temperature.LOWEST == pytest.approx(temperature.fit(sure, np.zeros(50, np.int64)), rel=0.01)


@given(st.integers(2, 20), st.floats(0.1, 10))
def test_the_best_label_stays_the_best(labels, at):
    """Scaling changes how sure an answer is, and never which it is; probabilities add up to 1."""
    scores = np.log(RNG.dirichlet(np.ones(labels), 5))
    scaled = temperature.scaled_log(scores, at)
    assert (scores.argmax(axis=1) == scaled.argmax(axis=1)).all()
    assert np.exp(scaled).sum(axis=1) == pytest.approx(np.ones(5))
    assert temperature.confidences(scores, at) == pytest.approx(np.exp(scaled).max(axis=1))


def test_reliability_has_rows_confidence_and_truth_of_each_tenth():
    """A bin holds its rows, how sure they were and how often right; the error is the mean gap."""
    confidence = np.array([0.05, 0.95, 0.95, 1.0])
    bins = temperature.reliability(confidence, np.array([False, True, True, False]))
    assert [(0.0, 1, 0.05, 0.0), (0.9, 3, pytest.approx(2.9 / 3), pytest.approx(2 / 3))] == [
        (each["from"], each["rows"], each["confidence"], each["right"]) for each in bins
    ]
    assert temperature.calibration_error(bins) == pytest.approx((0.05 + 3 * 0.3) / 4)
    assert math.isnan(temperature.calibration_error([]))


def test_the_likelihood_of_records_prefers_honest_confidences():
    """Being right seven times of ten is likeliest under a confidence of 0.7."""
    right = np.arange(10) < 7
    losses = {c: temperature.log_loss(np.full(10, c), right) for c in (0.5, 0.6, 0.7, 0.8, 1.0)}
    assert 0.7 == min(losses, key=losses.__getitem__)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=30, max_size=1000))
def test_about_one_row_in_a_hundred_is_outside_on_each_side(rows):
    """At most one in 200 of the calibration rows is beyond each limit: what is usual stays usual."""
    masses, tokens = [mass for mass, _ in rows], [count for _, count in rows]
    usual = novelty.measure(masses, tokens)
    assert isinstance(usual, Novelty)
    most = len(rows) // novelty.ONE_IN
    assert sum(mass < usual.label_mass_min for mass in masses) <= most
    assert sum(count < usual.input_tokens_min for count in tokens) <= most
    assert sum(count > usual.input_tokens_max for count in tokens) <= most


def test_few_rows_say_nothing_about_the_usual():
    """With fewer than 30 rows there are no limits."""
    assert novelty.measure([1.0] * 29, [5] * 29) is None
