"""Do a bundle's answers and inputs look as they did? Window after window is held against the first ones. Pure.

What is compared are shares of events fixed beforehand: a label, a confidence up to a bound, a length up to a bound, an
input unlike those of calibration. Window and reference are two samples; if they came from one source, the count in the
window is hypergeometric, whatever the share (Fisher 1935): the p-value is exact with any number of rows. A window's
events share its level (Bonferroni), and the k-th window gets delta / (k (k + 1)): over all windows for ever a false
alarm comes with probability `delta` at most, if inputs come independently of each other. Time of day and day of the
week do not, so a difference below its floor is none, however sure.

Memory is bounded: two counts for each event.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

REFERENCE_ROWS = 1000
WINDOW_ROWS = 500
DELTA = 0.01


@dataclass(frozen=True)
class Found:
    """A difference between a window and the reference."""

    event: str
    before: float
    """Share in the reference."""
    now: float
    """Share in the window."""


@dataclass(frozen=True)
class Sample:
    """Rows, and how often each event happened among them."""

    rows: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)

    def plus(self, events: Iterable[str]) -> Sample:
        """Return it with one more row, in which these events happened."""
        counts = dict(self.counts)
        for event in events:
            counts[event] = counts.get(event, 0) + 1
        return Sample(self.rows + 1, counts)

    def share(self, event: str) -> float:
        """Return the share of an event; 0 without rows."""
        return self.counts.get(event, 0) / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class Stream:
    """One thing that may drift: what was, what comes, and the last verdict."""

    reference: Sample = Sample()
    window: Sample = Sample()
    windows: int = 0
    """Windows that were compared."""
    last: Sample = Sample()
    """The window before."""
    calibrated: bool = False
    """The reference is the bundle's own calibration, not the first answers here."""

    def after(self, events: Iterable[str]) -> Stream:
        """Return it with one more row; `full` says when there is something to compare."""
        if self.reference.rows < REFERENCE_ROWS and not self.calibrated:
            return replace(self, reference=self.reference.plus(events))
        return replace(self, window=self.window.plus(events))

    @property
    def full(self) -> bool:
        """Tell whether the window is whole."""
        return self.window.rows >= WINDOW_ROWS

    def closed(self) -> Stream:
        """Return it with the next window begun."""
        return replace(self, window=Sample(), last=self.window, windows=self.windows + 1)

    def judged(self, floor: float, events: int) -> Found | None:
        """Return the largest difference that chance does not explain, in a whole window; `events` there can be."""
        number = self.windows + 1
        level = DELTA / (number * (number + 1)) / max(events, 1)
        found = [each for each in self.differences(floor) if self._p_value(each.event) <= level]
        return max(found, key=lambda each: abs(each.now - each.before), default=None)

    def differences(self, floor: float) -> list[Found]:
        """Return the events whose share is another by the floor at least."""
        names = sorted(self.reference.counts.keys() | self.window.counts.keys())
        every = (Found(name, self.reference.share(name), self.window.share(name)) for name in names)
        return [each for each in every if abs(each.now - each.before) >= floor]

    def _p_value(self, event: str) -> float:
        before, now = self.reference, self.window
        return two_sample(before.counts.get(event, 0), before.rows, now.counts.get(event, 0), now.rows)


def two_sample(hits: int, rows: int, hits_now: int, rows_now: int) -> float:
    """Return the exact two-sided p-value that both samples have one share: twice the smaller tail."""
    every, marked = rows + rows_now, hits + hits_now
    if hits_now * every > marked * rows_now:  # above the mean: the upper tail is the lower one of all that are not hits
        hits_now, marked = rows_now - hits_now, every - marked
    term = math.exp(
        _log_choose(marked, hits_now) + _log_choose(every - marked, rows_now - hits_now) - _log_choose(every, rows_now)
    )
    tail, k = 0.0, hits_now
    while term > tail * 1e-17:
        tail += term
        term *= k * (every - marked - rows_now + k) / ((marked - k + 1) * (rows_now - k + 1))
        k -= 1
    return min(1.0, 2 * tail)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
