"""The arithmetic of the benchmark of out-of-distribution inputs."""

import numpy as np
import pytest

from benchmarks.out_of_distribution.answers import OodAnswer, auroc, confident, held_up
from benchmarks.out_of_distribution.bundles import Row, split_by_hash
from benchmarks.out_of_distribution.topic import SHARE, UnreadAnswers


def answers_with(*p_values: float) -> list[OodAnswer]:
    """Return inputs with these p-values; inputs with a p-value of at most 0.05 have no confident answer."""
    return [OodAnswer("text", "", "label", confident=p_value > 0.05, p_value=p_value) for p_value in p_values]


def test_auroc_is_the_share_of_pairs_with_a_smaller_ood_p_value():
    """The AUROC is the share of pairs in which the out-of-distribution input has the smaller p-value; a tie counts
    half."""
    assert 1.0 == auroc(answers_with(0.5, 0.9), answers_with(0.01, 0.02))
    assert 0.5 == auroc(answers_with(0.3), answers_with(0.3))
    assert 0.625 == auroc(answers_with(0.3, 0.6), answers_with(0.3, 0.5))
    assert 0.5 == confident(answers_with(0.01, 0.5))


def test_gate_holds_up_its_configured_share_over_resamples():
    """Over resamples, a gate with `held_up_max` of 0.05 holds up 5% of continuous scores on average."""
    mean, error = held_up(np.random.default_rng(2).normal(size=2000), 0.05, 300, 99)
    assert mean == pytest.approx(0.05, abs=5 * error)


def test_rows_are_split_by_their_texts():
    """Rows are split by their texts, so each row is on the same side regardless of the row order."""
    rows = [Row(f"text {n}", "a") for n in range(400)]
    first, others = split_by_hash(rows, 0.25)
    assert set(rows) == {*first, *others}
    assert set(first) == set(split_by_hash(rows[::-1], 0.25)[0])
    assert 60 <= len(first) <= 140


def test_share_of_wrong_answers_is_weighted_by_the_mix_of_calls():
    """The share of wrong confident answers weights the topic by its frequency among the calls, regardless of the number
    of its rows that are asked."""

    def answers(right: int, wrong: int, unsure: int) -> list[OodAnswer]:
        kinds = [("a", True)] * right + [("b", True)] * wrong + [("b", False)] * unsure
        return [OodAnswer("text", "a", label, confident=sure, p_value=0.5) for label, sure in kinds]

    unread = UnreadAnswers(topic=answers(1, 3, 4), ordinary=answers(9, 0, 1))
    assert SHARE * 3 / 8 / (SHARE * 4 / 8 + (1 - SHARE) * 0.9) == pytest.approx(unread.wrong)
    assert 0.0 == UnreadAnswers(answers(0, 0, 2), answers(0, 0, 2)).wrong
