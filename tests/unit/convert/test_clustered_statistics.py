"""Exact intervals and tests: their guarantees on every possible outcome."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from convert.clustered_statistics import (
    Interval,
    clustered_difference,
    clustered_share,
    difference_of,
    exchange_p_value,
    family_numbers,
    holm,
    mcnemar,
    paired_difference,
    paired_p_value,
    share,
    upper_bound,
)

COUNTS = st.integers(1, 400).flatmap(lambda rows: st.tuples(st.integers(0, rows), st.just(rows)))


@pytest.mark.parametrize(
    ("hits", "rows", "low", "high"),
    # Clopper and Pearson's own example, and the rule of three; figures from R's binom.test.
    [(7, 20, 0.1539092, 0.5921885), (0, 100, 0.0, 0.0362167), (100, 100, 0.9637833, 1.0), (1, 2, 0.0125791, 0.9874209)],
)
def test_interval_matches_published_tables(hits, rows, low, high):
    """The interval is the exact one of Clopper and Pearson."""
    found = share(hits, rows)
    assert (hits / rows, pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6)) == (
        found.value,
        found.low,
        found.high,
    )


@given(COUNTS, st.floats(0.5, 0.999))
def test_interval_contains_the_observed_share(counts, level):
    """The observed share is in its interval, and the interval is within 0 to 1."""
    found = share(*counts, level)
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0


def test_interval_without_rows_is_the_full_range():
    """Without rows, the interval of a share is 0 to 1 and that of a difference -1 to 1."""
    found = share(0, 0)
    assert (True, 0.0, 1.0) == (math.isnan(found.value), found.low, found.high)
    assert {"value": None, "low": 0.0, "high": 1.0, "level": 0.95} == share(0, 0).plain()
    assert (-1.0, 1.0) == (paired_difference(0, 0, 0).low, paired_difference(0, 0, 0).high)


@pytest.mark.parametrize(("rows", "risk"), [(20, 0.1), (45, 0.05), (200, 0.02)])
def test_bound_is_below_the_true_risk_with_probability_delta(rows, risk):
    """Over all outcomes of n rows, the upper bound is below the true risk with probability delta at most."""
    broken = sum(stats.binom.pmf(e, rows, risk) for e in range(rows + 1) if upper_bound(e, rows, 0.1) < risk)
    assert broken <= 0.1


@given(COUNTS, st.floats(0.001, 0.5), st.floats(0.01, 0.5))
def test_bound_is_the_inverse_of_the_binomial_test(counts, risk, delta):
    """The bound is below a risk exactly if the probability of so few errors at that risk is below delta."""
    errors, rows = counts
    tail = stats.binom.cdf(errors, rows, risk)
    if abs(tail - delta) > 1e-9 and errors < rows:
        assert (tail < delta) == (upper_bound(errors, rows, delta) < risk)


@pytest.mark.parametrize(
    ("first", "second", "p_value"), [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 64), (6, 0, 2 / 64), (1, 9, 22 / 1024)]
)
def test_mcnemar_matches_a_fair_coin(first, second, p_value):
    """If both systems are equally good, each row that only one answers correctly belongs to either with probability
    0.5."""
    assert p_value == pytest.approx(mcnemar(first, second))


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 300))
def test_difference_is_antisymmetric(first, second, ties):
    """Exchanging the systems mirrors the difference and its interval, which contains the observed difference."""
    rows = max(1, first + second + ties)
    there, back = paired_difference(first, second, rows), paired_difference(second, first, rows)
    assert (there.value, there.low, there.high) == (-back.value, pytest.approx(-back.high), pytest.approx(-back.low))
    assert -1.0 <= there.low <= there.value <= there.high <= 1.0


# --- families of rows ---------------------------------------------------------------------------------------------

FLAGS = st.lists(st.booleans(), min_size=1, max_size=60)


def in_families(
    drawn: np.random.Generator, rows: int, size: int, correlation: float, chance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return right answers in families of equal size with this correlation, and the families."""
    common = np.repeat(drawn.random(rows // size) < chance, size)
    takes = drawn.random(rows) < math.sqrt(correlation)
    return np.where(takes, common, drawn.random(rows) < chance), np.arange(rows) // size


@given(FLAGS)
def test_families_of_one_row_have_the_exact_interval(flags):
    """If no two rows share a family, the clustered interval equals the exact one to the last bit."""
    families = family_numbers([f"row {i}" for i in range(len(flags))])
    assert share(sum(flags), len(flags)) == clustered_share(flags, families)


@pytest.mark.parametrize(
    ("size", "correlation", "chance"),
    [(4, 0.3, 0.9), (4, 0.6, 0.9), (8, 0.3, 0.9), (8, 0.6, 0.9), (8, 0.6, 0.97), (4, 0.6, 0.97), (8, 0.0, 0.9)],
)
def test_clustered_interval_covers_the_true_share(size, correlation, chance):
    """The clustered interval contains the true share in 93% of the draws, less two standard errors; an interval of
    independent rows does so less often."""
    draws, held, naive = 400, 0, 0
    drawn = np.random.default_rng(3)
    for _ in range(draws):
        right, families = in_families(drawn, 304, size, correlation, chance)
        found, other = clustered_share(right, families), share(int(right.sum()), len(right))
        held += found.low <= chance <= found.high
        naive += other.low <= chance <= other.high
    assert held >= (0.93 - 2 * math.sqrt(0.93 * 0.07 / draws)) * draws
    assert naive < held or not correlation


@given(FLAGS, st.integers(1, 8))
def test_clustered_interval_is_at_least_as_wide(flags, size):
    """The clustered interval contains the observed share and the interval of independent rows."""
    found, plain = clustered_share(flags, np.arange(len(flags)) // size), share(sum(flags), len(flags))
    assert 0.0 <= found.low <= found.value <= found.high <= 1.0
    assert (found.low, found.high) <= (plain.low + 1e-9, 2.0)
    assert found.high >= plain.high - 1e-9


def test_one_family_counts_as_one_row():
    """50 rows of one family have the lower limit of one row."""
    assert share(1, 1).low == pytest.approx(clustered_share([True] * 50, np.zeros(50, np.int64)).low)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=40))
def test_paired_test_of_single_row_families_is_mcnemar(differences):
    """With families of one row the p-value is McNemar's, for any order of the family numbers."""
    gaps = np.array(differences)
    assert mcnemar(int((gaps < 0).sum()), int((gaps > 0).sum())) == paired_p_value(gaps, np.arange(len(gaps))[::-1])


@pytest.mark.parametrize(("sums", "p_value"), [([3, 3, 3], 2 / 8), ([2, -1], 1.0), ([2, 1, 1], 2 / 8), ([1, -1], 1.0)])
def test_paired_test_exchanges_whole_families(sums, p_value):
    """The p-value is the share of all exchanges of whole families with at least as large a sum."""
    gaps = np.concatenate([np.full(abs(each), np.sign(each)) for each in sums])
    families = np.repeat(np.arange(len(sums)), np.abs(sums))
    assert p_value == pytest.approx(paired_p_value(gaps, families))


def test_false_alarms_of_the_paired_test_are_rare():
    """Two equally good versions with errors by family differ significantly in at most 5% of the draws, plus two
    standard errors."""
    draws, alarms = 300, 0
    drawn = np.random.default_rng(3)
    for _ in range(draws):
        first, families = in_families(drawn, 160, 4, 0.6, 0.85)
        second, _ = in_families(drawn, 160, 4, 0.6, 0.85)
        alarms += paired_p_value(second.astype(int) - first.astype(int), families) <= 0.05
    assert alarms <= (0.05 + 2 * math.sqrt(0.05 * 0.95 / draws)) * draws


def test_clustered_difference_has_a_wider_interval():
    """The same differences in families of five have the same value and a wider interval."""
    gaps = np.repeat([1, 0, -1, 1, 0, 0, 1, 0], 5)
    alone, together = (clustered_difference(gaps, each) for each in (np.arange(40), np.arange(40) // 5))
    assert alone.value == together.value == pytest.approx(0.25)
    assert together.low < alone.low < alone.high < together.high


def test_exchange_test_distinguishes_difference_from_chance():
    """In shares of wrong rows, 30 of 100 and 10 of 100 differ significantly, and 12 and 10 do not."""

    def sums(wrong: int) -> np.ndarray:
        return np.stack([np.arange(100) < wrong, np.ones(100)], axis=1).astype(float)

    def ratio(total: np.ndarray) -> np.ndarray:
        return total[:, 0] / total[:, 1]

    assert exchange_p_value(sums(30), sums(10), ratio) < 0.001
    assert exchange_p_value(sums(12), sums(10), ratio) > 0.3
    assert 1.0 == exchange_p_value(sums(10), sums(10), ratio)


def test_difference_of_two_intervals_matches_newcombe():
    """In Newcombe's MOVER example, 56 of 70 and 48 of 80 differ by 0.2, 0.052 to 0.334 with Wilson's intervals."""
    first, second = Interval(0.6, 0.4905, 0.7004), Interval(0.8, 0.6918, 0.8770)
    found = difference_of(first, second)
    assert (pytest.approx(0.2), pytest.approx(0.0524, abs=2e-3), pytest.approx(0.3339, abs=2e-3)) == (
        found.value,
        found.low,
        found.high,
    )
    assert math.isnan(difference_of(share(0, 0), second).value)


def test_holm_adjusts_p_values_for_their_number():
    """In Holm's example, 0.01, 0.04 and 0.03 become 0.03, 0.06 and 0.06."""
    assert [pytest.approx(0.03), pytest.approx(0.06), pytest.approx(0.06)] == holm([0.01, 0.04, 0.03])
    assert [] == holm([])
