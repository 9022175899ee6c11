"""Chooses the threshold of confident answers from confidences and whether each answer was right. Pure.

Exact-binomial fixed-sequence testing: Angelopoulos et al., Learn then Test (arXiv 2110.01052). The thresholds are fixed
beforehand and tested downwards. Each is tested on the rows at or above it: the hypothesis that the risk exceeds the
target is rejected if the observed number of errors, or fewer, has a probability of at most `delta`. The test ends at
the first threshold that is not rejected; the last rejected one is the result. So, for rows like those of the site, the
probability that the risk of confident answers exceeds the target is at most `delta`. The rows must be independent: one
row of each family.

The test does not start at the strictest threshold, which has the fewest rows, but where it is likely to pass: other
rows, whose labels have no other use here, estimate the errors at each threshold (`start_of`). Thresholds with too few
rows to pass even without an error are skipped. Neither invalidates the proof: both depend only on the other rows and on
the confidences, so the sequence is still fixed before the labels are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from edge_agent import statistics

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Verdict = Literal["too few", "passed", "failed", "not tested"]

# 0.99, 0.98, ... 0.01: with many labels an answer below one half can be confident.
GRID: tuple[float, ...] = tuple(round(0.99 - 0.01 * step, 2) for step in range(99))
_START_CHANCE = 0.95
"""The test starts at the strictest threshold whose probability to pass is at least this share of the best one's."""
# The estimate of the labels needed uses only thresholds with at least this many accepted rows.
_GUESS_ROWS_MIN = 5
_ROWS_MAX = 100_000_000


@dataclass(frozen=True)
class Risk:
    """A risk guarantee: at most `target` of the confident answers are wrong, except with probability `delta`."""

    target: float
    delta: float

    @property
    def rows_min(self) -> int:
        """The fewest rows that can pass, if none is wrong."""
        return statistics.rows_min(self.target, self.delta)

    def passes(self, errors: int, rows: int) -> bool:
        """Return whether `errors` or fewer have a probability of at most `delta` if the risk is the target or more."""
        return bool(stats.binom.cdf(errors, rows, self.target) <= self.delta)


@dataclass(frozen=True)
class Step:
    """One threshold of the fixed-sequence test."""

    threshold: float
    rows: int
    """Rows at or above it."""
    errors: int
    verdict: Verdict


@dataclass(frozen=True)
class Choice:
    """The result of a fixed-sequence test."""

    threshold: float | None
    """None: no threshold reaches the target, always escalate."""
    rows: int
    """Number of rows that were tested."""
    bound: float
    """Proved bound on the risk at the threshold: the target, since the threshold was chosen by the same rows; 1 without
    one."""
    coverage: float
    """Share of the rows at or above the threshold; 0 without one."""
    steps: tuple[Step, ...] = field(repr=False)


def choose(confidences: Floats, right: Flags, risk: Risk, grid: tuple[float, ...] = GRID, start: float = 1.0) -> Choice:
    """Test the thresholds of the grid in turn.

    Args:
        confidences: [rows], 0 to 1, as the agent computes them with the bundle's temperature.
        right: [rows], whether the answer was right; independent of each other.
        risk: the target.
        grid: thresholds, falling.
        start: the first threshold that is tested, chosen without `right`; 1 = the strictest.
    """
    steps, is_open = [], True
    for threshold, (rows, errors) in zip(grid, counts(confidences, right, grid), strict=True):
        verdict = _verdict(rows, errors, risk) if is_open and threshold <= start else "not tested"
        is_open = is_open and verdict != "failed"
        steps.append(Step(threshold, rows, errors, verdict))
    last = next((step for step in reversed(steps) if step.verdict == "passed"), None)
    if last is None:
        return Choice(None, len(confidences), 1.0, 0.0, tuple(steps))
    return Choice(last.threshold, len(confidences), risk.target, last.rows / len(confidences), tuple(steps))


def start_of(confidences: Floats, tuning: tuple[Floats, Flags], risk: Risk) -> float:
    """Return the threshold at which a test of rows with these confidences should start.

    For each threshold, the rows of `tuning` at or above it give a distribution of the risk (beta, with Jeffreys'
    prior), and from it the probability that the rows to be tested have few enough errors (beta-binomial).

    Args:
        confidences: [rows] that are going to be tested; their labels are not known here.
        tuning: [other rows], confidence and whether the answer was right.
        risk: the target.
    """
    rows = np.array([n for n, _ in counts(confidences, np.ones(len(confidences), np.bool_), GRID)])
    tuning_rows, tuning_errors = np.array(counts(*tuning, GRID)).T
    errors_max = stats.binom.ppf(risk.delta, rows, risk.target)
    errors_max -= stats.binom.cdf(errors_max, rows, risk.target) > risk.delta
    chances = stats.betabinom.cdf(errors_max, rows, tuning_errors + 0.5, tuning_rows - tuning_errors + 0.5)
    chances[(rows < risk.rows_min) | (tuning_rows == 0)] = 0.0
    return GRID[int(np.argmax(chances >= _START_CHANCE * chances.max()))] if chances.max() > 0 else 1.0


def _verdict(rows: int, errors: int, risk: Risk) -> Verdict:
    if rows < risk.rows_min:
        return "too few"
    return "passed" if risk.passes(errors, rows) else "failed"


def counts(confidences: Floats, right: Flags, grid: tuple[float, ...]) -> list[tuple[int, int]]:
    """Return for each threshold the rows at or above it, and the errors among them."""
    order = np.argsort(-confidences, kind="stable")
    errors = np.concatenate([[0], np.cumsum(~right[order])])
    rows = np.searchsorted(-confidences[order], [-threshold for threshold in grid], side="right")
    return list(zip(rows.tolist(), errors[rows].tolist(), strict=True))


def lowest_below(confidences: Floats, right: Flags, target: float, grid: tuple[float, ...] = GRID) -> float | None:
    """Return the lowest threshold at which the share of errors seen is at most the target, or None.

    On the calibration rows this is the naive rule, which violates the target about every second time; on all data it is
    the oracle's choice.
    """
    pairs = zip(grid, counts(confidences, right, grid), strict=True)
    return min((threshold for threshold, (rows, errors) in pairs if rows and errors <= target * rows), default=None)


def rows_needed(choice: Choice, risk: Risk) -> int | None:
    """Estimate how many calibration rows would prove some threshold; None if more rows would not help.

    For each threshold: its share of errors e and its share of rows c, as seen, with half an error added. It takes the
    smallest m for which m accepted rows with e m errors pass; on average m / c rows give m accepted ones. The smallest
    of these numbers is the estimate. About half of all samples of that size suffice.
    """
    rows = [_rows_needed_at(step, choice.rows, risk) for step in choice.steps if step.rows >= _GUESS_ROWS_MIN]
    return min((each for each in rows if each is not None), default=None)


def _rows_needed_at(step: Step, rows: int, risk: Risk) -> int | None:
    error_share = (step.errors + 0.5) / (step.rows + 1)
    if error_share >= risk.target:
        return None
    accepted = statistics.fewest(lambda m: risk.passes(round(m * error_share), m), risk.rows_min, _ROWS_MAX)
    return None if accepted is None else math.ceil(accepted * rows / step.rows)
