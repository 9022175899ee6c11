"""The choice of the threshold: its fixed-sequence test, its risk guarantee, the report when no threshold passes, and a
comparison with MAPIE."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryRisk, MultiClassificationLTTController
from scipy import stats

from benchmarks.shapes import SHAPES, CalibrationDraws, measure
from convert.calibrate.threshold import GRID, Risk, Step, choose, counts, lowest_below, rows_needed, start_of
from tests.support.repeated_looks import false_proofs

FIVE = Risk(0.05, 0.1)
RNG = np.random.default_rng(4)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let each test draw the same numbers, whichever tests run before it."""
    RNG.bit_generator.state = np.random.default_rng(4).bit_generator.state


outcomes = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=300).map(
    lambda pairs: (np.array([c for c, _ in pairs]), np.array([r for _, r in pairs]))
)
risks = st.builds(Risk, st.floats(0.01, 0.4), st.floats(0.01, 0.4))


def honest(rows: int, sharpness: float = 4.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw calibrated confidences: each is the probability that its answer is right."""
    confidences = RNG.beta(sharpness, 1.0, rows)
    return confidences, RNG.random(rows) < confidences


@pytest.mark.parametrize(("target", "delta", "rows"), [(0.1, 0.05, 29), (0.05, 0.05, 59), (0.02, 0.05, 149),
                                                       (0.01, 0.05, 299), (0.05, 0.1, 45)])  # fmt: skip
def test_rows_min_is_the_smallest_number_that_can_pass(target, delta, rows):
    """rows_min rows without an error pass, and one row fewer does not."""
    risk = Risk(target, delta)
    assert rows == risk.rows_min
    assert (True, False) == (risk.passes(0, rows), risk.passes(0, rows - 1))


def test_fixed_sequence_test_skips_passes_and_ends_at_a_failure():
    """Thresholds with too few rows are skipped, the last one that passes is chosen, and a failure ends the test."""
    confidences = np.concatenate([np.full(20, 0.995), np.full(80, 0.9), np.full(100, 0.8), np.full(400, 0.7)])
    right = np.ones(600, bool)
    right[100:130] = False
    choice = choose(confidences, right, FIVE, grid=(0.99, 0.9, 0.85, 0.8, 0.7))
    assert [
        Step(0.99, 20, 0, "too few"),
        Step(0.9, 100, 0, "passed"),
        Step(0.85, 100, 0, "passed"),
        Step(0.8, 200, 30, "failed"),
        Step(0.7, 600, 30, "not tested"),
    ] == list(choice.steps)
    assert (0.85, 600, pytest.approx(100 / 600)) == (choice.threshold, choice.rows, choice.coverage)
    assert FIVE.target == choice.bound  # the same rows chose the threshold: an interval at it would be too narrow


@given(outcomes, risks)
def test_chosen_threshold_is_proved(outcome, risk):
    """The bound of a chosen threshold is at most the target, and every stricter threshold with enough rows passed as
    well."""
    choice = choose(*outcome, risk)
    if choice.threshold is None:
        assert (1.0, 0.0) == (choice.bound, choice.coverage)
        assert not any(step.verdict == "passed" for step in choice.steps)
        return
    accepted = outcome[0] >= choice.threshold
    assert choice.bound <= risk.target + 1e-9
    assert choice.coverage == pytest.approx(accepted.mean())
    stricter = [step for step in choice.steps if step.threshold >= choice.threshold]
    assert {"passed"} == {step.verdict for step in stricter if step.rows >= risk.rows_min}


@given(outcomes)
def test_rows_and_errors_are_counted_at_or_above_each_threshold(outcome):
    """The counts of every threshold equal those of a plain comparison."""
    confidences, right = outcome
    plain = [(int((confidences >= t).sum()), int((~right[confidences >= t]).sum())) for t in GRID]
    assert plain == counts(confidences, right, GRID)


@given(outcomes, risks)
def test_order_of_the_rows_does_not_matter(outcome, risk):
    """Reversed rows give the same choice."""
    back = np.arange(len(outcome[0]))[::-1]
    assert choose(*outcome, risk) == choose(outcome[0][back], outcome[1][back], risk)


@pytest.mark.slow
def test_risk_guarantee_holds_where_the_naive_rule_breaks_it():
    """In 2,000 draws, at most a share of delta of the chosen thresholds breaks the target; the naive rule breaks it in
    more than 30%."""
    grid = np.array(GRID)
    # With beta(4, 1) confidences c that are true, the risk at or above t is 1 - E[c | c >= t].
    risk_at = 1 - (4 / 5) * (1 - grid**5) / (1 - grid**4)
    true_risk = dict(zip(GRID, risk_at, strict=True))
    risk = Risk(0.1, 0.1)
    broken = naive = 0
    for _ in range(2000):
        outcome = honest(400)
        chosen = choose(*outcome, risk).threshold
        broken += chosen is not None and true_risk[chosen] > risk.target
        lowest = lowest_below(*outcome, risk.target)
        naive += lowest is not None and true_risk[lowest] > risk.target
    assert broken / 2000 <= risk.delta + 2 * math.sqrt(risk.delta * (1 - risk.delta) / 2000)
    assert naive / 2000 > 0.3


def test_start_skips_strict_thresholds_that_one_error_would_fail():
    """Strict thresholds with few rows, where one error ends the test, are skipped if the tuning rows show a better
    start."""
    tuning = (np.full(100, 0.7), np.arange(100) >= 2)
    confidences, right = np.concatenate([np.full(50, 0.995), np.full(350, 0.7)]), np.ones(400, bool)
    right[:3] = False
    assert choose(confidences, right, FIVE).threshold is None
    start = start_of(confidences, tuning, FIVE)
    assert 0.7 == start
    choice = choose(confidences, right, FIVE, start=start)
    assert (0.01, 1.0) == (choice.threshold, choice.coverage)
    assert {"not tested"} == {step.verdict for step in choice.steps if step.threshold > 0.7}


@given(outcomes, outcomes, risks)
def test_start_is_a_threshold_with_enough_rows_and_tuning_rows(outcome, tuning, risk):
    """The start has enough rows to pass and some tuning rows; if no threshold has both, the test starts at the
    strictest one."""
    start = start_of(outcome[0], tuning, risk)
    able = [t for t, (rows, _) in zip(GRID, counts(*outcome, GRID), strict=True) if rows >= risk.rows_min]
    known = [t for t, (rows, _) in zip(GRID, counts(*tuning, GRID), strict=True) if rows]
    both = sorted(set(able) & set(known))
    assert start in both if both else start == 1.0


def test_start_is_the_strictest_threshold_without_tuning_rows():
    """If there are too few rows to divide, the test starts at the strictest threshold."""
    assert 1.0 == start_of(honest(50)[0], (np.zeros(0), np.zeros(0, bool)), FIVE)


@pytest.mark.parametrize(("one_each", "kept"), [(True, True), (False, False)])
def test_guarantee_under_families_requires_one_row_of_each(one_each, kept):
    """With families of 8 rows with correlated errors, the guarantee holds if one row of each family is tested, and
    fails if each row counts."""
    draws = CalibrationDraws(rows=800, resamples=150, family_rows=8, correlation=0.6)
    found = measure(SHAPES["flat, just over the target"], draws, Risk(0.1, 0.1), one_each=one_each)
    assert kept == (found.broken <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 150))


def _mapie(probabilities, truth, risk: Risk, kept: list[float]) -> MultiClassificationLTTController:
    wrong = BinaryRisk(lambda t, p: p.ravel() != t.ravel(), lambda _t, p: ~np.isnan(p.ravel()), higher_is_better=False)
    return MultiClassificationLTTController(
        lambda rows: rows,
        [wrong],
        [risk.target],
        confidence_level=1 - risk.delta,
        list_predict_params=np.array(kept),
        classes=np.arange(probabilities.shape[1]),
        fwer_method="fixed_sequence",
    ).calibrate(probabilities, truth)


# MAPIE warns when the risk that was seen is not monotonic, which it never is, and when nothing is controlled.
@pytest.mark.filterwarnings("ignore:Fixed sequence testing requires:UserWarning")
@pytest.mark.filterwarnings("ignore:No predict parameters were found:UserWarning")
@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(60, 1500), st.sampled_from([0.05, 0.1, 0.2]))
def test_mapie_chooses_the_same_threshold_except_for_rounding(seed, rows, target):
    """MAPIE's fixed-sequence test on the thresholds that are not skipped agrees except for its rounding.

    MAPIE computes the errors as the ceiling of rows times their share, in floating point, which sometimes counts one
    error too many. Then it stops earlier, at a threshold whose p-value is that of one error more.
    """
    rng, risk = np.random.default_rng(seed), Risk(target, 0.1)
    logits = rng.normal(0, 2.5, (rows, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([rng.choice(4, p=row) for row in probabilities])
    ours = choose(probabilities.max(axis=1), probabilities.argmax(axis=1) == truth, risk)
    tested = [step for step in ours.steps if step.rows >= risk.rows_min]
    if not tested:
        assert ours.threshold is None
        return
    theirs = _mapie(probabilities, truth, risk, [step.threshold for step in tested])
    valid = list(theirs.valid_predict_params)
    passed = [step.threshold for step in tested if step.verdict == "passed"]
    assert passed[: len(valid)] == valid
    if len(valid) < len(passed):
        stopped = tested[len(valid)]
        one_more = stats.binom.cdf(stopped.errors + 1, stopped.rows, target)
        assert one_more == pytest.approx(theirs.p_values[len(valid)].item())


def test_rows_needed_suffice_in_many_draws():
    """If 150 rows prove nothing, the median estimate is above 150, and that many rows prove a threshold in more than a
    quarter of the draws."""
    small = [choose(*honest(150), FIVE) for _ in range(60)]
    estimates = [rows_needed(each, FIVE) for each in small if each.threshold is None]
    known = sorted(each for each in estimates if each is not None)
    assert len(known) > len(estimates) / 2
    median = known[len(known) // 2]
    proved = sum(choose(*honest(median), FIVE).threshold is not None for _ in range(60))
    assert median > 150
    assert proved > 15


@pytest.mark.parametrize(
    ("rows", "errors", "needed"),
    [(30, 0, 75), (30, 6, None)],
)
def test_rows_needed_follow_from_the_observed_errors(rows, errors, needed):
    """30 rows without an error count as an error rate of 1.6%, so about 75 rows pass with 1 error; with 6 errors no
    number is estimated."""
    right = np.arange(rows) >= errors
    choice = choose(np.full(rows, 0.995), right, FIVE)
    assert choice.threshold is None
    found = rows_needed(choice, FIVE)
    assert (found is None) == (needed is None)
    if found is not None:
        assert needed == pytest.approx(found, abs=5)
        assert FIVE.passes(round(found * 0.5 / 31), found)


@pytest.mark.parametrize(
    ("attempts", "words"), [(5, "at one of five attempts with a probability of {}%"), (10, "at one of ten with {}%")]
)
def test_labels_page_states_the_cost_of_repeated_attempts(attempts, words):
    """docs/labels.md states the probability of a false proof for a team that adds 100 rows and calibrates again until a
    threshold passes."""
    page = re.sub(r"\s+", " ", (Path(__file__).parents[4] / "docs" / "labels.md").read_text(encoding="utf-8"))
    found = false_proofs(attempts, 100, FIVE.target, FIVE.passes)
    assert words.format(round(100 * found)) in page


def test_rows_below_every_threshold_give_no_choice_and_no_estimate():
    """If no threshold accepts a row, none is chosen and no number of rows is estimated."""
    choice = choose(np.zeros(3), np.ones(3, bool), FIVE)
    assert (None, None) == (choice.threshold, rows_needed(choice, FIVE))


def test_naive_rule_takes_the_lowest_threshold_below_the_target():
    """The naive rule passes over a threshold with too many errors if the error rate is low again further down."""
    confidences = np.array([0.9, 0.8, *[0.5] * 98])
    right = np.array([True, False, *[True] * 98])
    assert 0.01 == lowest_below(confidences, right, 0.02)
    assert 0.81 == lowest_below(confidences[:2], right[:2], 0.02)
    assert lowest_below(confidences[:1], right[1:2], 0.02) is None
