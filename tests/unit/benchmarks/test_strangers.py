"""The arithmetic of the benchmark of strange inputs."""

import numpy as np
import pytest

from benchmarks.strangers.answers import Asked, auroc, confident, held_up
from benchmarks.strangers.bundles import Row, parted
from benchmarks.strangers.topic import SHARE, Unread


def asked(*p_values: float) -> list[Asked]:
    """Return inputs with these p-values; those of at most 0.05 got no confident answer."""
    return [Asked("text", "", "label", confident=p_value > 0.05, p_value=p_value) for p_value in p_values]


def test_a_strange_input_should_have_the_smaller_p_value():
    """Of the pairs of an ordinary and a strange input those count where it has; a tie counts half."""
    assert 1.0 == auroc(asked(0.5, 0.9), asked(0.01, 0.02))
    assert 0.5 == auroc(asked(0.3), asked(0.3))
    assert 0.625 == auroc(asked(0.3, 0.6), asked(0.3, 0.5))
    assert 0.5 == confident(asked(0.01, 0.5))


def test_a_gate_holds_up_at_most_what_it_promises_over_resamples():
    """Of continuous scores (rows + 1) x held_up_max, rounded down, are held up of rows + 1, on average."""
    mean, error = held_up(np.random.default_rng(2).normal(size=2000), 0.05, 300, 99)
    assert mean == pytest.approx(0.05, abs=5 * error)


def test_rows_are_parted_by_their_texts():
    """The same rows are on the same side whatever their order."""
    rows = [Row(f"text {n}", "a") for n in range(400)]
    first, others = parted(rows, 0.25)
    assert set(rows) == {*first, *others}
    assert set(first) == set(parted(rows[::-1], 0.25)[0])
    assert 60 <= len(first) <= 140


def test_wrong_answers_are_counted_at_the_mix_of_the_calls():
    """The topic is as frequent as among the calls, however many of its rows are asked about."""

    def answers(right: int, wrong: int, unsure: int) -> list[Asked]:
        kinds = [("a", True)] * right + [("b", True)] * wrong + [("b", False)] * unsure
        return [Asked("text", "a", label, confident=sure, p_value=0.5) for label, sure in kinds]

    said = Unread(topic=answers(1, 3, 4), ordinary=answers(9, 0, 1))
    assert SHARE * 3 / 8 / (SHARE * 4 / 8 + (1 - SHARE) * 0.9) == pytest.approx(said.wrong)
    assert 0.0 == Unread(answers(0, 0, 2), answers(0, 0, 2)).wrong
