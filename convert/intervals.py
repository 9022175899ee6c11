"""Exact arithmetic on counts of right and wrong answers: intervals and tests. Pure.

Clopper and Pearson 1934 for one share, by the rule that sites use, too; McNemar 1947, exact, for two systems on the
same rows; Bonett and Price 2012 (doi 10.1002/sim.4415) for the difference between these two.
"""

from __future__ import annotations

import math

from scipy import stats

from edge_agent.intervals import LEVEL, Interval, share, upper_bound

__all__ = ["Interval", "mcnemar", "paired_difference", "share", "upper_bound"]


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
