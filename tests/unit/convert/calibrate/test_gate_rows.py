"""The out-of-distribution gate: its p-value, its finite-sample guarantee, and the rows that gate and floor leave out of
the threshold test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convert.calibrate.calibration_answers import Answers, CalibrationAnswers
from convert.calibrate.calibration_split import text_hash
from convert.calibrate.gate_rows import (
    OUTSIDE,
    Conditions,
    calibrate_gate,
    conditions_of,
    held_up_shares,
    reason_without_gate,
)
from convert.calibrate.threshold import Risk, choose
from convert.data.data_row import DataRow
from convert.evaluate.predictions import ServedPrediction
from edge_agent.formats.calibration_and_gate import OodGate, Threshold, mass_score, rows_needed

RNG = np.random.default_rng(11)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Let each test draw the same numbers, whichever tests run before it."""
    RNG.bit_generator.state = np.random.default_rng(11).bit_generator.state


def said(*scores: float) -> list[ServedPrediction]:
    """Return answers to inputs with these out-of-distribution scores."""
    return [ServedPrediction("a", 0.9, ood_score=score) for score in scores]


def gate_of(*scores: float, held_up_max: float = 0.1) -> OodGate:
    """Return a gate with these scores of held-out rows."""
    return OodGate(score="ood_score", held_up_max=held_up_max, scores=tuple(sorted(scores)))


def test_p_value_counts_rows_at_or_beyond_the_score_and_the_input():
    """With 9 rows, the p-value is 1/10 beyond all of them and 1 below all of them; a tie counts as at least as unlike
    the training data."""
    gate = gate_of(*range(1, 10))
    assert [0.1, 0.2, 1.0, 1.0] == [gate.p_value(score) for score in (9.5, 9.0, 1.0, -5.0)]
    assert (True, False) == (gate.holds_up(9.5), gate.holds_up(9.0))


def test_input_with_a_nan_score_is_held_up():
    """The gate holds up an input whose score is NaN, because it cannot be compared with the calibration rows."""
    gate = gate_of(*range(1, 10))
    assert gate.holds_up(math.nan)
    assert math.isnan(gate.score_of(None, 1.0))


@given(st.integers(1, 60), st.floats(0.01, 0.5))
def test_gate_holds_up_at_most_held_up_max_of_exchangeable_inputs(rows, held_up_max):
    """If each of rows + 1 exchangeable scores is in turn the new input, the gate holds up a share of at most
    held_up_max."""
    scores = [float(each) for each in range(rows + 1)]
    held_up = 0
    for place in range(rows + 1):
        rest = scores[:place] + scores[place + 1 :]
        held_up += OodGate(score="ood_score", held_up_max=held_up_max, scores=tuple(rest)).holds_up(scores[place])
    assert held_up <= held_up_max * (rows + 1) + 1e-9


@pytest.mark.parametrize("held_up_max", [0.5, 0.1, 0.05, 0.03, 0.01, 1 / 3])
def test_rows_needed_is_the_smallest_number_that_can_hold_up_an_input(held_up_max):
    """A gate of rows_needed rows holds up an input beyond all of them; a gate with one row fewer can hold up
    nothing."""
    needed = rows_needed(held_up_max)
    assert gate_of(*range(needed), held_up_max=held_up_max).holds_up(1e9)
    assert not gate_of(*range(max(needed - 1, 1)), held_up_max=held_up_max).holds_up(1e9) or needed == 1


def test_gate_with_unsorted_scores_is_refused():
    """A gate whose scores are out of order is refused because its p-values would be wrong."""
    with pytest.raises(ValueError, match="'scores' must rise"):
        OodGate(score="ood_score", held_up_max=0.1, scores=(2.0, 1.0))


def test_gate_is_made_of_the_sorted_scores_of_held_out_rows():
    """The gate stores sorted float32 scores; with too few rows, without a score or with held_up_max 0 there is no
    gate."""
    scores = RNG.permutation(40) / 7
    gate = calibrate_gate("ood_score", said(*scores), 0.03)
    assert gate is not None
    assert None is gate.family_sizes
    assert [float(np.float32(each)) for each in sorted(scores)] == list(gate.scores)
    assert None is calibrate_gate("ood_score", said(*scores[:32]), 0.03)
    assert None is calibrate_gate(None, said(*scores), 0.03)
    assert None is calibrate_gate("ood_score", said(*scores), 0.0)
    assert "32 families of held-out rows are too few for a gate at 0.03, which needs 33." == reason_without_gate(
        "ood_score", 32, 0.03
    )


def test_non_finite_score_prevents_a_gate_and_is_the_reason():
    """The reason does not ask for more rows, because more rows would not help."""
    rows = said(*[0.5] * 32, math.nan)
    conditions, families = conditions_of("ood_score", (rows, rows[:9]), 0.03, 0.0)
    assert None is conditions.gate
    assert (
        "Not every out-of-distribution score of the 33 families of held-out rows is a finite number."
        == reason_without_gate("ood_score", families, 0.03)
    )


def test_family_counts_as_one_row_in_the_p_value():
    """Each row of a family is an equal part of it: three rows of two families add steps of one half and of one."""
    gate = OodGate(score="ood_score", held_up_max=0.1, scores=(1.0, 2.0, 3.0), family_sizes=(2, 1, 2))
    assert 2 == gate.families
    assert [1 / 3, 1.5 / 3, 2.5 / 3, 1.0] == [gate.p_value(score) for score in (9.0, 3.0, 2.0, 1.0)]
    assert 1 / 3 == gate.p_value(math.nan)


def test_gate_uses_one_row_of_each_family():
    """Of each family among the temperature and proof rows, the gate uses the row with the smallest hash, at most 1,000
    in all."""
    rows = [DataRow(f"text {place}", "a", family=f"family {place % 1200}") for place in range(2400)]
    answers = Answers(rows, said(*range(2400)), np.ones(2400, np.bool_))
    part = Answers(rows[:1200], answers.predictions[:1200], answers.right[:1200])
    rest = Answers(rows[1200:], answers.predictions[1200:], answers.right[1200:])
    every, tuning = CalibrationAnswers([], part, rest).held_out
    held_out = [rows[int(each.ood_score or 0)] for each in every]
    assert 1000 == len(held_out) == len({row.family for row in held_out}) == len(tuning)
    assert all((each.ood_score or 0) < 1200 for each in tuning)
    alone = [row for row in rows if row.family == held_out[0].family]
    assert min(alone, key=lambda row: text_hash(row.key)) == held_out[0]


def test_gate_requires_one_family_size_for_each_score():
    """A gate whose numbers of scores and family sizes differ is refused."""
    with pytest.raises(ValueError, match="2 'scores' need as many 'family_sizes', not 1"):
        OodGate(score="ood_score", held_up_max=0.1, scores=(1.0, 2.0), family_sizes=(1,))


@given(st.lists(st.integers(1, 5), min_size=2, max_size=12), st.floats(0.05, 0.6), st.integers(0, 99))
def test_gate_holds_up_at_most_held_up_max_of_inputs_of_a_new_family(sizes, held_up_max, seed):
    """If each family is in turn the new one, and each of its rows the input, a share of at most held_up_max is held
    up."""
    draw = np.random.default_rng(seed)
    families = [draw.normal(draw.normal(0, 3), 1, size).round(1).tolist() for size in sizes]
    held_up = 0.0
    for place, new in enumerate(families):
        rest = sorted((score, len(each)) for each in families[:place] + families[place + 1 :] for score in each)
        scores, family_sizes = zip(*rest, strict=True)
        gate = OodGate(score="ood_score", held_up_max=held_up_max, scores=scores, family_sizes=family_sizes)
        held_up += sum(map(gate.holds_up, new)) / len(new)
    assert held_up <= held_up_max * len(families) + 1e-9


def test_answers_held_up_by_gate_or_floor_are_left_out_of_the_test():
    """Answers that the gate or the floor holds up get a confidence below every threshold; the others keep their
    confidence."""
    conditions = Conditions(gate_of(*range(1, 10)), floor=0.5)
    answers = said(5.0, 9.5, 5.0)
    passing = conditions.passing(answers, np.array([0.9, 0.9, 0.4]))
    assert [0.9, OUTSIDE, OUTSIDE] == passing.tolist()
    found = held_up_shares(conditions, 0.95, answers, np.array([0.9, 0.9, 0.4]))
    shares = {name: round(each["value"], 3) for name, each in found.items()}
    assert {"gate": 0.333, "floor": 0.333, "threshold": 1.0, "confident": 0.0} == shares


def test_row_at_the_gate_limit_is_left_out_of_the_threshold_test():
    """Only calibration rows below the gate's limit are a sample of the inputs that pass; the row at the limit is
    not."""
    gate = gate_of(*range(1, 40))
    assert 36 == gate.limit
    assert (False, True) == (gate.holds_up(36), gate.holds_up(36.5))
    passing = Conditions(gate, floor=0.0).passing(said(35.0, 36.0, 37.0, math.nan), np.full(4, 0.9))
    assert [0.9, OUTSIDE, OUTSIDE, OUTSIDE] == passing.tolist()
    assert 1.0 == gate_of(1.0, 2.0, held_up_max=0.99).limit


@pytest.mark.parametrize("shared", [False, True])
def test_false_proofs_are_rare_when_gate_and_proof_share_their_rows(shared):
    """At most 10% of the proofs are false, whether the gate is made of the proof rows or of other rows.

    The more unlike the training data an input is, the likelier its answer is wrong. The risk of the inputs that pass is
    just above the target at every limit, so each proof is false.
    """
    draw, risk, repetitions = np.random.default_rng(26), Risk(target=0.1, delta=0.1), 400
    false = 0
    for _ in range(repetitions):
        scores = draw.random(120).astype(np.float32)
        gate = calibrate_gate("ood_score", said(*(scores if shared else draw.random(120))), 0.05)
        assert gate is not None
        wrong = draw.random(120) < 2 * 0.101 * scores / gate.limit
        passing = Conditions(gate, floor=0.0).passing(said(*scores), np.full(120, 0.9))
        false += choose(passing, ~wrong, risk, start=0.9).threshold is not None
    assert false / repetitions <= 0.1 + 2 * math.sqrt(0.09 / repetitions)


def test_false_proofs_are_rare_when_inputs_share_the_largest_score():
    """A tenth of the inputs shares the largest score and gets wrong answers. They are too many to be held up, so they
    pass, and their risk is above the target: each proof is false, and false proofs stay as rare as delta allows."""
    draw, risk, repetitions = np.random.default_rng(26), Risk(target=0.1, delta=0.1), 200
    false = 0
    for _ in range(repetitions):
        shared = draw.random(400) < 0.1
        scores, wrong = np.where(shared, 1.0, draw.random(400)), shared | (draw.random(400) < 0.01)
        answers = said(*scores)
        conditions, rows = conditions_of("ood_score", (answers, answers[:120]), 0.05, 0.0)
        assert (conditions.separate_rows, rows) == (True, 120)
        assert conditions.gate is not None
        passing = conditions.passing(answers[120:], np.full(280, 0.9))
        false += not conditions.gate.holds_up(1.0) and choose(passing, ~wrong[120:], risk, start=0.9).threshold == 0.9
    assert false / repetitions <= 0.1 + 2 * math.sqrt(0.09 / repetitions)


def test_gate_uses_all_rows_unless_scores_at_the_limit_are_tied():
    """If several rows share the score at the limit, only the rows that fit the temperature make the gate."""
    answers = said(*range(200))
    conditions, rows = conditions_of("ood_score", (answers, answers[:60]), 0.05, 0.5)
    assert (False, 200, 0.5) == (conditions.separate_rows, rows, conditions.floor)
    tied = said(*[min(each, 185) for each in range(200)])
    conditions, rows = conditions_of("ood_score", (tied, tied[:10]), 0.05, 0.5)
    assert (None, 10) == (conditions.gate, rows)


def test_bundle_without_a_gate_holds_up_no_input():
    """A bundle of version 0.1, without gate and floor, keeps all its confidences."""
    conditions = Conditions(None, floor=0.0)
    assert [0.2, 0.9] == conditions.passing(said(1e9, 1.0), np.array([0.2, 0.9])).tolist()


def test_confident_answer_passes_threshold_floor_and_gate():
    """Threshold, floor and gate are one rule, which the agent and the proof share."""
    plain = {"temperature": 1.0, "target_risk": 0.05, "delta": 0.1, "n": 100, "bound": 0.05, "coverage": 0.9}
    rule = Threshold(threshold=0.3, floor=0.5, gate=gate_of(*range(1, 20)), **plain)
    assert rule.is_confident(0.6, 5.0)
    assert not rule.is_confident(0.4, 5.0)
    assert not rule.is_confident(0.99, 1e9)
    assert not rule.is_confident(math.nan, 5.0)


def test_low_label_mass_of_a_decoder_is_held_up():
    """The lower the label mass, the higher the out-of-distribution score."""
    assert mass_score(0.1) > mass_score(0.9)
    assert math.isfinite(mass_score(0.0))
    gate = OodGate(score="label_mass", held_up_max=0.1, scores=tuple(sorted(map(mass_score, np.linspace(0.5, 1, 20)))))
    assert gate.holds_up(gate.score_of(None, 0.01))
    assert not gate.holds_up(gate.score_of(None, 0.9))
