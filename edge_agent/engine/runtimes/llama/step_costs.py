"""What a step costs, and how many threads compute the next one, both learnt from measured steps. Pure.

    seconds = base + per_row * (rows + logits_rows * logits) + per_pair * pairs

A pair is a token to compute and an earlier token that it attends to: attention costs grow with the tokens in the cache.
A row with logits is also multiplied with the whole vocabulary, at a cost of `logits_rows` rows of a prompt. That number
follows from the sizes of the model's matrices; it is not learnt, because steps of streams show only the sum. Steps
below BULK_ROWS_MIN rows use another attention kernel than those above, so each kind is learnt separately.

Learning is the normalised least-mean-squares rule (Widrow & Hoff 1960): each measured step makes the smallest change of
the three numbers that explains RATE of its error. The rule needs no history, cannot become singular when all steps look
alike, and keeps what a long phase of streams alone does not show. A step that took more than twice the expected time
counts as twice: a machine that paused during a step says nothing about the next one. Errors downwards count twice as
much (RATE_DOWN), because disturbances only make steps longer.

A refused job is not measured, so a refusal must not preserve its own reason: otherwise, after another program had used
the processor for a while, a deadline would stay out of reach for ever. Therefore the weight of an estimate against a
job halves every HALF_SECONDS in which no step like the job's next was measured. It starts at the ratio of measured to
expected time of the last such step, at most 1. A job admitted in this way is the measurement. Estimates lose weight
only in an engine that is idle or reads nothing as large, so a job admitted in vain costs one step.

Two threads on two cores are faster than one until another program uses one of the cores: from then on each step waits
for the thread that shares its core, and one thread alone takes a third of the time. So other counts are tried while
jobs are computed, in rounds. A round alternates two steps with the other count and two with the present one, so that
other programs affect both, and jobs of two steps each give both counts the same work. A step counts by the ratio of its
time to the expected time (`StepCosts`), whatever its size.

Another count must take at most GAIN of the time in two such blocks, or far less in one, so that noise changes nothing.
A round begins

- as soon as steps take longer than expected for a while (a cumulated sum of the logarithms, Page 1954);
- after FIRST_SECONDS and STEPS_MIN steps, and twice as long each time that nothing changed, up to SECONDS_MAX: with
  fewer threads, no step shows that the other core is free again.

A block ends at once when the other count takes far longer, so a round in vain costs a step or two. The bits of scores
must not depend on the number of threads: unless that was measured (`thread_scores`), there is one count, and no round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import frexp, inf, log, log2, sqrt
from typing import NamedTuple

BULK_ROWS_MIN = 64
"""From this many rows on, flash attention uses another kernel: a score would depend on its neighbours."""
EXACT_ROWS_MAX = BULK_ROWS_MIN - 1
BULK_ROWS = 256
"""The most rows in a batch that computes no score."""
ROWS_GROUP, ROWS_BLOCK = 4, 16
PADDING_ROWS_MAX = ROWS_GROUP - 1
"""The most padding rows in a step."""
RATE = 0.25
RATE_DOWN = 0.5
SURPRISE_MAX = 2.0
FIRST_STEPS = 4
"""The first steps of a kind set only the scale of its costs; later ones also their proportions."""
TRUSTED_STEPS = 20
OPTIMISM = 0.5
"""A job is refused only if this share of its predicted time is longer than its caller waits."""
HALF_SECONDS = 0.25
"""Half-life of an unconfirmed estimate: a job with one a hundred times too high is tried after 1.7 s."""
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

    __slots__ = ("_last_reads", "base", "per_pair", "per_row", "steps")

    def __init__(self, base: float, per_row: float, per_pair: float) -> None:
        """Start with a guess, in seconds; the first steps keep its proportions and learn its scale."""
        self.base, self.per_row, self.per_pair = base, per_row, per_pair
        self.steps = 0
        self._last_reads: dict[int, tuple[float, float]] = {}
        """For each power of two in size, some twenty in all, the last step that read a prompt: when it was measured,
        and the ratio of its time to the estimate after it, at most 1."""

    def cost(self, rows: float, pairs: float) -> float:
        """Return the seconds that such a step takes."""
        return self.base + self.per_row * rows + self.per_pair * pairs

    def seconds_left(self, seconds: float, rows: float, pairs: float) -> float:
        """Return the seconds left after these rows, but at least as much as they take: to leave out other rows would
        not make a step shorter if most of its time is fixed."""
        spent = self.cost(rows, pairs)
        return max(seconds - spent, spent)

    def affordable(self, seconds: float, depth: int, weight: float = 1.0) -> int:
        """Return how many rows of one work item, after `depth` tokens, these seconds add to a step.

        Each counts for `weight` rows.
        """
        if seconds <= 0:
            return 0
        row = self.per_row * weight + self.per_pair * depth
        return int(2 * seconds / (row + sqrt(row * row + 2 * self.per_pair * seconds)))

    def scale(self, ratio: float) -> None:
        """Multiply all costs by a factor."""
        self.base *= ratio
        self.per_row *= ratio
        self.per_pair *= ratio

    def cap(self, other: StepCostModel) -> None:
        """Make a row cost no more than in `other`: costly steps are not tried, so too high a cost would stay."""
        self.per_row = min(self.per_row, other.per_row)
        self.per_pair = min(self.per_pair, other.per_pair)

    def weight(self, rows: float, pairs: float, now: float) -> float:
        """Return how much the estimate for a step that reads so much counts against a job, 0 to 1.

        Measurements of steps less than half as large do not count: they show little of what its rows cost.
        """
        reads = [last for size, last in self._last_reads.items() if size >= _size(rows, pairs) - 1]
        measured_at, ratio = max(reads, default=(-inf, 1.0))
        return float(ratio * 0.5 ** (max(now - measured_at, 0.0) / HALF_SECONDS))

    def confirm(self, rows: float, pairs: float, seconds: float, at: float) -> None:
        """Note that a step which read so much took so long; after `learn`."""
        self._last_reads[_size(rows, pairs)] = at, min(seconds / self.cost(rows, pairs), 1.0)

    def record_abort(self, rows: float, pairs: float, seconds: float, at: float) -> None:
        """Note that a step was aborted after `seconds`: if that exceeds the weighted estimate, the estimate holds."""
        if seconds >= OPTIMISM * self.cost(rows, pairs) * self.weight(rows, pairs, at):
            self._last_reads[_size(rows, pairs)] = at, 1.0

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
        correction = (RATE if error > 0 else RATE_DOWN) * error / (1 + x * x + y * y)
        self.base = max(self.base + correction, _SECONDS_MIN)
        self.per_row = max(self.per_row + correction * x / _ROW_UNIT, _SECONDS_MIN)
        self.per_pair = max(self.per_pair + correction * y / _PAIR_UNIT, 0.0)
        return 1.0


def _size(rows: float, pairs: float) -> int:
    """Return the power of two of how large a step is."""
    return frexp(rows / _ROW_UNIT + pairs / _PAIR_UNIT)[1]


def padded_rows(rows: int, groups: int) -> int:
    """Return the number of rows, at least `rows`, that takes the least time: llama.cpp multiplies groups of rows.

    With `groups` of ROWS_GROUP, fifteen rows cost more than sixteen, thirty more than 32 and three more than four; with
    ROWS_BLOCK only the first holds, and with 0 none. A step small enough for scores stays so.
    """
    padded = rows
    if groups and rows % ROWS_BLOCK > ROWS_BLOCK - ROWS_GROUP:
        padded = -(-rows // ROWS_BLOCK) * ROWS_BLOCK
    elif groups == ROWS_GROUP and rows % ROWS_GROUP == ROWS_GROUP - 1:
        padded = rows + 1
    keep_rows = rows <= EXACT_ROWS_MAX < padded or (groups == ROWS_BLOCK and padded > ROWS_BLOCK)
    return rows if keep_rows else padded


def attention_pairs(rows: int, depth: int) -> float:
    """Return how many pairs that many new tokens after `depth` others are."""
    return rows * (depth + rows / 2)


class StepCosts:
    """The cost of steps of either kind."""

    def __init__(self, logits_rows: float = 0.0) -> None:
        """Start with the costs of a model of 135 million weights on two server cores; the first step corrects them."""
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
        return self._model_for(work.rows).cost(*self._weighted_size(work))

    def learn(self, work: StepWork, seconds: float) -> None:
        """Take a measured step."""
        model, other = (self.small, self.bulk) if work.rows < BULK_ROWS_MIN else (self.bulk, self.small)
        ratio = model.learn(*self._weighted_size(work), seconds)
        if not other.steps:
            other.scale(ratio)
        if model is self.small:
            other.cap(model)

    def confirm(self, work: StepWork, seconds: float, at: float) -> None:
        """Note that a step which read prompts took so long; `at` is on the clock of `certain_seconds`."""
        self._model_for(work.rows).confirm(*self._weighted_size(work), seconds, at)

    def record_abort(self, work: StepWork, seconds: float, at: float) -> None:
        """Note that a step which read prompts was aborted after `seconds`."""
        self._model_for(work.rows).record_abort(*self._weighted_size(work), seconds, at)

    def scale(self, ratio: float) -> None:
        """Multiply all costs by a factor."""
        self.small.scale(ratio)
        self.bulk.scale(ratio)

    def lone_seconds(self, rows: int, depth: int, chunk: int) -> float:
        """Return the seconds that so many tokens of one job take alone, in steps of `chunk` rows."""
        model = self._model_for(min(rows, chunk))
        return -(-rows // chunk) * model.base + model.per_row * rows + model.per_pair * attention_pairs(rows, depth)

    def certain_seconds(self, rows: int, depth: int, chunk: int, first: int, now: float) -> float:
        """Return the seconds that these tokens take at least, by the present weight of the estimate; 0 = it has none.

        They would be read alone, `first` of them in the next step, and then in steps of `chunk` rows.
        """
        if self.small.steps + self.bulk.steps < TRUSTED_STEPS:
            return 0.0
        weight = self._model_for(first).weight(first, attention_pairs(first, depth), now)
        return OPTIMISM * weight * self.lone_seconds(rows, depth, chunk)

    def _weighted_size(self, work: StepWork) -> tuple[float, float]:
        return work.rows + self.logits_rows * work.logits, work.pairs

    def _model_for(self, rows: int) -> StepCostModel:
        return self.small if rows < BULK_ROWS_MIN else self.bulk


def retry_seconds(certain: float, seconds: float) -> float:
    """Return after how long a job is worth another try that has `seconds` left, but takes at least `certain` now."""
    halves = log2(max(certain, _SECONDS_MIN) / max(seconds, _SECONDS_MIN))
    return min(max(halves, 1.0) * HALF_SECONDS, RETRY_SECONDS_MAX)


FIRST_SECONDS, SECONDS_MAX = 1.0, 10.0
"""Between two rounds."""
STEPS_MIN = 32
"""Likewise in steps: if jobs are rare, a round must not slow down too many of them."""
AGAIN_SECONDS = 0.5
"""The least between two rounds, however slow steps become."""
BLOCK = ("other", "other", "present", "present")
BLOCKS_MAX = 2
GAIN = 0.85
"""Another count replaces the present one if it takes at most this share of its time."""
CLEARLY_FASTER, CLEARLY_SLOWER = 0.6, 1.2
"""Beyond these ratios one block decides."""
FAR_SLOWER = 2.0
"""If a step with the other count takes this many times what is expected with the present one, the round ends."""
SLOWER, SLOWER_SUM = log(1.2), log(4.0)
"""The logarithm of each step's ratio beyond SLOWER, at most log(CAP), is added up; at SLOWER_SUM a round begins."""
CAP = 4.0


def thread_counts(threads: int) -> list[int]:
    """Return the counts to try in ascending order: all given threads, halves, and one less for another program."""
    halves = {threads >> shift for shift in range(threads.bit_length())}
    return sorted(halves | ({threads - 1} if threads > 2 else set()))


@dataclass
class _ThreadTimes:
    """The steps of one count in a round."""

    steps: list[tuple[float, float]] = field(default_factory=list)
    """Seconds and expected seconds of each."""

    @property
    def ratio(self) -> float:
        """Their time over the expected time; of more than two steps the worst does not count."""
        steps = sorted(self.steps, key=lambda step: step[0] / step[1])
        counted = steps[:-1] if len(steps) > 2 else steps
        return sum(seconds for seconds, _ in counted) / sum(expected for _, expected in counted)


class ThreadTuner:
    """Chooses how many threads the next step has."""

    def __init__(self, counts: Sequence[int], present: int, now: float) -> None:
        """Begin with one of these counts."""
        self._counts = sorted({*counts, present})
        self.present = present
        """The chosen count."""
        self.threads = present
        """The count of the next step."""
        self.trying = False
        """A round is under way: the times of its steps must not be learnt."""
        self._upwards = False
        self._slowdown = 0.0
        self._paused_at, self._steps = now, 0
        self._pause = FIRST_SECONDS
        self._steady = True
        """The round began although steps took the expected time."""
        self._other = present
        self._sides: dict[str, _ThreadTimes] = {}
        self._trial_steps = 0

    def record_step(self, expected: float, seconds: float, now: float) -> float:
        """Note the time of a step with `threads`; return the factor by which the costs of steps change with it.

        `expected` is the time with the present count, learnt outside of rounds.
        """
        if len(self._counts) == 1:
            return 1.0
        if self.trying:
            return self._record_trial_step(expected, seconds, now)
        self._slowdown = max(0.0, self._slowdown + log(min(max(seconds / expected, 1 / CAP), CAP)) - SLOWER)
        self._steps += 1
        slower = self._slowdown > SLOWER_SUM and now >= self._paused_at + AGAIN_SECONDS
        if slower or (now >= self._paused_at + self._pause and self._steps >= STEPS_MIN):
            self._begin(slower=slower)
        return 1.0

    def _begin(self, *, slower: bool) -> None:
        """Try the next count: a smaller one if steps became slower, otherwise smaller and larger ones in turn."""
        index = self._counts.index(self.present)
        upwards = self._upwards and not slower
        if index == 0 or (upwards and index + 1 < len(self._counts)):
            self._other = self._counts[index + 1]
        else:
            self._other = self._counts[index - 1]
        self._upwards = self._other < self.present  # next time in the other direction
        self.trying, self._trial_steps = True, 0
        self._sides = {side: _ThreadTimes() for side in BLOCK}
        self.threads = self._other
        self._steady = not slower

    def _record_trial_step(self, expected: float, seconds: float, now: float) -> float:
        side = BLOCK[self._trial_steps % len(BLOCK)]
        self._sides[side].steps.append((seconds, expected))
        self._trial_steps += 1
        if side == "other" and self._steady and seconds >= FAR_SLOWER * expected:
            return self._end(now)
        if self._trial_steps % len(BLOCK) == 0:
            ratio = self._sides["other"].ratio / max(self._sides["present"].ratio, 1e-9)
            last = self._trial_steps == BLOCKS_MAX * len(BLOCK)
            if ratio <= (GAIN if last else CLEARLY_FASTER):
                return self._change(now)
            if last or ratio >= CLEARLY_SLOWER:
                return self._end(now)
        self.threads = self._other if BLOCK[self._trial_steps % len(BLOCK)] == "other" else self.present
        return 1.0

    def _change(self, now: float) -> float:
        cost_ratio = self._sides["other"].ratio
        self._upwards = self._other > self.present  # further in that direction
        self.present = self._other
        self._end(now)
        self._pause = FIRST_SECONDS
        return cost_ratio

    def _end(self, now: float) -> float:
        self.trying, self.threads = False, self.present
        self._slowdown, self._paused_at, self._steps = 0.0, now, 0
        self._pause = min(2 * self._pause, SECONDS_MAX)
        return 1.0
