"""Exact intervals and tests: what they promise, on every outcome that can happen."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convert.intervals import mcnemar, paired_difference, share, upper_bound

COUNTS = st.integers(1, 400).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows)))


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    # Clopper and Pearson's own example, and the rule of three; figures from R's binom.test.
    [(7, 20, 0.1539092, 0.5921885), (0, 100, 0.0, 0.0362167), (100, 100, 0.9637833, 1.0), (1, 2, 0.0125791, 0.9874209)],
)
def test_the_interval_is_that_of_the_tables(hits, rows, low, high):
    """The interval is the exact one of Clopper and Pearson."""
    found = share(hits, rows)
    assert (hits / rows, pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6)) == (
        found.value,
        found.low,
        found.high,
    )


@given(COUNTS, st.floats(0.5, 0.999))
def test_an_interval_holds_what_was_seen(counts, level):
    """The share that was seen lies in its interval, and the interval in 0 to 1."""
    found = share(*counts, level)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_of_no_rows_nothing_is_known():
    """Without rows the interval is everything."""
    found = share(0, 0)
    assert (True, 0.0, 1.0) == (math.isnan(found.value), found.low, found.high)
    assert {"value": None, "low": 0.0, "high": 1.0, "level": 0.95} == share(0, 0).plain()
    assert (-1.0, 1.0) == (paired_difference(0, 0, 0).low, paired_difference(0, 0, 0).high)


@pytest.mark.parametrize(("rows", "risk"), [(20, 0.1), (45, 0.05), (200, 0.02)])
def test_the_bound_fails_as_rarely_as_it_says(rows, risk):
    """Over everything that n rows can show, the bound lies below the true risk with probability delta at most."""
    broken = sum(stats.binom.pmf(e, rows, risk) for e in range(rows + 1) if upper_bound(e, rows, 0.1) < risk)
    assert broken <= 0.1


@given(COUNTS, st.floats(0.001, 0.5), st.floats(0.01, 0.5))
def test_the_bound_is_the_binomial_test_turned_round(counts, risk, delta):
    """The bound is under a risk exactly when so few errors are that improbable at it."""
    errors, rows = counts
    tail = stats.binom.cdf(errors, rows, risk)
    if abs(tail - delta) > 1e-9 and errors < rows:
        assert (tail < delta) == (upper_bound(errors, rows, delta) < risk)


@pytest.mark.parametrize(
    ("first", "second", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (6, 0, 2 / 64), (1, 9, 22 / 1024)]
)
def test_mcnemar_is_a_fair_coin(first, second, p_value):
    """The rows that one system alone has right fall to either like a coin, when both are equally good."""
    assert p_value == pytest.approx(mcnemar(first, second))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_a_difference_turns_its_sign_with_the_systems(first, second, ties):
    """Exchanging the systems mirrors the difference; what was seen lies inside."""
    rows = max(1, first + second + ties)
    there, back = paired_difference(first, second, rows), paired_difference(second, first, rows)
    assert (there.value, there.low, there.high) == (-back.value, pytest.approx(-back.high), pytest.approx(-back.low))
    assert -1.0 <= there.low <= there.value <= there.high <= 1.0
