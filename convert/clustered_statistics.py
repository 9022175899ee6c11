"""Intervals and tests for right and wrong answers: of one system, and of two systems on the same rows. Pure.

Shares follow the rule that sites use too (edge_agent/statistics.py). Two systems: McNemar 1947, exact; Bonett and Price
2012 (doi 10.1002/sim.4415) for the difference between their shares. Rows of one family tend to be right or wrong
together: counts are reduced to independent rows by the same rule, and the tests exchange the two systems in whole
families. If no two rows share a family, the results equal those of the exact rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from edge_agent.statistics import LEVEL, Interval, independent_rows, share, share_of_families, upper_bound

__all__ = [
    "LEVEL",
    "Interval",
    "clustered_difference",
    "clustered_share",
    "difference_of",
    "exchange_p_value",
    "family_numbers",
    "holm",
    "mcnemar",
    "paired_difference",
    "paired_p_value",
    "share",
    "upper_bound",
]

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]

EXCHANGES = 4000
"""Random exchanges of a test that has no exact distribution: a p-value of 0.05 is known to about 0.003."""
_SEED = 20261128
_CELLS_AT_ONCE = 2_000_000


def family_numbers(families: Sequence[str]) -> Numbers:
    """Return a number for each row, the same for rows of one family."""
    return np.unique(np.array(families, dtype=object).astype(str), return_inverse=True)[1].astype(np.int64)


def clustered_share(right: Sequence[bool] | npt.NDArray[np.bool_], families: Numbers) -> Interval:
    """Return the share of right answers with its interval, valid if rows of a family are right or wrong together.

    Args:
        right: [rows].
        families: [rows], as `family_numbers` gives them.
    """
    flags = np.asarray(right, dtype=np.int64)
    sizes, nonempty = _sizes(families)
    return share_of_families(list(zip(np.bincount(families, flags)[nonempty].astype(int).tolist(), sizes, strict=True)))


def clustered_difference(differences: Numbers, families: Numbers) -> Interval:
    """Return the mean of differences between two systems on the same rows, each 1, 0 or -1, with its interval."""
    rows, gained, lost = len(differences), int((differences > 0).sum()), int((differences < 0).sum())
    if not rows or _share_no_family(families):
        return paired_difference(lost, gained, rows)
    sizes, nonempty = _sizes(families)
    sums = np.bincount(families, differences)[nonempty].tolist()
    count = independent_rows(sizes, sums, float(gained + lost), (-1.0, 1.0))
    return paired_difference(lost * count / rows, gained * count / rows, count)


def paired_p_value(differences: Numbers, families: Numbers) -> float:
    """Return the exact two-sided p-value that neither of two systems is better: McNemar's, in whole families.

    If neither is better, each family's sum of differences has either sign with probability one half.
    The distribution of their sum comes from its characteristic function.
    """
    if not len(differences) or _share_no_family(families):
        return mcnemar(int((differences < 0).sum()), int((differences > 0).sum()))
    sums = np.abs(np.bincount(families, differences)).astype(np.int64)
    largest_sum, observed = int(sums.sum()), abs(int(differences.sum()))
    angles = 2 * np.pi * np.arange(2 * largest_sum + 1) / (2 * largest_sum + 1)
    product = np.ones(len(angles))
    for size, number in zip(*np.unique(sums[sums > 0], return_counts=True), strict=True):
        product *= np.cos(angles * size) ** number
    probabilities = np.fft.ifft(product).real
    if not observed:
        return 1.0
    outside = 1 - probabilities[:observed].sum() - probabilities[len(angles) - observed + 1 :].sum()
    return float(np.clip(outside, 0.0, 1.0))


def difference_of(first: Interval, second: Interval) -> Interval:
    """Return second - first, from the intervals of both (MOVER: Zou and Donner 2008, doi 10.1002/sim.3095).

    It is too wide if the two are positively correlated, as on the same rows.
    """
    if math.isnan(first.value) or math.isnan(second.value):
        return Interval(math.nan, -1.0, 1.0, first.level)
    value = second.value - first.value
    below = math.hypot(second.value - second.low, first.high - first.value)
    above = math.hypot(second.high - second.value, first.value - first.low)
    return Interval(value, value - below, value + above, first.level)


def exchange_p_value(first: Floats, second: Floats, statistic: Callable[[Floats], Floats]) -> float:
    """Return the two-sided p-value that a statistic of two systems differs by chance, by random exchanges.

    Args:
        first: [families, columns], what each family adds to the sums of the first system.
        second: likewise.
        statistic: of sums, [exchanges, columns] to [exchanges]; NaN counts as no difference.
    """
    total, change = first.sum(axis=0) + second.sum(axis=0), second - first
    observed = _gap(change.sum(axis=0)[None], total, statistic)[0]
    generator, as_large = np.random.default_rng(_SEED), 0
    step = max(1, _CELLS_AT_ONCE // max(1, len(change)))
    for start in range(0, EXCHANGES, step):
        signs = 2.0 * generator.integers(0, 2, (min(step, EXCHANGES - start), len(change)), dtype=np.int8) - 1.0
        as_large += int((_gap(signs @ change, total, statistic) >= observed - 1e-12).sum())
    return (1 + as_large) / (1 + EXCHANGES)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for their number (Holm 1979): at a level of 5%, the probability of any false alarm among
    all of them is at most 5%."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, lower_bound = list(p_values), 0.0
    for rank, index in enumerate(order):
        lower_bound = max(lower_bound, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = lower_bound
    return adjusted


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two systems err equally often.

    Args:
        only_first: rows that only the first system has right.
        only_second: rows that only the second has right. Rows that both have right, or both wrong, do not count.
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def paired_difference(only_first: float, only_second: float, rows: float) -> Interval:
    """Return by how much the second system's share of right answers is higher, on the same rows."""
    if not rows:
        return Interval(math.nan, -1.0, 1.0)
    gained, lost = (only_second + 1) / (rows + 2), (only_first + 1) / (rows + 2)
    middle = gained - lost
    half = float(stats.norm.ppf((1 + LEVEL) / 2)) * math.sqrt((gained + lost - middle**2) / (rows + 2))
    return Interval((only_second - only_first) / rows, max(-1.0, middle - half), min(1.0, middle + half))


def _share_no_family(families: Numbers) -> bool:
    """Return whether no two rows share a family."""
    return len(np.unique(families)) == len(families)


def _sizes(families: Numbers) -> tuple[list[int], npt.NDArray[np.bool_]]:
    """Return the rows of each family, and which numbers have rows."""
    sizes = np.bincount(families)
    return sizes[sizes > 0].tolist(), sizes > 0


def _gap(change: Floats, total: Floats, statistic: Callable[[Floats], Floats]) -> Floats:
    return np.nan_to_num(np.abs(statistic((total + change) / 2) - statistic((total - change) / 2)))
