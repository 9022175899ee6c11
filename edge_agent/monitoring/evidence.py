"""A test that may be looked at any time: do the answers that a bundle is sure of err more often than it promises? Pure.

The hypothesis is "each of them is wrong with probability `target` at most, whatever came before". Somebody bets against
it, with a fair stake: after each judged answer his capital is multiplied by 1 + s (x - target), where x is 1 for wrong
and 0 for right. Under the hypothesis the capital does not grow on average, so that it ever reaches 1/delta with
probability delta at most (Ville 1939), however long the stream and however often one looks. Wald's likelihood ratio of
an error rate `r` against `target` is such a bet; here the capital is spread evenly over RATES rates between target and
1, so that neither a small excess nor a large one is missed for long. Waudby-Smith and Ramdas 2024, "Estimating means of
bounded random variables by betting" (arXiv 2010.09686); for the risk of deployed models Podkopaev and Ramdas 2022
(arXiv 2110.06177).

The capital depends on the two counts alone: what has to be remembered is these, and whether it ever was enough.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

RATES = 20
HELD_TO_MAX = 0.5
"""Beyond that a judge says nothing."""


@dataclass(frozen=True)
class Promise:
    """What a bundle's calibration promises of the answers that it is sure of."""

    target: float
    """At most such a share is wrong."""
    delta: float
    """The chance of a false alarm over the whole life of the bundle."""

    @property
    def limit(self) -> float:
        """The evidence at which it counts as refuted."""
        return -math.log(self.delta)


@dataclass(frozen=True)
class Evidence:
    """Answers that were judged, and what that says against a promise."""

    judged: int = 0
    wrong: int = 0
    peak: float = 0.0
    """The highest logarithm of the capital so far; it begins at 0."""
    allowed: float = 0.0
    """The share that the judge itself gets wrong at most, as far as that was known before the first answer: where two
    contradict each other one of them is wrong, so that the share of contradictions is the sum of both at most."""
    unjudged: int = 0
    """Answers that were drawn, and of which nobody said anything in time. They count as right: who is missing must not
    be evidence against a promise, and wrong answers are the likelier ones to be reported."""

    def held_to(self, promise: Promise) -> float:
        """Return the share of answers that may be judged wrong while the promise holds."""
        return min(promise.target + self.allowed, max(promise.target, HELD_TO_MAX))

    def after(self, wrong: bool | None, promise: Promise) -> Evidence:
        """Return it with one more answer; None = nobody judged it."""
        if wrong is None:
            return replace(self, unjudged=self.unjudged + 1)
        judged, errors = self.judged + 1, self.wrong + wrong
        # Capital grows with errors only: looking at others would change nothing.
        capital = log_capital(judged + self.unjudged, errors, self.held_to(promise)) if wrong else self.peak
        return replace(self, judged=judged, wrong=errors, peak=max(self.peak, capital))

    def rejects(self, promise: Promise) -> bool:
        """Tell whether the promise is refuted; once it is, it stays so."""
        return self.peak >= promise.limit


def log_capital(judged: int, wrong: int, target: float) -> float:
    """Return the logarithm of the capital after that many answers, so many of them wrong."""
    logs = [_log_ratio(judged, wrong, target, target ** (1 - step / (RATES + 1))) for step in range(1, RATES + 1)]
    highest = max(logs)
    return highest + math.log(sum(math.exp(each - highest) for each in logs) / RATES)


def _log_ratio(judged: int, wrong: int, target: float, rate: float) -> float:
    return wrong * math.log(rate / target) + (judged - wrong) * math.log((1 - rate) / (1 - target))
