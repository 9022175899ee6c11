"""Are more inputs outside the gate than the bundle's own held-out rows explain? Tested by betting, at any time. Pure.

A gate gives each input a conformal p-value (`formats/ood_gate.py`). While inputs resemble the held-out rows, a p-value
of k / (rows + 1) or less has a probability that does not change from input to input, but is not known: it depends on
which rows were held out, and follows a Beta(k, rows + 1 - k) distribution (Vovk 2012, arXiv 1209.2673). So the
hypothesis is that it is at most the upper quantile of this distribution. Half of the chance of a false alarm is spent
on these quantiles, half on the bets.

The bets are Wald's likelihood ratios of a larger rate against that bound. Each is a test supermartingale whatever came
before (Waudby-Smith and Ramdas 2024, arXiv 2010.09686). A change that comes late would have to win back what was lost
before, so capital is put in again at every input: the sum over all starting points, weighted so that the weights add
up to 1, is again a test supermartingale (Shin et al. 2022, arXiv 2203.03532), and one number remembers it. By Ville's
inequality its capital ever reaches 1 / level with probability `level` at most, over the whole life of the bundle.

Assumed: inputs are independent of each other. One text that a device sends a thousand times is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from edge_agent.statistics import upper_bound

LEVEL = 0.01
"""Default probability of a false alarm over the life of a bundle."""
CUTS = (0.01, 0.03, 0.1)
"""p-values of so much or less are counted, each cut with bets of its own."""
RATES = 5
"""Alternatives at each cut, between the bound and 1 in equal steps of the logarithm."""
HALF_OF_STARTS = 1000
"""The starting points among the first so many inputs have half of the weight."""
EXCESS_MAX = 5.0
"""Logarithm of the capital above that of the alarm: no more is kept, so that an alarm ends when the change does."""


@dataclass(frozen=True)
class Cut:
    """p-values up to a limit, and how often these come by chance at most."""

    limit: float
    share: float
    """Of the inputs that resemble the held-out rows, on average over all draws of these rows."""
    bound: float
    """For the rows that were held out."""
    bets: tuple[tuple[float, float], ...]
    """For each alternative rate: what a p-value beyond the limit, and one within it, adds to the logarithm."""


@dataclass(frozen=True)
class NewInputs:
    """What was found."""

    since: float
    """When it began, in seconds since 1970: where the evidence for the likeliest bet begins."""
    inputs: int
    """Since then."""
    within: int
    """Of these, with a p-value of `limit` or less."""
    limit: float
    bound: float
    """The share of such inputs that chance explains."""
    share: float
    """Estimate of the share of inputs, since then, that do not resemble the held-out rows and have such a p-value."""


class InputShift:
    """The test of one bundle at one site; `plain` and `of` are how it is stored."""

    def __init__(self, rows: int, level: float = LEVEL) -> None:
        """Begin; `rows` were held out, `level` is the chance of a false alarm."""
        self._rows, self._level = rows, level
        self._cuts = cuts(rows, level)
        self._seen = 0
        number = len(self._cuts) * RATES
        self._capital = [-math.inf] * number
        """Logarithms, by cut and rate."""
        self._run = [0.0] * number
        """Logarithms of the best likelihood ratio of the bet over its starting points (CUSUM, Page 1954)."""
        self._since = [0.0] * number
        self._counts = [[0, 0] for _ in range(number)]
        """Inputs since then, and how many of them were within the limit."""

    @property
    def seen(self) -> int:
        """Inputs so far."""
        return self._seen

    @property
    def log_capital(self) -> float:
        """The logarithm of the evidence; it begins at 0."""
        if not self._capital:
            return 0.0
        kept = HALF_OF_STARTS / (self._seen + HALF_OF_STARTS)
        highest = max(0.0, *self._capital)
        every = sum(math.exp(each - highest) for each in self._capital) / len(self._capital)
        return highest + math.log(every + kept * math.exp(-highest))

    @property
    def limit(self) -> float:
        """The evidence at which the hypothesis is rejected."""
        return -math.log(self._level / 2)

    def observe(self, p_value: float, at: float) -> bool:
        """Take one more input; tell whether the hypothesis is rejected now."""
        seen = self._seen
        start = math.log(HALF_OF_STARTS) - math.log(seen + HALF_OF_STARTS) - math.log(seen + 1 + HALF_OF_STARTS)
        most = self.limit + EXCESS_MAX
        place = 0
        for cut in self._cuts:
            within = p_value <= cut.limit
            for bet in cut.bets:
                gain = bet[within]
                self._capital[place] = min(_log_sum(self._capital[place], start) + gain, most)
                self._follow(place, gain, within, at)
                place += 1
        self._seen += 1
        return self.log_capital >= self.limit

    def _follow(self, place: int, gain: float, within: bool, at: float) -> None:
        if self._run[place] <= 0.0:
            self._run[place], self._since[place], self._counts[place] = 0.0, at, [0, 0]
        self._run[place] += gain
        self._counts[place][0] += 1
        self._counts[place][1] += within

    def found(self) -> NewInputs | None:
        """Return what the likeliest bet says; None = nothing speaks for new inputs."""
        place = max(range(len(self._run)), key=self._run.__getitem__, default=-1)
        if place < 0 or self._run[place] <= 0.0:
            return None
        cut, (inputs, within) = self._cuts[place // RATES], self._counts[place]
        share = max(0.0, (within / inputs - cut.share) / (1 - cut.share))
        return NewInputs(self._since[place], inputs, within, cut.limit, cut.bound, share)

    def plain(self) -> dict[str, Any]:
        """Return the state for JSON."""
        return {
            "rows": self._rows,
            "level": self._level,
            "seen": self._seen,
            "capital": [None if each == -math.inf else each for each in self._capital],
            "run": list(self._run),
            "since": list(self._since),
            "counts": [list(each) for each in self._counts],
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> InputShift:
        """Return the test that was stored; it keeps its level."""
        shift = cls(plain["rows"], plain["level"])
        shift._seen = plain["seen"]
        shift._capital = [-math.inf if each is None else each for each in plain["capital"]]
        shift._run, shift._since = list(plain["run"]), list(plain["since"])
        shift._counts = [list(each) for each in plain["counts"]]
        return shift


@lru_cache(maxsize=256)
def cuts(rows: int, level: float) -> tuple[Cut, ...]:
    """Return what is counted with so many held-out rows; with too few for a cut it is left out."""
    found = []
    for wanted in CUTS:
        place = math.floor(wanted * (rows + 1) + 1e-9)
        if place < 1:
            continue
        bound = upper_bound(place - 1, rows, level / 2 / len(CUTS))
        rates = [bound ** (1 - step / (RATES + 1)) for step in range(1, RATES + 1)]
        bets = tuple((math.log((1 - rate) / (1 - bound)), math.log(rate / bound)) for rate in rates)
        # A p-value is a fraction with this denominator: the limit lies between two of them.
        found.append(Cut((place + 0.5) / (rows + 1), place / (rows + 1), bound, bets))
    return tuple(found)


def _log_sum(one: float, other: float) -> float:
    high, low = (one, other) if one >= other else (other, one)
    return high + math.log1p(math.exp(low - high))
