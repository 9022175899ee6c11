"""The threshold rule: its walk, its promise, what it says when nothing reaches the target, and a second opinion."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.risk_control import BinaryRisk, MultiClassificationLTTController
from scipy import stats

from benchmarks.shapes import SHAPES, Draws, measure
from convert.calibrate.threshold import GRID, Choice, Risk, Step, choose, counts, lowest_below, rows_needed, start_of
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
    """Draw confidences and answers that are right as often as they say."""
    confidences = RNG.beta(sharpness, 1.0, rows)
    return confidences, RNG.random(rows) < confidences


@pytest.mark.parametrize(("target", "delta", "rows"), [(0.1, 0.05, 29), (0.05, 0.05, 59), (0.02, 0.05, 149),
                                                       (0.01, 0.05, 299), (0.05, 0.1, 45)])  # fmt: skip
def test_the_fewest_rows_that_can_pass(target, delta, rows):
    """So many rows without error pass, and one fewer do not."""
    risk = Risk(target, delta)
    assert rows == risk.rows_min
    assert (True, False) == (risk.passes(0, rows), risk.passes(0, rows - 1))


def test_the_walk_skips_passes_fails_and_ends():
    """Strict thresholds with too few rows are skipped, the last that passes is chosen; a failure ends it."""
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
def test_what_is_chosen_is_proved(outcome, risk):
    """A chosen threshold has a bound of the target at most, and every stricter one with enough rows passed as well."""
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
def test_rows_and_errors_are_counted_at_or_above(outcome):
    """The counts of every threshold are those that a plain comparison gives."""
    confidences, right = outcome
    plain = [(int((confidences >= t).sum()), int((~right[confidences >= t]).sum())) for t in GRID]
    assert plain == counts(confidences, right, GRID)


@given(outcomes, risks)
def test_the_order_of_the_rows_does_not_matter(outcome, risk):
    """The choice is a function of the set of rows."""
    back = np.arange(len(outcome[0]))[::-1]
    assert choose(*outcome, risk) == choose(outcome[0][back], outcome[1][back], risk)


@pytest.mark.slow
def test_the_promise_holds_where_the_naive_rule_breaks_it():
    """Of 2,000 draws at most a share of delta breaks the target; of the naive rule's, every other one or so."""
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


def test_the_walk_starts_where_it_is_likely_to_pass():
    """Strict thresholds with few rows, at which one error ends a walk, are not tested where other rows are good."""
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
def test_a_start_is_a_threshold_that_can_pass(outcome, tuning, risk):
    """It has rows enough, and other rows that say something of it; without either the walk starts at the strictest."""
    start = start_of(outcome[0], tuning, risk)
    able = [t for t, (rows, _) in zip(GRID, counts(*outcome, GRID), strict=True) if rows >= risk.rows_min]
    known = [t for t, (rows, _) in zip(GRID, counts(*tuning, GRID), strict=True) if rows]
    both = sorted(set(able) & set(known))
    assert start in both if both else start == 1.0


def test_where_no_other_rows_are_the_walk_starts_at_the_strictest():
    """Too few rows to divide: all are tested."""
    assert 1.0 == start_of(honest(50)[0], (np.zeros(0), np.zeros(0, bool)), FIVE)


@pytest.mark.parametrize(("one_each", "kept"), [(True, True), (False, False)])
def test_families_break_the_promise_unless_one_row_of_each_is_tested(one_each, kept):
    """Of families of 8 whose errors go together, each row counted as one proves what must not be proved."""
    draws = Draws(rows=800, resamples=150, family_rows=8, correlation=0.6)
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
def test_mapie_chooses_the_same_threshold(seed, rows, target):
    """MAPIE's fixed-sequence test on the thresholds that are not skipped agrees, but for its rounding.

    It computes the errors as the ceiling of rows times their share, in floating point, which now and then counts one
    error too many: then it stops earlier, at a threshold whose p-value is that of one error more.
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


def test_rows_needed_are_enough_about_half_the_time():
    """Where 150 rows prove nothing, the estimate is of the right size: that many prove something in many draws."""
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
def test_rows_needed_follow_from_the_errors_seen(rows, errors, needed):
    """30 rows without error: with half an error added 1.6%, so about 75 rows pass with 1; with 6 errors none helps."""
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
def test_what_repeated_attempts_cost_is_in_the_page(attempts, words):
    """Who adds 100 rows and calibrates again until a threshold passes has less certainty than delta says."""
    page = re.sub(r"\s+", " ", (Path(__file__).parents[4] / "docs" / "labels.md").read_text(encoding="utf-8"))
    found = false_proofs(attempts, 100, FIVE.target, FIVE.passes)
    assert words.format(round(100 * found)) in page


def test_nothing_is_known_without_rows():
    """A walk over rows that no threshold accepts chooses nothing and asks for nothing it cannot estimate."""
    choice = choose(np.zeros(3), np.ones(3, bool), FIVE)
    assert (None, None) == (choice.threshold, rows_needed(choice, FIVE))
    assert isinstance(choice, Choice)


def test_the_naive_rule_takes_the_lowest_that_looks_good():
    """It goes below a threshold at which too many errors were seen, when further down they are few again."""
    confidences = np.array([0.9, 0.8, *[0.5] * 98])
    right = np.array([True, False, *[True] * 98])
    assert 0.01 == lowest_below(confidences, right, 0.02)
    assert 0.81 == lowest_below(confidences[:2], right[:2], 0.02)
    assert lowest_below(confidences[:1], right[1:2], 0.02) is None
