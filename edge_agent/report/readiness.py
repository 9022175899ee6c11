"""The readiness of the local model: examples, agreement with the large model, and the proved coverage. Pure.

The large model is a reference, not the truth: where the models differ, either may be right. Answers are judged by
people, and by the large model where no person has judged them.

A report is read repeatedly, and each look depends on the one before, so every proof here is valid for all looks
together (`statistics.anytime_proof`). All proofs of a task share one error probability, `delta`: half of it is for the
bundle's own threshold, and the rest is divided among fixed confidences. From each of these, the lower levels are tested
in order until one fails (fixed-sequence testing), which needs no further share of `delta`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge_agent.report.task_figures import ComparisonCount, ConfidenceBand, LabelFigures, TaskFigures, sum_comparisons
from edge_agent.statistics import (
    CountedShare,
    anytime_proof,
    anytime_rows_min,
    anytime_rows_needed,
    anytime_upper_bound,
    counted_share,
)

STEPS: dict[int, str] = {
    100: "measure a model, within ten percentage points",
    500: "fine-tune a first model on a handful of labels",
    1000: "fine-tune and calibrate, with something left to test on",
}
LABEL_EXAMPLES_MIN = 20
"""Minimum examples of a label."""
_GUESS_ROWS_MIN, _LEVEL_ROWS_MIN = 20, 5
"""Minimum comparisons for a forecast: in total, and above a threshold."""
_STARTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Confidences where a test sequence starts, in addition to the bundle's own threshold."""
_OWN_SHARE = 0.5
"""Share of `delta` for the bundle's own threshold, on which the recommendation is based."""
_PACE_DAYS = 14
_NEAR = 1e-9


def without_answers(figures: TaskFigures, unknown: str) -> str:
    """Return a sentence on why there are no answers, and what is therefore unknown."""
    if not figures.collected:
        message = f"This task is not collected, so its answers are not counted and {unknown}"
        return f"{message}: 'collect' under 'examples' in agent.yaml names the tasks that are."
    before = any(sum(day.answers.values()) for day in figures.days)
    when = f"in the last {figures.window} days" if before else "yet"
    return f"No answer of this task has been captured {when}, so {unknown}."


@dataclass(frozen=True)
class ReadinessStep:
    """One milestone of the number of examples, and what it makes possible."""

    examples: int
    buys: str
    missing: int
    """Examples still missing; 0 = reached."""
    days: int | None
    """Days at the recent rate; None = no new examples."""


@dataclass(frozen=True)
class CoverageLevel:
    """One threshold: the coverage above it, and how often people or the large model disagree."""

    above: float
    taken: CountedShare
    """Share of all its answers."""
    rows: int
    """Compared answers above the threshold."""
    reviewed: int
    """Compared answers that people judged; the others are judged by the large model."""
    differ: int
    delta: float
    """This level's part of the task's `delta`."""
    bound: float
    """Upper bound on the risk, exceeded with probability at most `delta`, over all looks together."""
    holds: bool
    """The risk is proved to be at most the target."""

    @property
    def risk(self) -> float:
        """The observed share of disagreement."""
        return self.differ / self.rows

    @property
    def judges(self) -> str:
        """Who disagrees, with the verb, for a sentence."""
        return "people or the large model disagree" if self.reviewed else "the large model disagrees"


@dataclass(frozen=True)
class AchievableCoverage:
    """The coverage that the local model could have at the target risk."""

    share: CountedShare
    """Share of all inputs."""
    above: float | None
    """The lowest proved threshold; None = nothing is proved."""
    risk: float | None
    """The observed share of disagreement above that threshold."""
    more: int | None
    """Estimated inputs to compare until something is proved; None = more of the same would not help."""
    levels: tuple[CoverageLevel, ...]

    @property
    def resting_on(self) -> CoverageLevel | None:
        """The level that statements are based on: the lowest proved one, or the last; None = nothing compared."""
        return next(
            (each for each in self.levels if each.above == self.above), self.levels[-1] if self.levels else None
        )


@dataclass(frozen=True)
class LabelState:
    """One label."""

    name: str
    answers: int
    examples: int
    agreement: CountedShare
    recent: CountedShare
    """Agreement of the newest week."""
    short: bool
    """It has too few examples."""


def steps(figures: TaskFigures) -> tuple[ReadinessStep, ...]:
    """Return the milestones, with the examples missing for each."""
    pace = examples_a_day(figures)
    found = []
    for mark, buys in STEPS.items():
        missing = max(0, mark - figures.examples)
        found.append(ReadinessStep(mark, buys, missing, days_for(missing, pace)))
    return tuple(found)


def examples_a_day(figures: TaskFigures) -> float:
    """Return the examples per day, averaged over the last known days."""
    last = figures.days[-_PACE_DAYS:]
    return sum(day.examples for day in last) / len(last) if last else 0.0


def days_for(missing: int, pace: float) -> int | None:
    """Return how many days the missing examples take at a rate; None = no new examples."""
    if not missing:
        return 0
    return -int(-missing // pace) if pace > 0 else None


def agreement(compared: ComparisonCount) -> CountedShare:
    """Return the agreement of both models."""
    return counted_share(compared.same, compared.rows)


def by_day(figures: TaskFigures, days_max: int) -> list[tuple[str, CountedShare]]:
    """Return the agreement of periods with their first day, at most as many as a chart has room for."""
    seen = [day for day in figures.days if day.compared.rows]
    stretch = max(1, -(-len(seen) // days_max))
    parts = [seen[at : at + stretch] for at in range(0, len(seen), stretch)]
    return [(part[0].date, agreement(sum_comparisons(day.compared for day in part))) for part in parts]


def labels(figures: TaskFigures) -> tuple[LabelState, ...]:
    """Return every label, the most frequent first."""
    most = sorted(figures.labels, key=lambda label: (-label.answers, label.name))
    return tuple(map(_label, most))


def _label(label: LabelFigures) -> LabelState:
    short = label.examples < LABEL_EXAMPLES_MIN
    both, recent = agreement(label.compared), agreement(label.recent)
    return LabelState(label.name, label.answers, label.examples, both, recent, short)


def achievable_coverage(figures: TaskFigures) -> AchievableCoverage:
    """Return the coverage that the local model could have at the target risk."""
    levels = tuple(_levels(figures))
    held = [level for level in levels if level.holds]
    if not held:
        return AchievableCoverage(counted_share(0, figures.graded), None, None, _more(levels, figures), levels)
    last = held[-1]
    return AchievableCoverage(last.taken, last.above, last.risk, 0, levels)


def at_threshold(figures: TaskFigures) -> CoverageLevel | None:
    """Return the level of the bundle's own threshold; None = it has none, or nothing was compared."""
    if figures.threshold is None:
        return None
    accepted = [each for each in figures.confident if each.above >= figures.threshold - _NEAR]
    found = sum_comparisons(each.right for each in accepted)
    beyond = ConfidenceBand(figures.threshold, sum(each.answers for each in accepted), found)
    return _level(beyond, figures, [_OWN_SHARE * figures.delta])[0] if found.rows else None


def rows_min(figures: TaskFigures) -> int:
    """Return the minimum comparisons to prove the bundle's own threshold, if none of them differs."""
    return anytime_rows_min(figures.target, max(delta for _, delta in _starts(figures)))


def more_at(level: CoverageLevel, figures: TaskFigures) -> int | None:
    """Return how many more compared inputs would prove a threshold; None = no number of them."""
    # At the observed share of differences, with half a difference added.
    accepted = anytime_rows_needed((level.differ + 0.5) / (level.rows + 1), figures.target, level.delta)
    return None if accepted is None else inputs_for(max(1, accepted - level.rows), level)


def inputs_for(rows: int, level: CoverageLevel) -> int:
    """Return how many inputs yield `rows` more answers above a threshold."""
    return math.ceil(rows / (level.taken.value or 1.0))


def _starts(figures: TaskFigures) -> list[tuple[float, float]]:
    """Return the confidences where a test sequence starts, each with its share of `delta`."""
    own = [] if figures.threshold is None else [(figures.threshold, _OWN_SHARE * figures.delta)]
    left = figures.delta - sum(delta for _, delta in own)
    return own + [(start, left / len(_STARTS)) for start in _STARTS]


def _levels(figures: TaskFigures) -> Iterator[CoverageLevel]:
    """Yield the levels, the strictest first; a level is proved by any sequence that has not failed yet."""
    starts, bands = _starts(figures), list(_cumulated(figures))
    lower = (*(each.above for each in bands[1:]), -math.inf)
    open_: list[float] = []
    for beyond, below in zip(bands, lower, strict=False):
        open_ += [delta for start, delta in starts if below + _NEAR < start <= beyond.above + _NEAR]
        level, open_ = _level(beyond, figures, open_)
        yield level


def _cumulated(figures: TaskFigures) -> Iterator[ConfidenceBand]:
    """Yield answers and comparisons at or above each confidence, where the comparisons represent the answers.

    Shadow mode compares all answers, the audit only a part of the confident ones, so the compared shares above and
    below the bundle's threshold can differ. For levels below it, the comparisons above are thinned to the lower share.
    """
    split = figures.threshold or 0.0
    strictest = sorted(figures.confident, key=lambda each: -each.above)
    high = [each for each in strictest if each.above >= split - _NEAR]
    answers, found = 0, ComparisonCount()
    for each in high:
        answers, found = answers + each.answers, found + each.right
        if found.rows:
            yield ConfidenceBand(each.above, answers, found)
    low = strictest[len(high) :]
    found = _thinned(high, low)
    for each in low if found.rows or not high else ():
        answers, found = answers + each.answers, found + each.right
        if found.rows:
            yield ConfidenceBand(each.above, answers, found)


def _thinned(high: Sequence[ConfidenceBand], low: Sequence[ConfidenceBand]) -> ComparisonCount:
    """Return the comparisons above, scaled down to the compared share below; differences are rounded up."""
    above, below = _part(high), _part(low)
    found, keep = sum_comparisons(each.right for each in high), min(1.0, below / above) if above else 0.0
    rows, differ = math.floor(found.rows * keep), math.ceil((found.rows - found.same) * keep)
    return ComparisonCount(rows, max(0, rows - differ))


def _part(answers: Sequence[ConfidenceBand]) -> float:
    number = sum(each.answers for each in answers)
    return sum_comparisons(each.compared for each in answers).rows / number if number else 0.0


def _level(beyond: ConfidenceBand, figures: TaskFigures, open_: list[float]) -> tuple[CoverageLevel, list[float]]:
    """Return a level, and the shares of `delta` whose sequences continue after it."""
    rows, differ = beyond.compared.rows, beyond.compared.rows - beyond.compared.same
    reviewed = sum(each.people.rows for each in figures.confident if each.above >= beyond.above - _NEAR)
    delta = max(open_) if open_ else min(part for _, part in _starts(figures))
    passed = [each for each in open_ if anytime_proof(differ, rows, figures.target, each)]
    bound = anytime_upper_bound(differ, rows, delta)
    taken = counted_share(beyond.answers, figures.graded)
    found = CoverageLevel(beyond.above, taken, rows, min(rows, reviewed), differ, delta, bound, bool(passed))
    return found, passed


def _more(levels: tuple[CoverageLevel, ...], figures: TaskFigures) -> int | None:
    rows = figures.compared.rows
    if rows < _GUESS_ROWS_MIN:
        return rows_min(figures) - rows  # too few for a forecast: the minimum if none differs
    guesses = [more_at(level, figures) for level in levels if level.rows >= _LEVEL_ROWS_MIN]
    return min((each for each in guesses if each is not None), default=None)
