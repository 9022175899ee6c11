"""Exact arithmetic on counts of right and wrong answers: intervals and tests. Pure.

Clopper and Pearson 1934 for one share; McNemar 1947, exact, for two systems on the same rows; Bonett and Price 2012
(doi 10.1002/sim.4415) for the difference between these two.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with the interval that holds the true one with probability `level`."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it; the value of no rows is None."""
        return asdict(self) | ({"value": None} if math.isnan(self.value) else {})


def share(hits: int, rows: int, level: float = LEVEL) -> Interval:
    """Return `hits` of `rows` with its exact two-sided interval; of no rows nothing is known: 0 to 1."""
    if not rows:
        return Interval(math.nan, 0.0, 1.0, level)
    tail = (1 - level) / 2
    return Interval(hits / rows, _lower(hits, rows, tail), upper_bound(hits, rows, tail), level)


def upper_bound(errors: int, rows: int, delta: float) -> float:
    """Return the risk that is exceeded with probability `delta` at most (Clopper-Pearson, one-sided).

    It is `alpha` or less exactly when the binomial probability of `errors` or fewer, at risk alpha, is `delta` or less.
    """
    return 1.0 if errors >= rows else float(stats.beta.ppf(1 - delta, errors + 1, rows - errors))


def _lower(hits: int, rows: int, tail: float) -> float:
    return float(stats.beta.ppf(tail, hits, rows - hits + 1)) if hits else 0.0


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value that two systems err equally often.

    Args:
        only_first: rows that only the first system has right.
        only_second: rows that only the second has right. Rows that both have right, or both wrong, say nothing.
    """
    discordant = only_first + only_second
    return float(stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def paired_difference(only_first: int, only_second: int, rows: int, level: float = LEVEL) -> Interval:
    """Return by how much the second system's share of right answers is higher, on the same rows."""
    if not rows:
        return Interval(math.nan, -1.0, 1.0, level)
    gained, lost = (only_second + 1) / (rows + 2), (only_first + 1) / (rows + 2)
    middle = gained - lost
    half = float(stats.norm.ppf((1 + level) / 2)) * math.sqrt((gained + lost - middle**2) / (rows + 2))
    return Interval((only_second - only_first) / rows, max(-1.0, middle - half), min(1.0, middle + half), level)
