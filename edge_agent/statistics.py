"""The interval of a share, from counts: one rule for site and factory. Pure, and without a library.

Clopper and Pearson 1934. The bound of k among n is a quantile of a beta distribution; its distribution function is
the continued fraction of Lentz (Press et al., Numerical Recipes, 6.4), the quantile is found by Newton's steps inside
a bracket.

Rows of one family are right or wrong together. Their counts are brought down to as many independent rows as say the
same, by the variance between families (Korn and Graubard 1998, the interval of the US health surveys). Errors are few:
the variance is measured with a quarter of a family of each extreme added, or families that happen to agree would pass
for independent rows (tests/unit/convert/test_intervals.py draws both).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

LEVEL = 0.95
_TINY, _PRECISION, _TERMS_MAX, _STEPS_MAX = 1e-300, 1e-15, 100_000, 200
_PSEUDO_FAMILIES = 0.25
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


def share(hits: float, rows: float, level: float = LEVEL) -> Interval:
    """Return `hits` of `rows` with its exact two-sided interval; of no rows nothing is known: 0 to 1."""
    if not rows:
        return Interval(math.nan, 0.0, 1.0, level)
    tail = (1 - level) / 2
    return Interval(hits / rows, 1 - upper_bound(rows - hits, rows, tail), upper_bound(hits, rows, tail), level)


def share_of_families(families: Sequence[tuple[int, int]], level: float = LEVEL) -> Interval:
    """Return the share of hits, from hits and rows of each family, with its interval; families of one row are exact."""
    hits, rows = sum(hit for hit, _ in families), sum(size for _, size in families)
    if len(families) == rows:
        return share(hits, rows, level)
    sizes, sums = [size for _, size in families], [float(hit) for hit, _ in families]
    count = independent_rows(sizes, sums, float(hits), (0.0, 1.0), level)
    found = share(hits * count / rows, count, level)
    return Interval(hits / rows, found.low, found.high, level)


def independent_rows(
    sizes: Sequence[int], sums: Sequence[float], squares: float, extremes: tuple[float, float], level: float = LEVEL
) -> float:
    """Return the number of independent rows whose mean is known as well as that of rows in families.

    Args:
        sizes: rows of each family.
        sums: of each family's values.
        squares: sum of all squared values.
        extremes: least and greatest value that a row can have.
        level: of the interval.
    """
    rows, number = sum(sizes), len(sizes)
    fewest = rows**2 / sum(size**2 for size in sizes)  # the rows of a family all alike
    if number < 2:
        return fewest
    usual = rows / number
    extra, total = _PSEUDO_FAMILIES * usual, sum(sums)
    whole = rows + 2 * extra
    mean = (total + extra * sum(extremes)) / whole
    far = sum((extreme - mean) ** 2 for extreme in extremes)
    between = sum((each - size * mean) ** 2 for size, each in zip(sizes, sums, strict=True))
    between += _PSEUDO_FAMILIES * usual**2 * far
    alone = squares - 2 * mean * total + rows * mean**2 + extra * far
    counted = number + 2 * _PSEUDO_FAMILIES
    count = rows / max(1.0, between * counted / (counted - 1) / alone)
    # Few families tell the variance badly.
    count *= (_student(rows - 1, level) / _student(number - 1, level)) ** 2
    return min(float(rows), max(fewest, count))


def _student(freedom: int, level: float) -> float:
    """Return the quantile of Student's t that holds `level` between it and its negative."""
    x = _quantile(freedom / 2, 0.5, 1 - level)
    return math.sqrt(freedom * (1 - x) / x)


def upper_bound(errors: float, rows: float, delta: float) -> float:
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
