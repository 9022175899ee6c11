"""The calibration temperature, log losses and the limits of usual inputs."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.calibrate import gate_rows, temperature
from edge_agent.formats.calibration_and_gate import TypicalInputs

RNG = np.random.default_rng(2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let each test draw the same numbers, whichever tests run before it."""
    RNG.bit_generator.state = np.random.default_rng(2).bit_generator.state


def drawn(rows: int, labels: int, distortion: float) -> tuple[np.ndarray, np.ndarray]:
    """Return log-probabilities that are `distortion` times too sharp, and labels drawn from the true ones."""
    logits = RNG.normal(0, 2, (rows, labels))
    true = temperature.scaled_log(logits, 1.0)
    truth = np.array([RNG.choice(labels, p=np.exp(row)) for row in true])
    return temperature.scaled_log(logits, 1 / distortion), truth


@pytest.mark.parametrize("distortion", [0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("labels", [2, 8])
def test_fit_finds_the_factor_of_distorted_scores(distortion, labels):
    """If scores are sharper or flatter by a factor, the fitted temperature is this factor."""
    assert distortion == pytest.approx(temperature.fit(*drawn(6000, labels, distortion)), rel=0.08)


def test_temperature_stays_1_with_fewer_than_30_rows():
    """29 rows do not change the temperature."""
    assert 1.0 == temperature.fit(*drawn(29, 3, 3.0))


@pytest.mark.parametrize("rows", [30, 50, 500])
def test_fit_of_correct_answers_does_not_give_certainty(rows):
    """If every answer is right, the fit counts half a row more as wrong, because the likeliest temperature would be
    0."""
    sure = np.log(np.tile([0.9, 0.1], (rows, 1)))
    fitted = temperature.fit(sure, np.zeros(rows, np.int64))
    assert 1 - 0.5 / (rows + 1) == pytest.approx(temperature.confidences(sure, fitted)[0], abs=1e-4)


def test_fit_of_30_rows_limits_the_loss_on_other_rows():
    """For calibrated scores, the loss on other rows grows by less than 60% in each of 40 fits of 30 rows."""

    def few(rows: int) -> tuple[np.ndarray, np.ndarray]:
        scores = temperature.scaled_log(RNG.normal(0, 8, (rows, 4)), 1.0)
        return scores, np.array([RNG.choice(4, p=np.exp(row)) for row in scores])

    others, truth = few(4000)

    def loss(at: float) -> float:
        return float(-temperature.scaled_log(others, at)[np.arange(4000), truth].mean())

    assert max(loss(temperature.fit(*few(30))) for _ in range(40)) < 1.6 * loss(1.0)


@given(st.integers(2, 20), st.floats(0.1, 10))
def test_scaling_keeps_the_best_label(labels, at):
    """Scaling changes the confidence of an answer but not the answer; the probabilities add up to 1."""
    scores = np.log(RNG.dirichlet(np.ones(labels), 5))
    scaled = temperature.scaled_log(scores, at)
    assert (scores.argmax(axis=1) == scaled.argmax(axis=1)).all()
    assert np.exp(scaled).sum(axis=1) == pytest.approx(np.ones(5))
    assert temperature.confidences(scores, at) == pytest.approx(np.exp(scaled).max(axis=1))


def test_log_loss_is_lowest_at_the_true_share_of_right_answers():
    """If seven of ten answers are right, a confidence of 0.7 has the lowest log loss."""
    right = np.arange(10) < 7
    losses = {c: temperature.log_losses(np.full(10, c), right).mean() for c in (0.5, 0.6, 0.7, 0.8, 1.0)}
    assert 0.7 == min(losses, key=losses.__getitem__)


def test_useful_temperature_is_kept():
    """Scores that are twice too sharp get their temperature, with its gain on rows that were held out of the fit."""
    found = temperature.fit_and_measure(*drawn(300, 4, 2.0), np.arange(300))
    assert found.kept
    assert found.temperature == found.tried == pytest.approx(2.0, rel=0.3)
    assert found.gain > found.error > 0


def test_temperature_that_fits_only_noise_is_rarely_kept():
    """Of 30 fits to calibrated scores, at most six are kept, although each fit finds a temperature other than 1."""
    draws = [temperature.fit_and_measure(*drawn(60, 4, 1.0), np.arange(60)) for _ in range(30)]
    assert all(each.tried != 1.0 for each in draws)
    assert sum(each.kept for each in draws) <= 6


def test_cross_validation_folds_keep_families_whole():
    """A family is in one fold, and folds have equal sizes; with fewer than 30 rows no temperature is tried."""
    families = np.repeat(np.arange(25), 4)
    folds = temperature.folds_of(families)
    assert all(1 == len(set(folds[families == family])) for family in range(25))
    assert [20] * temperature.FOLDS == np.bincount(folds).tolist()
    assert temperature.Fit() == temperature.fit_and_measure(*drawn(29, 3, 3.0), np.arange(29))


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 500)), min_size=30, max_size=1000))
def test_limits_of_usual_inputs_exclude_few_calibration_rows(rows):
    """At most one calibration row in gate_rows.ONE_IN is beyond each limit of label mass and length."""
    masses, tokens = [mass for mass, _ in rows], [count for _, count in rows]
    usual = gate_rows.measure(masses, tokens)
    assert isinstance(usual, TypicalInputs)
    most = len(rows) // gate_rows.ONE_IN
    assert sum(mass < usual.label_mass_min for mass in masses) <= most
    assert sum(count < usual.input_tokens_min for count in tokens) <= most
    assert sum(count > usual.input_tokens_max for count in tokens) <= most


def test_limits_of_usual_inputs_require_30_rows():
    """With 29 rows there are no limits."""
    assert gate_rows.measure([1.0] * 29, [5] * 29) is None
