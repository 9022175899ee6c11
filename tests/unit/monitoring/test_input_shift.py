"""The sequential test of a bundle's gate: its false-alarm rate for any held-out rows, and its power."""

import bisect
import json
import math
import random

import pytest

from edge_agent.monitoring.risk_and_drift import CUTS, SHIFT_LEVEL, SHIFT_RATES, InputShiftTest, p_value_cuts
from edge_agent.statistics import beta_cdf

ROWS = 1000
NEW_MEAN = 3.0
"""Scores of what is known have mean 0, those of what is new this one; both have standard deviation 1."""


class Inputs:
    """A stream of inputs with the p-values of a gate; each seed has its own gate."""

    def __init__(self, seed: int, rows: int = ROWS) -> None:
        self._random = random.Random(seed)
        self._held_out = sorted(self._random.gauss(0, 1) for _ in range(rows))
        self.at = 0.0

    def observe(self, shift: InputShiftTest, number: int, new_share: float = 0.0) -> int | None:
        """Let so many arrive; return at which of them the hypothesis was rejected first."""
        rejected = None
        for each in range(number):
            mean = NEW_MEAN if self._random.random() < new_share else 0.0
            stranger = len(self._held_out) - bisect.bisect_left(self._held_out, self._random.gauss(mean, 1))
            self.at += 1.0
            if shift.observe((1 + stranger) / (len(self._held_out) + 1), self.at) and rejected is None:
                rejected = each
        return rejected


def test_false_alarm_rate_is_within_the_level():
    """At level 0.2, with 30 draws of held-out rows and 1,000 inputs each, at most 6 streams raise an alarm."""
    alarms = [Inputs(seed, 200).observe(InputShiftTest(200, 0.2), 1000) for seed in range(30)]
    assert 6 >= sum(each is not None for each in alarms)


def test_a_new_topic_is_found_and_dated():
    """5% of new inputs after 2,000 known ones are detected, with a date and share close to the truth."""
    inputs, shift = Inputs(1), InputShiftTest(ROWS)
    assert None is inputs.observe(shift, 2000)
    rejected = inputs.observe(shift, 3000, 0.05)
    finding = shift.finding()
    assert rejected is not None
    assert finding is not None
    assert 1000 <= finding.since <= 3000
    assert 0.02 <= finding.share <= 0.08
    assert finding.within / finding.inputs > finding.bound


def test_evidence_decreases_after_the_change_ends():
    """When inputs are again as before, the capital falls to its initial value."""
    inputs, shift = Inputs(2), InputShiftTest(ROWS)
    inputs.observe(shift, 1500, 0.3)
    assert shift.log_capital >= shift.limit
    inputs.observe(shift, 4000)
    assert 0.0 >= shift.log_capital


def test_a_stored_test_continues():
    """A test that is written as JSON and read after every input gives the same result as one that is not."""
    one, other = InputShiftTest(ROWS), InputShiftTest(ROWS)
    inputs, again = Inputs(3), Inputs(3)
    inputs.observe(one, 40, 0.2)
    for _ in range(40):
        again.observe(other, 1, 0.2)
        other = InputShiftTest.of(json.loads(json.dumps(other.plain())))
    assert one.plain() == other.plain()
    assert one.log_capital == other.log_capital


@pytest.mark.parametrize("rows", [33, 100, 1000, 4096])
def test_bounds_hold_for_nearly_all_draws_of_held_out_rows(rows):
    """The bound of each cut is the quantile of its Beta distribution, and the mean share is below it."""
    for cut in p_value_cuts(rows, SHIFT_LEVEL):
        place = round(cut.share * (rows + 1))
        assert pytest.approx(1 - SHIFT_LEVEL / 2 / len(CUTS), abs=1e-6) == beta_cdf(place, rows + 1 - place, cut.bound)
        assert cut.share < cut.bound < 1
        assert SHIFT_RATES == len(cut.bets)


def test_no_bet_gains_on_average_while_nothing_changes():
    """At the bound the expected factor of every bet is 1, so the capital does not grow on average."""
    for cut in p_value_cuts(ROWS, SHIFT_LEVEL):
        for beyond, within in cut.bets:
            assert pytest.approx(1.0) == cut.bound * math.exp(within) + (1 - cut.bound) * math.exp(beyond)


def test_too_few_held_out_rows_never_raise_an_alarm():
    """With so few held-out rows that no cut contains one, no alarm is raised."""
    shift = InputShiftTest(8)
    assert not any(shift.observe(1 / 9, float(each)) for each in range(500))
    assert shift.finding() is None
    assert 500 == shift.seen
