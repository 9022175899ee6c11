"""What a step costs, and with how many threads the next one computes, learnt from the steps that were. Pure.

    seconds = base + per_row * (rows + logits_rows * logits) + per_pair * pairs

A pair is a token to compute and a token that it looks at: attention costs grow with what is in the cache already. A row
that has logits is multiplied with the whole vocabulary, too: `logits_rows` says what that is in rows of a prompt. It
follows from the sizes of the model's matrices, so it is given and not learnt: streams that write show only the sum.
Steps below BULK_ROWS_MIN rows take another attention kernel than those above, so each kind is learnt for itself.

Learning is the normalised least-mean-squares rule (Widrow & Hoff 1960): each measured step moves the three numbers as
little as explains RATE of what it was off. It needs no history, cannot become singular when all steps look alike, and
keeps what long phases of nothing but writing do not tell. A step that took more than twice what was expected counts as
just that: a machine that slept through a step says nothing about the next. One that took less is believed twice as fast
(RATE_DOWN), since nothing makes a step shorter than it is.

A job that an estimate refuses is not measured, so no refusal may keep its own reason alive: where another program had
the processor for a while, a deadline would be out of reach for ever. What an estimate says against a job therefore
halves every HALF_SECONDS in which no step like the job's next was measured, and counts for as much as the last such
step took of what was expected. A job that comes through in this way is the measurement. Only an idle engine, or one
that reads nothing as large, forgets; so what such a job costs in vain is one step.

Two threads on two cores are faster than one until another program has one of the cores: from then on each step waits
for the thread that shares its core, and one thread alone takes a third of the time. So other counts are tried while
jobs are computed, in rounds. A round takes steps by turns, two with the other count and two with the present one, so
that whatever else the machine does hits both, and so that jobs of two steps each give both counts the same work. A
step counts by what it took of what was expected of it (`StepCosts`), whatever its size.

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
from math import frexp, inf, log, log2, sqrt
from typing import NamedTuple

BULK_ROWS_MIN = 64
"""Rows from which on flash attention takes its other kernel: a score would depend on its neighbours."""
EXACT_ROWS_MAX = BULK_ROWS_MIN - 1
BULK_ROWS = 256
"""Rows in a batch that computes none."""
ROWS_GROUP, ROWS_BLOCK = 4, 16
PADDING_ROWS_MAX = ROWS_GROUP - 1
"""Rows by which a step is filled up."""
RATE = 0.25
RATE_DOWN = 0.5
SURPRISE_MAX = 2.0
FIRST_STEPS = 4
"""Steps of a kind that say how fast the machine is, before it is asked what is fast on it."""
TRUSTED_STEPS = 20
OPTIMISM = 0.5
"""What is predicted to take longer than its caller waits is tried all the same, unless half of it would be too long."""
HALF_SECONDS = 0.25
"""An estimate that nothing confirms counts half after so long: one a hundred times too high is tried after 1.7 s."""
RETRY_SECONDS_MAX = 5.0
_ROW_UNIT, _PAIR_UNIT = 32, 32_768  # so that one unit of either costs about the same
_SECONDS_MIN = 1e-9


class StepWork(NamedTuple):
    """What a step computes."""

    rows: int
    pairs: float
    logits: int = 0
    """How many of the rows have logits."""


class StepCostModel:
    """The cost of one kind of step. Rows may be parts: those with logits count for more."""

    __slots__ = ("_read", "base", "per_pair", "per_row", "steps")

    def __init__(self, base: float, per_row: float, per_pair: float) -> None:
        """Start with a guess, in seconds; the first steps keep its proportions and learn its scale."""
        self.base, self.per_row, self.per_pair = base, per_row, per_pair
        self.steps = 0
        self._read: dict[int, tuple[float, float]] = {}
        """Of the steps that read a prompt, the last one of each power of two in size, some twenty in all: when it was
        measured, and how much it took of what is estimated since, at most 1."""

    def cost(self, rows: float, pairs: float) -> float:
        """Return the seconds that such a step takes."""
        return self.base + self.per_row * rows + self.per_pair * pairs

    def left(self, seconds: float, rows: float, pairs: float) -> float:
        """Return what is left of the seconds beside these rows: at least as much as they take, since a step that costs
        its time whoever is in it is not made shorter by leaving out others."""
        taken = self.cost(rows, pairs)
        return max(seconds - taken, taken)

    def affordable(self, seconds: float, depth: int, weight: float = 1.0) -> int:
        """Return how many rows of one work item, behind `depth` tokens, these seconds add to a step.

        Each counts for `weight` rows.
        """
        if seconds <= 0:
            return 0
        row = self.per_row * weight + self.per_pair * depth
        return int(2 * seconds / (row + sqrt(row * row + 2 * self.per_pair * seconds)))

    def scale(self, ratio: float) -> None:
        """Make everything dearer by a factor."""
        self.base *= ratio
        self.per_row *= ratio
        self.per_pair *= ratio

    def cap(self, other: StepCostModel) -> None:
        """Make a row no dearer than it is there: what is held to be dear is not tried, and would never be corrected."""
        self.per_row = min(self.per_row, other.per_row)
        self.per_pair = min(self.per_pair, other.per_pair)

    def weight(self, rows: float, pairs: float, now: float) -> float:
        """Return how much the estimate for a step that reads so much counts against a job, 0 to 1.

        What smaller steps than half of it have told says little of what its rows cost.
        """
        known = [last for size, last in self._read.items() if size >= _size(rows, pairs) - 1]
        at, share = max(known, default=(-inf, 1.0))
        return float(share * 0.5 ** (max(now - at, 0.0) / HALF_SECONDS))

    def confirm(self, rows: float, pairs: float, seconds: float, at: float) -> None:
        """Note that a step which read so much took so long; after `learn`."""
        self._read[_size(rows, pairs)] = at, min(seconds / self.cost(rows, pairs), 1.0)

    def cut_off(self, rows: float, pairs: float, seconds: float, at: float) -> None:
        """Note that a step was ended after so long: what is estimated holds if that is more than was left of it."""
        if seconds >= OPTIMISM * self.cost(rows, pairs) * self.weight(rows, pairs, at):
            self._read[_size(rows, pairs)] = at, 1.0

    def learn(self, rows: float, pairs: float, seconds: float) -> float:
        """Take a measured step; return the factor by which the whole scale moved."""
        expected = self.cost(rows, pairs)
        self.steps += 1
        if self.steps <= FIRST_STEPS:
            ratio: float = (max(seconds, _SECONDS_MIN) / expected) ** (1 / self.steps)
            self.scale(ratio)
            return ratio
        error = min(seconds, expected * SURPRISE_MAX) - expected
        x, y = rows / _ROW_UNIT, pairs / _PAIR_UNIT
        off = (RATE if error > 0 else RATE_DOWN) * error / (1 + x * x + y * y)
        self.base = max(self.base + off, _SECONDS_MIN)
        self.per_row = max(self.per_row + off * x / _ROW_UNIT, _SECONDS_MIN)
        self.per_pair = max(self.per_pair + off * y / _PAIR_UNIT, 0.0)
        return 1.0


def _size(rows: float, pairs: float) -> int:
    """Return the power of two of how large a step is."""
    return frexp(rows / _ROW_UNIT + pairs / _PAIR_UNIT)[1]


def padded_rows(rows: int, groups: int) -> int:
    """Return how many rows take least time, of so many and more: llama.cpp multiplies in groups, and the rest singly.

    With `groups` of ROWS_GROUP fifteen rows cost more than sixteen, thirty more than 32 and three more than four; with
    ROWS_BLOCK only the first holds, and with 0 none. A step that scores may be in stays one.
    """
    more = rows
    if groups and rows % ROWS_BLOCK > ROWS_BLOCK - ROWS_GROUP:
        more = -(-rows // ROWS_BLOCK) * ROWS_BLOCK
    elif groups == ROWS_GROUP and rows % ROWS_GROUP == ROWS_GROUP - 1:
        more = rows + 1
    stays = rows <= EXACT_ROWS_MAX < more or (groups == ROWS_BLOCK and more > ROWS_BLOCK)
    return rows if stays else more


def attention_pairs(rows: int, depth: int) -> float:
    """Return how many pairs that many new tokens behind `depth` others are."""
    return rows * (depth + rows / 2)


class StepCosts:
    """The cost of steps of either kind."""

    def __init__(self, logits_rows: float = 0.0) -> None:
        """Start with a model of 135 million weights on two cores of a server; whatever it is instead shows at once."""
        self.logits_rows = logits_rows
        self.small = StepCostModel(0.003, 0.0016, 9e-7)
        self.bulk = StepCostModel(0.010, 0.0011, 4e-7)

    @property
    def known(self) -> bool:
        """True once a step has been measured."""
        return bool(self.small.steps or self.bulk.steps)

    def row_weight(self, *, logits: bool) -> float:
        """Return for how many rows of a prompt one row counts."""
        return 1.0 + self.logits_rows * logits

    def cost(self, work: StepWork) -> float:
        """Return the seconds that such a step takes."""
        return self._fit(work.rows).cost(*self._weighed(work))

    def learn(self, work: StepWork, seconds: float) -> None:
        """Take a measured step."""
        fit, other = (self.small, self.bulk) if work.rows < BULK_ROWS_MIN else (self.bulk, self.small)
        ratio = fit.learn(*self._weighed(work), seconds)
        if not other.steps:
            other.scale(ratio)
        if fit is self.small:
            other.cap(fit)

    def confirm(self, work: StepWork, seconds: float, at: float) -> None:
        """Note that a step which read prompts took so long; `at` is on the clock of `certain`."""
        self._fit(work.rows).confirm(*self._weighed(work), seconds, at)

    def cut_off(self, work: StepWork, seconds: float, at: float) -> None:
        """Note that a step which read prompts was ended after so long, by somebody who did not want to wait."""
        self._fit(work.rows).cut_off(*self._weighed(work), seconds, at)

    def scale(self, ratio: float) -> None:
        """Make everything dearer by a factor."""
        self.small.scale(ratio)
        self.bulk.scale(ratio)

    def alone(self, rows: int, depth: int, chunk: int) -> float:
        """Return the seconds that so many tokens of one job take in steps of `chunk` rows with nobody beside it."""
        fit = self._fit(min(rows, chunk))
        return -(-rows // chunk) * fit.base + fit.per_row * rows + fit.per_pair * attention_pairs(rows, depth)

    def certain(self, rows: int, depth: int, chunk: int, first: int, now: float) -> float:
        """Return the seconds that these tokens take at least, as far as the estimate counts now; 0 = it does not.

        They would be read in steps of `chunk` rows with nobody beside them, and `first` of them in the next step.
        """
        if self.small.steps + self.bulk.steps < TRUSTED_STEPS:
            return 0.0
        weight = self._fit(first).weight(first, attention_pairs(first, depth), now)
        return OPTIMISM * weight * self.alone(rows, depth, chunk)

    def _weighed(self, work: StepWork) -> tuple[float, float]:
        return work.rows + self.logits_rows * work.logits, work.pairs

    def _fit(self, rows: int) -> StepCostModel:
        return self.small if rows < BULK_ROWS_MIN else self.bulk


def retry_seconds(certain: float, seconds: float) -> float:
    """Return after how long a job that has so many seconds is tried, where it takes `certain` seconds at least."""
    halves = log2(max(certain, _SECONDS_MIN) / max(seconds, _SECONDS_MIN))
    return min(max(halves, 1.0) * HALF_SECONDS, RETRY_SECONDS_MAX)


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
