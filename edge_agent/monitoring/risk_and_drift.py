"""The tests of a bundle in production. Each is valid after every answer, for as long as the bundle runs. Pure.

**Risk** (`RiskEvidence`): do confident answers err more often than the bundle guarantees? The hypothesis is "each is
wrong with probability `target` at most, whatever came before". A bettor stakes against it: after each judged answer the
capital is multiplied by 1 + s (x - target), where x is 1 for wrong and 0 for right. Under the hypothesis the capital
does not grow on average, so the probability that it ever reaches 1/delta is at most delta (Ville 1939). The capital is
spread evenly over RISK_RATES error rates between target and 1, so that neither a small excess nor a large one is missed
for long (Waudby-Smith and Ramdas 2024, arXiv 2010.09686; for deployed models Podkopaev and Ramdas 2022, arXiv
2110.06177). It depends on the two counts alone: only these are stored, and the highest capital so far.

**Input shift** (`InputShiftTest`): are more inputs outside the gate than the bundle's held-out rows explain? A gate
gives each input a conformal p-value (`formats/calibration_and_gate.py`). While inputs resemble the held-out rows, a
p-value of k / (rows + 1) or less has an unknown, fixed probability, which follows a Beta(k, rows + 1 - k) distribution
(Vovk 2012, arXiv 1209.2673). The hypothesis is that it is at most the upper quantile of this distribution; half of the
chance of a false alarm is spent on these quantiles, half on the bets. After a late change, the bets would first have to
recover earlier losses, so part of the capital starts at each input: the sum over all starting points, with weights that
add up to 1, is again a test supermartingale (Shin et al. 2022, arXiv 2203.03532).

**Drift** (`DriftStream`): do answers and inputs look as they did? Each window is compared with the first rows, by the
shares of predefined events. If both come from one distribution, the count in the window is hypergeometric given the
total, whatever the share (Fisher 1935). The events of a window share its level (Bonferroni), and the k-th window gets
delta / (k (k + 1)), so the probability that a stream ever raises a false alarm is at most DRIFT_DELTA. Time of day and
day of the week break the assumption, so a difference below the floor raises no alarm.

All three assume independent inputs. One text that a device sends a thousand times violates this.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from edge_agent.statistics import alternative_rates, betting_log_capital, two_sample_p_value, upper_bound

RISK_RATES = 20
TOLERATED_SHARE_MAX = 0.5
"""Cap on the tolerated share of contradictions."""
SHIFT_LEVEL = 0.01
"""Default probability of a false alarm over the life of a bundle."""
CUTS = (0.01, 0.03, 0.1)
"""Limits on p-values; each has its own bets."""
SHIFT_RATES = 5
"""Alternative rates per cut, between the bound and 1 in equal steps of the logarithm."""
HALF_OF_STARTS = 1000
"""The starting points among this many first inputs have half of the weight."""
EXCESS_MAX = 5.0
"""Cap on the log capital above the alarm's limit, so that an alarm ends soon after the change does."""
REFERENCE_ROWS = 1000
WINDOW_ROWS = 500
DRIFT_DELTA = 0.01

# --- risk -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RiskGuarantee:
    """A bundle's risk guarantee for its confident answers."""

    target: float
    """Maximum share of wrong answers."""
    delta: float
    """Probability of a false alarm over the whole life of the bundle."""

    @property
    def limit(self) -> float:
        """The log capital at which the guarantee counts as refuted."""
        return -math.log(self.delta)


@dataclass(frozen=True)
class RiskEvidence:
    """Judged answers, and the evidence against a guarantee."""

    judged: int = 0
    wrong: int = 0
    peak: float = 0.0
    """The highest log capital so far; it starts at 0."""
    allowed: float = 0.0
    """Upper bound on the judge's own error rate, known before the first judged answer. In each contradiction at least
    one of the two is wrong, so the share of contradictions is at most the sum of both error rates."""
    unjudged: int = 0
    """Drawn answers that nobody judged in time. They count as right: missing judgements must not be evidence against a
    guarantee."""

    def tolerated_share(self, guarantee: RiskGuarantee) -> float:
        """Return the maximum share of answers judged wrong under the guarantee."""
        return min(guarantee.target + self.allowed, max(guarantee.target, TOLERATED_SHARE_MAX))

    def after(self, wrong: bool | None, guarantee: RiskGuarantee) -> RiskEvidence:
        """Return the evidence with one more answer; None = nobody judged it."""
        if wrong is None:
            return replace(self, unjudged=self.unjudged + 1)
        judged, errors = self.judged + 1, self.wrong + wrong
        # Only errors increase the capital, so only they can raise its peak.
        capital = (
            betting_log_capital(judged + self.unjudged, errors, self.tolerated_share(guarantee), RISK_RATES)
            if wrong
            else self.peak
        )
        return replace(self, judged=judged, wrong=errors, peak=max(self.peak, capital))

    def rejects(self, guarantee: RiskGuarantee) -> bool:
        """Return whether the guarantee is refuted, which is permanent."""
        return self.peak >= guarantee.limit


# --- input shift ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PValueCut:
    """p-values up to a limit, and how frequent they are by chance."""

    limit: float
    share: float
    """Expected share of inputs like the held-out rows, averaged over all draws of these rows."""
    bound: float
    """Upper confidence bound on this share for the actual held-out rows."""
    bets: tuple[tuple[float, float], ...]
    """For each alternative rate: the change of the log capital for a p-value above the limit, and for one within it."""


@dataclass(frozen=True)
class InputShiftFinding:
    """The estimated change behind a rejection."""

    since: float
    """Estimated start of the change, in seconds since 1970."""
    inputs: int
    """Inputs since then."""
    within: int
    """Of these, with a p-value of `limit` or less."""
    limit: float
    bound: float
    """The share of such inputs that chance explains at most."""
    share: float
    """Estimated share of new inputs since then: unlike the held-out rows, with a p-value within the limit."""


class InputShiftTest:
    """The test of one bundle at one site; `plain` and `of` convert it for storage."""

    def __init__(self, rows: int, level: float = SHIFT_LEVEL) -> None:
        """Begin; `rows`: number of held-out rows, `level`: probability of a false alarm."""
        self._rows, self._level = rows, level
        self._cuts = p_value_cuts(rows, level)
        self._inputs = 0
        number = len(self._cuts) * SHIFT_RATES
        self._capital = [-math.inf] * number
        """Log capital by cut and rate."""
        self._run = [0.0] * number
        """Log likelihood ratio of each bet, maximized over its starting points (CUSUM, Page 1954)."""
        self._since = [0.0] * number
        self._counts = [[0, 0] for _ in range(number)]
        """Inputs since `_since`, and how many of them were within the limit."""

    @property
    def seen(self) -> int:
        """Inputs so far."""
        return self._inputs

    @property
    def log_capital(self) -> float:
        """The log capital; it starts at 0."""
        if not self._capital:
            return 0.0
        remaining = HALF_OF_STARTS / (self._inputs + HALF_OF_STARTS)
        highest = max(0.0, *self._capital)
        mean = sum(math.exp(capital - highest) for capital in self._capital) / len(self._capital)
        return highest + math.log(mean + remaining * math.exp(-highest))

    @property
    def limit(self) -> float:
        """The log capital at which the hypothesis is rejected."""
        return -math.log(self._level / 2)

    def observe(self, p_value: float, at: float) -> bool:
        """Add one input; return whether the hypothesis is rejected now."""
        inputs = self._inputs
        start = math.log(HALF_OF_STARTS) - math.log(inputs + HALF_OF_STARTS) - math.log(inputs + 1 + HALF_OF_STARTS)
        capital_max = self.limit + EXCESS_MAX
        bet_index = 0
        for cut in self._cuts:
            within = p_value <= cut.limit
            for bet in cut.bets:
                gain = bet[within]
                self._capital[bet_index] = min(_log_sum(self._capital[bet_index], start) + gain, capital_max)
                if self._run[bet_index] <= 0.0:
                    self._run[bet_index], self._since[bet_index], self._counts[bet_index] = 0.0, at, [0, 0]
                self._run[bet_index] += gain
                self._counts[bet_index][0] += 1
                self._counts[bet_index][1] += within
                bet_index += 1
        self._inputs += 1
        return self.log_capital >= self.limit

    def finding(self) -> InputShiftFinding | None:
        """Return the change according to the bet with the most evidence; None = no bet has any."""
        bet_index = max(range(len(self._run)), key=self._run.__getitem__, default=-1)
        if bet_index < 0 or self._run[bet_index] <= 0.0:
            return None
        cut, (inputs, within) = self._cuts[bet_index // SHIFT_RATES], self._counts[bet_index]
        share = max(0.0, (within / inputs - cut.share) / (1 - cut.share))
        return InputShiftFinding(self._since[bet_index], inputs, within, cut.limit, cut.bound, share)

    def plain(self) -> dict[str, Any]:
        """Return the state for JSON."""
        return {
            "rows": self._rows,
            "level": self._level,
            "seen": self._inputs,
            "capital": [None if each == -math.inf else each for each in self._capital],
            "run": list(self._run),
            "since": list(self._since),
            "counts": [list(each) for each in self._counts],
        }

    @classmethod
    def of(cls, plain: Mapping[str, Any]) -> InputShiftTest:
        """Return the test that was stored; it keeps its level."""
        shift = cls(plain["rows"], plain["level"])
        shift._inputs = plain["seen"]
        shift._capital = [-math.inf if each is None else each for each in plain["capital"]]
        shift._run, shift._since = list(plain["run"]), list(plain["since"])
        shift._counts = [list(each) for each in plain["counts"]]
        return shift


@lru_cache(maxsize=256)
def p_value_cuts(rows: int, level: float) -> tuple[PValueCut, ...]:
    """Return the cuts for a number of held-out rows; a cut for which they are too few is left out."""
    cuts = []
    for limit in CUTS:
        rank = math.floor(limit * (rows + 1) + 1e-9)
        if rank < 1:
            continue
        bound = upper_bound(rank - 1, rows, level / 2 / len(CUTS))
        rates = alternative_rates(bound, SHIFT_RATES)
        bets = tuple((math.log((1 - rate) / (1 - bound)), math.log(rate / bound)) for rate in rates)
        # A p-value is a fraction with this denominator, so the limit lies between two possible values.
        cuts.append(PValueCut((rank + 0.5) / (rows + 1), rank / (rows + 1), bound, bets))
    return tuple(cuts)


def _log_sum(one: float, other: float) -> float:
    high, low = (one, other) if one >= other else (other, one)
    return high + math.log1p(math.exp(low - high))


# --- drift ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DriftFinding:
    """A difference between a window and the reference."""

    event: str
    reference_share: float
    """Share in the reference."""
    window_share: float
    """Share in the window."""


@dataclass(frozen=True)
class EventSample:
    """A number of rows, and how often each event occurred."""

    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def plus(self, rows: Sequence[Iterable[str]]) -> EventSample:
        """Return the sample with more rows, each given by its events."""
        counts = Counter(self.counts)
        counts.update(itertools.chain.from_iterable(rows))
        return EventSample(self.rows + len(rows), dict(counts))

    def share(self, event: str) -> float:
        """Return the share of an event; 0 without rows."""
        return self.counts.get(event, 0) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class DriftStream:
    """One property that may drift, with reference and windows."""

    reference: EventSample = EventSample()
    window: EventSample = EventSample()
    windows: int = 0
    """Number of windows compared so far."""
    last: EventSample = EventSample()
    """The last complete window."""
    calibrated: bool = False
    """The reference is the bundle's calibration, not the first answers at this site."""

    @property
    def room(self) -> int:
        """Rows until the reference or, after it, the window is complete."""
        return max(self.reference_rows_missing, 0) or WINDOW_ROWS - self.window.rows

    def after(self, rows: Sequence[Iterable[str]]) -> DriftStream:
        """Return the stream with more rows, at most `room`, each given by its events.

        When `is_full`, the window can be judged.
        """
        if self.reference_rows_missing > 0:
            return replace(self, reference=self.reference.plus(rows))
        return replace(self, window=self.window.plus(rows))

    @property
    def reference_rows_missing(self) -> int:
        """Rows missing in the reference; a calibrated one is complete."""
        return 0 if self.calibrated else REFERENCE_ROWS - self.reference.rows

    @property
    def is_full(self) -> bool:
        """Whether the window is complete."""
        return self.window.rows >= WINDOW_ROWS

    def next_window(self) -> DriftStream:
        """Return the stream with an empty window."""
        return replace(self, window=EventSample(), last=self.window, windows=self.windows + 1)

    def find_drift(self, floor: float, events: int) -> DriftFinding | None:
        """Return the largest significant difference in a complete window; `events`: number of possible events."""
        window_number = self.windows + 1
        level = DRIFT_DELTA / (window_number * (window_number + 1)) / max(events, 1)
        significant = [finding for finding in self.differences(floor) if self._p_value(finding.event) <= level]
        return max(significant, key=lambda finding: abs(finding.window_share - finding.reference_share), default=None)

    def differences(self, floor: float) -> list[DriftFinding]:
        """Return the events whose shares differ by at least the floor."""
        names = sorted(self.reference.counts.keys() | self.window.counts.keys())
        findings = (DriftFinding(name, self.reference.share(name), self.window.share(name)) for name in names)
        return [finding for finding in findings if abs(finding.window_share - finding.reference_share) >= floor]

    def _p_value(self, event: str) -> float:
        reference, window = self.reference, self.window
        return two_sample_p_value(
            reference.counts.get(event, 0), reference.rows, window.counts.get(event, 0), window.rows
        )
