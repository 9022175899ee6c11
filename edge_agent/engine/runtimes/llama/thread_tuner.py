"""With how many threads the next step computes, measured on the steps themselves. Pure: seconds are told.

Two threads on two cores are faster than one until another program has one of the cores: from then on each step waits
for the thread that shares its core, and one thread alone takes a third of the time. So other counts are tried while
jobs are computed, in rounds. A round takes steps by turns, two with the other count and two with the present one, so
that whatever else the machine does hits both, and so that jobs of two steps each give both counts the same work. A
step counts by what it took of what was expected of it (`step_costs.py`), whatever its size.

Another count has to take GAIN less time, in two blocks of such turns or far less in one, so that noise changes nothing.
A round begins

- as soon as steps take longer than expected for a while (a cumulated sum of the logarithms, Page 1954);
- after FIRST_SECONDS and STEPS_MIN steps, and twice as long each time that nothing changed, up to SECONDS_MAX: with
  fewer threads no step tells that the other core is free again.

A block ends at once when the other count takes far longer, so a round in vain costs a step or two. Bits of scores do
not depend on the number of threads: where that was not found (`tuning.thread_scores`), there is one count, no rounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import log

FIRST_SECONDS, SECONDS_MAX = 1.0, 10.0
"""Between two rounds."""
STEPS_MIN = 32
"""Likewise: where jobs come seldom, few of them are slow for the sake of the others."""
AGAIN_SECONDS = 0.5
"""The least between two rounds, however slow steps become."""
BLOCK = ("other", "other", "present", "present")
BLOCKS_MAX = 2
GAIN = 0.85
"""Another count takes the place of the present one if it takes so much of its time, or less."""
CLEARLY_FASTER, CLEARLY_SLOWER = 0.6, 1.2
"""After one block: there is no need of another."""
FAR_SLOWER = 2.0
"""One step with the other count takes so many times what is expected with the present one: the round is over."""
SLOWER, SLOWER_SUM = log(1.2), log(4.0)
"""A step is slow beyond this; so much in all, of a step log(CAP) at most, and a round begins."""
CAP = 4.0


def thread_counts(given: int) -> list[int]:
    """Return what may be tried, the least first: all that are given, one less for another program, and halves."""
    halves = {given >> shift for shift in range(given.bit_length())}
    return sorted(halves | ({given - 1} if given > 2 else set()))


@dataclass
class _ThreadTimes:
    """The steps of one count in a round."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    """Seconds and expected seconds of each."""

    @property
    def ratio(self) -> float:
        """What they took of what was expected; of more than two the worst does not count."""
        steps = sorted(self.steps, key=lambda step: step[0] / step[1])
        kept = steps[:-1] if len(steps) > 2 else steps
        return sum(seconds for seconds, _ in kept) / sum(expected for _, expected in kept)


class ThreadTuner:
    """Says how many threads the next step has."""

    def __init__(self, counts: Sequence[int], present: int, now: float) -> None:
        """Begin with one of these counts."""
        self._counts = sorted({*counts, present})
        self.present = present
        """What was chosen last."""
        self.threads = present
        """Of the next step."""
        self.trying = False
        """A round is under way: what steps take says nothing about what is expected of them."""
        self._upwards = False
        self._slow = 0.0
        self._began, self._steps = now, 0
        self._pause = FIRST_SECONDS
        self._steady = True
        """The round began though steps took what was expected."""
        self._other = present
        self._sides: dict[str, _ThreadTimes] = {}
        self._place = 0

    def took(self, expected: float, seconds: float, now: float) -> float:
        """Take a step with `threads`; return the factor by which steps are dearer from now on.

        `expected` is what it would have taken with the present count, by what was learnt outside of rounds.
        """
        if len(self._counts) == 1:
            return 1.0
        if self.trying:
            return self._tried(expected, seconds, now)
        self._slow = max(0.0, self._slow + log(min(max(seconds / expected, 1 / CAP), CAP)) - SLOWER)
        self._steps += 1
        slower = self._slow > SLOWER_SUM and now >= self._began + AGAIN_SECONDS
        if slower or (now >= self._began + self._pause and self._steps >= STEPS_MIN):
            self._begin(slower=slower)
        return 1.0

    def _begin(self, *, slower: bool) -> None:
        """Try the next count: a smaller one where steps became slow, else by turns."""
        at = self._counts.index(self.present)
        upwards = self._upwards and not slower
        if at == 0 or (upwards and at + 1 < len(self._counts)):
            self._other = self._counts[at + 1]
        else:
            self._other = self._counts[at - 1]
        self._upwards = self._other < self.present  # next time the other way
        self.trying, self._place = True, 0
        self._sides = {side: _ThreadTimes() for side in BLOCK}
        self.threads = self._other
        self._steady = not slower

    def _tried(self, expected: float, seconds: float, now: float) -> float:
        side = BLOCK[self._place % len(BLOCK)]
        self._sides[side].steps.append((seconds, expected))
        self._place += 1
        if side == "other" and self._steady and seconds >= FAR_SLOWER * expected:
            return self._end(now)
        if self._place % len(BLOCK) == 0:
            ratio = self._sides["other"].ratio / max(self._sides["present"].ratio, 1e-9)
            last = self._place == BLOCKS_MAX * len(BLOCK)
            if ratio <= (GAIN if last else CLEARLY_FASTER):
                return self._change(now)
            if last or ratio >= CLEARLY_SLOWER:
                return self._end(now)
        self.threads = self._other if BLOCK[self._place % len(BLOCK)] == "other" else self.present
        return 1.0

    def _change(self, now: float) -> float:
        dearer = self._sides["other"].ratio
        self._upwards = self._other > self.present  # further in that direction
        self.present = self._other
        self._end(now)
        self._pause = FIRST_SECONDS
        return dearer

    def _end(self, now: float) -> float:
        self.trying, self.threads = False, self.present
        self._slow, self._began, self._steps = 0.0, now, 0
        self._pause = min(2 * self._pause, SECONDS_MAX)
        return 1.0
