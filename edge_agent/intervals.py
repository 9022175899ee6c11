"""The exact interval of a share, from counts: one rule for site and factory. Pure, and without a library.

Clopper and Pearson 1934. The bound of k among n is a quantile of a beta distribution; its distribution function is
the continued fraction of Lentz (Press et al., Numerical Recipes, 6.4), the quantile is found by Newton's steps inside
a bracket.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

LEVEL = 0.95
_TINY, _PRECISION, _TERMS_MAX, _STEPS_MAX = 1e-300, 1e-15, 100_000, 200
_NEAR = 1e-10
"""Of a quantile, relative: below what the fraction itself is sure of."""


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
    return Interval(hits / rows, 1 - upper_bound(rows - hits, rows, tail), upper_bound(hits, rows, tail), level)


def upper_bound(errors: int, rows: int, delta: float) -> float:
    """Return the risk that is exceeded with probability `delta` at most (Clopper-Pearson, one-sided).

    It is `alpha` or less exactly when the binomial probability of `errors` or fewer, at risk alpha, is `delta` or less.
    """
    return 1.0 if errors >= rows else _quantile(errors + 1, rows - errors, 1 - delta)


def beta_cdf(a: float, b: float, x: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    # The fraction converges fast on this side of the mean.
    if x > (a + 1) / (a + b + 2):
        return 1 - beta_cdf(b, a, 1 - x)
    return math.exp(_log_weight(a, b, x)) * _fraction(a, b, x) / a


def _log_weight(a: float, b: float, x: float) -> float:
    """Return the logarithm of x^a (1-x)^b / B(a, b)."""
    return a * math.log(x) + b * math.log1p(-x) + math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)


def _coefficients(a: float, b: float, x: float) -> Iterator[float]:
    yield 1.0
    yield -(a + b) * x / (a + 1)
    for m in range(1, _TERMS_MAX):
        yield m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        yield -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))


def _fraction(a: float, b: float, x: float) -> float:
    value, c, d = _TINY, _TINY, 0.0
    for number in _coefficients(a, b, x):
        d = 1 / ((1 + number * d) or _TINY)
        c = (1 + number / c) or _TINY
        value *= c * d
        if abs(c * d - 1) < _PRECISION:
            break
    return value


def _quantile(a: float, b: float, level: float) -> float:
    low, high, x = 0.0, 1.0, a / (a + b)
    for _ in range(_STEPS_MAX):
        over = beta_cdf(a, b, x) - level
        low, high = (low, x) if over > 0 else (x, high)
        slope = math.exp(_log_weight(a, b, x) - math.log(x) - math.log1p(-x))
        after = x - over / slope if slope > _TINY else low
        after = after if low < after < high else (low + high) / 2
        if abs(after - x) <= _NEAR * x:
            return after
        x = after
    return x
