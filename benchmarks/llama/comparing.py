"""The result of a comparison: the ratio of paired measurements, its confidence interval, and its limit. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from benchmarks.bars import Bar

RESAMPLES, SEED = 10_000, 1
OUTSIDE = (0.025, 0.975)
ALIKE = ": the same kernels"
"""Ends the name of a comparison with a llama-server that has the agent's."""


class MeasuredPair(NamedTuple):
    """One figure of each side, measured right after each other, whichever came first."""

    ours: float
    theirs: float


class Ratio(NamedTuple):
    """Median of the ratios ours / theirs, and the bounds of its 95% confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ComparisonGoal:
    """What is compared, and what the ratio has to be."""

    bar: str
    better: Literal["lower", "higher"]
    unit: str
    """Of what each side is measured in."""
    limit: float | None = None
    stretch: float | None = None
    """What is hoped for beyond the limit."""
    by_interval: bool = False
    """The limit is met where the better end of the interval reaches it."""
    than: str = "llama-server"


@dataclass(frozen=True)
class Comparison(Bar):
    """A bar whose value is a ratio."""

    low: float
    high: float
    """The 95% confidence interval."""
    ours: float
    theirs: float
    """Medians."""
    unit: str
    than: str
    """Who they are."""
    stretch: float | None
    by_interval: bool
    model: str
    pairs: int

    @property
    def judged(self) -> float:
        """The ratio, or the better end of its interval."""
        if not self.by_interval:
            return self.value
        return self.low if self.better == "lower" else self.high

    def line(self) -> str:
        """Return it as a row of the table."""
        measured = f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"
        sides = f"{self.ours:.4g} : {self.theirs:.4g} {self.unit}"
        return f"{self.model:<22} {self.bar:<58} {measured:>19}  {self._verdict():<18} {sides}"


@dataclass(frozen=True)
class Figure(Bar):
    """A figure of our own, with what belongs to it."""

    about: dict[str, str]
    model: str = ""


def reported(comparison: Comparison) -> Comparison:
    """Return the measurements against a llama-server with the agent's kernels, which have no limit."""
    bar = comparison.bar + ALIKE
    return replace(comparison, bar=bar, limit=None, stretch=None, by_interval=False, than="llama-server with it")


def ratio(pairs: Sequence[MeasuredPair]) -> Ratio:
    """Return the median of the pairs' ratios and its interval, by a percentile bootstrap over the pairs."""
    ratios = np.array([pair.ours / pair.theirs for pair in pairs])
    drawn = np.random.default_rng(SEED).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[drawn], axis=1), OUTSIDE)
    return Ratio(float(np.median(ratios)), float(low), float(high))


def compared(goal: ComparisonGoal, pairs: Sequence[MeasuredPair], model: str) -> Comparison:
    """Hold pairs against a goal."""
    found = ratio(pairs)
    ours, theirs = (float(np.median(side)) for side in zip(*pairs, strict=True))
    return Comparison(
        bar=goal.bar,
        value=round(found.value, 4),
        limit=goal.limit,
        better=goal.better,
        low=round(found.low, 4),
        high=round(found.high, 4),
        ours=ours,
        theirs=theirs,
        unit=goal.unit,
        than=goal.than,
        stretch=goal.stretch,
        by_interval=goal.by_interval,
        model=model,
        pairs=len(pairs),
    )
