"""Intervals of a share, binomial tests and the capital of a test by betting, for sites and the toolkit. Pure, and
without a library.

Intervals are those of Clopper and Pearson 1934: the bound of k among n is a quantile of a beta distribution. Its
distribution function is a continued fraction, computed by Lentz's method (Press et al., Numerical Recipes, 6.4); the
quantile is found by Newton's steps inside a bracket.

Rows of one family are right or wrong together. Their counts are reduced to an effective sample size by the variance
between families (Korn and Graubard 1998, the interval of the US health surveys). Errors are few, so a quarter of a
family of each extreme is added to the variance; otherwise families that happen to agree would pass for independent rows
(tests/unit/convert/test_clustered_statistics.py draws both).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

LEVEL = 0.95
_TINY, _PRECISION, _TERMS_MAX, _STEPS_MAX = 1e-300, 1e-15, 100_000, 200
_PSEUDO_FAMILIES = 0.25
_ROWS_MAX = 10_000_000
"""More rows than any site collects."""
_TOLERANCE = 1e-10
"""Relative tolerance of a quantile, below the precision of the continued fraction."""
Rates = Sequence[float]
_PROOF_SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.75)
_INTERVAL_RATES = (0.0, 0.002, 0.005, 0.01, 0.02, 0.03, 0.045, 0.06, 0.08, 0.1, 0.15, 0.2, 0.3, 0.45, 0.6, 0.8)
_RATE_MIN, _BISECTIONS = 1e-6, 40


@dataclass(frozen=True)
class Interval:
    """A share or a difference of shares, with the interval that holds the true one with probability `level`."""

    value: float
    low: float
    high: float
    level: float = LEVEL

    def plain(self) -> dict[str, Any]:
        """Return the members for JSON; without rows the value is None."""
        return asdict(self) | ({"value": None} if math.isnan(self.value) else {})


def share(hits: float, rows: float, level: float = LEVEL) -> Interval:
    """Return `hits` of `rows` with its exact two-sided interval; without rows it is 0 to 1 and the value NaN."""
    if not rows:
        return Interval(math.nan, 0.0, 1.0, level)
    tail = (1 - level) / 2
    return Interval(hits / rows, 1 - upper_bound(rows - hits, rows, tail), upper_bound(hits, rows, tail), level)


def share_of_families(families: Sequence[tuple[int, int]], level: float = LEVEL) -> Interval:
    """Return the share of hits with its interval, from (hits, rows) of each family; exact if each has one row."""
    hits, rows = sum(hit for hit, _ in families), sum(size for _, size in families)
    if len(families) == rows:
        return share(hits, rows, level)
    sizes, sums = [size for _, size in families], [float(hit) for hit, _ in families]
    count = independent_rows(sizes, sums, float(hits), (0.0, 1.0), level)
    interval = share(hits * count / rows, count, level)
    return Interval(hits / rows, interval.low, interval.high, level)


def independent_rows(
    sizes: Sequence[int], sums: Sequence[float], squares: float, extremes: tuple[float, float], level: float = LEVEL
) -> float:
    """Return the effective sample size: independent rows with the same precision of the mean as rows in families.

    Args:
        sizes: rows of each family.
        sums: sum of each family's values.
        squares: sum of all squared values.
        extremes: least and greatest value that a row can have.
        level: confidence level of the interval.
    """
    rows, family_count = sum(sizes), len(sizes)
    lower_limit = rows**2 / sum(size**2 for size in sizes)  # the rows of a family all alike
    if family_count < 2:
        return lower_limit
    mean_size = rows / family_count
    pseudo_rows, total = _PSEUDO_FAMILIES * mean_size, sum(sums)
    weighted_rows = rows + 2 * pseudo_rows
    mean = (total + pseudo_rows * sum(extremes)) / weighted_rows
    extreme_squares = sum((extreme - mean) ** 2 for extreme in extremes)
    family_squares = sum((family_sum - size * mean) ** 2 for size, family_sum in zip(sizes, sums, strict=True))
    family_squares += _PSEUDO_FAMILIES * mean_size**2 * extreme_squares
    row_squares = squares - 2 * mean * total + rows * mean**2 + pseudo_rows * extreme_squares
    weighted_families = family_count + 2 * _PSEUDO_FAMILIES
    count = rows / max(1.0, family_squares * weighted_families / (weighted_families - 1) / row_squares)
    # The variance from few families is imprecise.
    count *= (_student(rows - 1, level) / _student(family_count - 1, level)) ** 2
    return min(float(rows), max(lower_limit, count))


def _student(freedom: int, level: float) -> float:
    """Return the two-sided quantile of Student's t: `level` lies between it and its negative."""
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
    # The fraction converges fast below the mean.
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
        excess = beta_cdf(a, b, x) - level
        low, high = (low, x) if excess > 0 else (x, high)
        slope = math.exp(_log_weight(a, b, x) - math.log(x) - math.log1p(-x))
        next_x = x - excess / slope if slope > _TINY else low
        next_x = next_x if low < next_x < high else (low + high) / 2
        if abs(next_x - x) <= _TOLERANCE * x:
            return next_x
        x = next_x
    return x


@dataclass(frozen=True)
class CountedShare:
    """A part of a whole, and the interval that holds the true share with probability LEVEL."""

    hits: int
    rows: int
    low: float
    high: float

    @property
    def value(self) -> float | None:
        """The observed share; None without rows."""
        return self.hits / self.rows if self.rows else None


def counted_share(hits: int, rows: int) -> CountedShare:
    """Return `hits` of `rows` with the exact two-sided interval, 0 to 1 without rows. Raises ValueError."""
    if not 0 <= hits <= rows:
        raise ValueError(f"{hits} of {rows} is not a share")
    interval = share(hits, rows)
    return CountedShare(hits, rows, interval.low, interval.high)


def rows_min(target: float, delta: float) -> int:
    """Return the fewest rows that can prove a risk at most `target`, and only without an error."""
    return math.ceil(math.log(delta) / math.log1p(-target) - 1e-9)


Name = TypeVar("Name")


def divided_delta(rows: Mapping[Name, int], target: float, delta: float) -> tuple[float, list[Name]]:
    """Divide `delta` equally among questions, and return each one's part and the questions that take part.

    A question takes part if it has enough rows to prove `target` at the whole `delta`. Only the numbers of rows count,
    and not whether answers are right, so the division is fixed before the test.
    """
    eligible = [name for name, count in rows.items() if count >= rows_min(target, delta)]
    return delta / max(1, len(eligible)), eligible


def alternative_rates(bound: float, number: int) -> list[float]:
    """Return `number` rates between `bound` and 1, in equal steps of the logarithm: the alternatives of a bettor."""
    return [bound ** (1 - step / (number + 1)) for step in range(1, number + 1)]


def betting_log_capital(judged: int, wrong: int, target: float, rates: int) -> float:
    """Return the logarithm of a bettor's capital against an error rate of `target`, after `judged` answers.

    The capital begins at 1 and is spread evenly over `rates` alternatives; each bet is Wald's likelihood ratio.
    """
    logs = [_log_ratio(judged, wrong, target, rate) for rate in alternative_rates(target, rates)]
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / rates)


def _log_ratio(judged: int, wrong: int, target: float, rate: float) -> float:
    return wrong * math.log(rate / target) + (judged - wrong) * math.log((1 - rate) / (1 - target))


def two_sample_p_value(hits: int, rows: int, hits_now: int, rows_now: int) -> float:
    """Return the exact two-sided p-value of the hypothesis that both samples have the same share.

    It is twice the smaller tail.
    """
    total_rows, total_hits = rows + rows_now, hits + hits_now
    # Above the mean: the upper tail of hits is the lower tail of misses.
    if hits_now * total_rows > total_hits * rows_now:
        hits_now, total_hits = rows_now - hits_now, total_rows - total_hits
    term = math.exp(
        _log_choose(total_hits, hits_now)
        + _log_choose(total_rows - total_hits, rows_now - hits_now)
        - _log_choose(total_rows, rows_now)
    )
    tail, k = 0.0, hits_now
    while term > tail * 1e-17:
        tail += term
        term *= k * (total_rows - total_hits - rows_now + k) / ((total_hits - k + 1) * (rows_now - k + 1))
        k -= 1
    return min(1.0, 2 * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


# --- anytime-valid proofs -----------------------------------------------------------------------------------------


def anytime_proof(errors: int, rows: int, target: float, delta: float) -> bool:
    """Tell whether a risk of at most `target` is proved, with an error of probability `delta` over all looks together.

    The looks may come after any row, and their results may decide when the next is (Ville 1939; Ramdas et al. 2023,
    arXiv 2210.01948): a bettor's capital against each larger risk (`missed_log_capital`, each row one value) has
    reached 1/delta. It takes 1.4 times the rows of an exact binomial test if no row is wrong, and some three times as
    many at half the target.
    """
    counts = {MissedValues(1.0, 1.0): errors, MissedValues(1.0, 0.0): rows - errors}
    documents = {outcome: count for outcome, count in counts.items() if count}
    return missed_log_capital(documents, 1.0, target, proof_rates(target)) >= -math.log(delta)


def anytime_upper_bound(errors: int, rows: int, delta: float) -> float:
    """Return the anytime-valid upper bound of a risk: it is too low with probability `delta` at most.

    It is `alpha` or less exactly when `anytime_proof` proves alpha, because the capital grows with the risk that the
    bets are against.
    """
    return _edge(
        1 - _RATE_MIN,
        min(max(errors / rows, _RATE_MIN), 1 - _RATE_MIN) if rows else 1 - _RATE_MIN,
        lambda rate: anytime_proof(errors, rows, rate, delta),
    )


def anytime_rows_min(target: float, delta: float) -> int:
    """Return the fewest rows with which `anytime_proof` can prove a target, which takes rows without an error."""
    return fewest(lambda rows: anytime_proof(0, rows, target, delta), rows_min(target, delta), math.inf) or 0


def anytime_rows_needed(error_share: float, target: float, delta: float) -> int | None:
    """Return about the fewest rows with which `anytime_proof` proves a target if `error_share` of them are wrong.

    None = more than any site collects.
    """
    if error_share >= target:
        return None
    return fewest(lambda rows: anytime_proof(round(error_share * rows), rows, target, delta), rows_min(target, delta))


def fewest(is_proved: Callable[[int], bool], low: int, rows_max: float = _ROWS_MAX) -> int | None:
    """Return about the fewest rows, `low` or more, for which `is_proved` holds; it should hold from some number on.

    None = not with `rows_max`.
    """
    high = low
    while not is_proved(high):
        low, high = high, 2 * high
        if high > rows_max:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if is_proved(middle) else (middle + 1, high)
    return high


@dataclass(frozen=True)
class MissedValues:
    """Counts of one document after redaction, or the means of a family of documents."""

    values: float
    """Personal values in it, at most `values_max`."""
    missed: float
    """Of these, those that redaction missed."""


def missed_log_capital(documents: Mapping[MissedValues, float], values_max: float, rate: float, rates: Rates) -> float:
    """Return the logarithm of a bettor's capital against "`rate` of the personal values remain".

    The rate is of values, the unit is the document: its values may be missed together. If the claim is true, the
    capital is a martingale that begins at 1, so it ever reaches 1/delta with probability delta at most, whatever the
    dependence within a document and whenever one looks (Ville 1939; Waudby-Smith and Ramdas, arXiv 2010.09686). A bet
    on rate q is the likelihood ratio of one value drawn from the document, and one is drawn with probability
    values / values_max.

    Args:
        documents: number of documents with each outcome.
        values_max: largest number of values of a document, fixed before the documents are seen.
        rate: the claimed rate, in (0, 1).
        rates: the rates of the bets, in [0, 1); the capital is spread evenly over them.
    """
    logs = []
    for bet in rates:
        missed_ratio, found_ratio = bet / rate, (1 - bet) / (1 - rate)
        log = 0.0
        for outcome, count in documents.items():
            values, missed = outcome.values, outcome.missed
            payoff = missed * missed_ratio + (values - missed) * found_ratio + values_max - values
            log += count * (math.log(payoff / values_max) if payoff > 0 else -math.inf)
        logs.append(log)
    highest = max(logs)
    if highest == -math.inf:
        return highest
    return highest + math.log(math.fsum(math.exp(each - highest) for each in logs) / len(logs))


def proof_rates(target: float) -> list[float]:
    """Return the rates of the bets, all below a target, to prove that less than the target remains."""
    return [share * target for share in _PROOF_SHARES]


def missed_interval(documents: Mapping[MissedValues, float], values_max: float, level: float = LEVEL) -> Interval:
    """Return the share of personal values that remain, with an anytime-valid interval (a confidence sequence).

    It holds every rate that the bettor's capital does not refute. The capital is log-convex in the rate, so these rates
    are an interval around the observed share.
    """
    values = math.fsum(each.values * count for each, count in documents.items())
    missed = math.fsum(each.missed * count for each, count in documents.items())
    if not values:
        return Interval(math.nan, 0.0, 1.0, level)
    observed, refuting_log_capital = missed / values, -math.log(1 - level)

    def is_refuted(rate: float) -> bool:
        return missed_log_capital(documents, values_max, rate, _INTERVAL_RATES) >= refuting_log_capital

    middle = min(max(observed, _RATE_MIN), 1 - _RATE_MIN)
    return Interval(observed, _edge(_RATE_MIN, middle, is_refuted), _edge(1 - _RATE_MIN, middle, is_refuted), level)


def _edge(outer: float, inner: float, is_refuted: Callable[[float], bool]) -> float:
    """Return the border between refuted and other rates; 0 or 1 if no rate on this side is refuted."""
    if not is_refuted(outer):
        return float(round(outer))
    for _ in range(_BISECTIONS):
        middle = (outer + inner) / 2
        outer, inner = (middle, inner) if is_refuted(middle) else (outer, middle)
    return outer
