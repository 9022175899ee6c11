"""Shares with what they rest on, and the binomial test of a risk. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent import statistics

LEVEL = statistics.LEVEL
_ROWS_MAX = 10_000_000
"""Whoever needs more than that needs another model."""


@dataclass(frozen=True)
class Share:
    """A part of a whole, and the interval that holds the true share with probability LEVEL."""

    hits: int
    rows: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The share as it was seen; None of no rows."""
        return self.hits / self.rows if self.rows else None


def share(hits: int, rows: int) -> Share:
    """Return `hits` of `rows` with the exact two-sided interval; of no rows nothing is known: 0 to 1."""
    if not 0 <= hits <= rows:
        raise ValueError(f"{hits} of {rows} is no share")
    found = statistics.share(hits, rows)
    return Share(hits, rows, found.low, found.high)


def at_most(errors: int, rows: int, risk: float) -> float:
    """Return the binomial probability of so many errors or fewer."""
    return 1.0 if errors >= rows else statistics.beta_cdf(rows - errors, errors + 1, 1 - risk)


def rows_min(target: float, delta: float) -> int:
    """Return the fewest rows that can prove a risk at most `target`, and only without an error."""
    return math.ceil(math.log(delta) / math.log1p(-target) - 1e-9)


def rows_needed(error_share: float, target: float, delta: float) -> int | None:
    """Return about the fewest rows that prove `target` at that share of errors; None = no reasonable number does."""
    if error_share >= target:
        return None
    low = high = rows_min(target, delta)
    while not _proves(error_share, high, target, delta):
        low, high = high, 2 * high
        if high > _ROWS_MAX:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _proves(error_share, middle, target, delta) else (middle + 1, high)
    return high


def _proves(error_share: float, rows: int, target: float, delta: float) -> bool:
    return at_most(round(error_share * rows), rows, target) <= delta
