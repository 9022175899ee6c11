"""How ready the local model is: examples, agreement with the large model, and the coverage that is proved. Pure.

The large model is the reference, not the truth: where the two differ, either may be right. What the local model could
answer is judged by people, and by the large model where nobody has judged an answer.

A report is read again and again, and the next look depends on the last one. So every proof here holds for all looks
together (`statistics.anytime_proof`). All that is proved of a task has one error probability, `delta`: half of it is
for the bundle's own threshold, and the rest is divided among fixed confidences. From each of these, the levels below
are tested in order until one fails (fixed-sequence testing), which costs nothing more.
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
"""Fewer say nothing of a label."""
_GUESS_ROWS_MIN, _LEVEL_ROWS_MIN = 20, 5
"""Fewer comparisons, in all and above a threshold, are no ground for a guess."""
_STARTS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
"""Where a sequence of tests begins, besides the bundle's own threshold."""
_OWN_SHARE = 0.5
"""Of `delta`: for the bundle's own threshold, on which the advice rests."""
_PACE_DAYS = 14
_NEAR = 1e-9


def without_answers(figures: TaskFigures, unknown: str) -> str:
    """Say why there are no answers to judge by, and what is therefore not known."""
    if not figures.collected:
        said = f"This task is not collected, so its answers are not counted and {unknown}"
        return f"{said}: 'collect' under 'examples' in agent.yaml names the tasks that are."
    before = any(sum(day.answers.values()) for day in figures.days)
    when = f"in the last {figures.window} days" if before else "yet"
    return f"No answer of this task has been captured {when}, so {unknown}."


@dataclass(frozen=True)
class ReadinessStep:
    """One mark on the way, and what reaching it buys."""

    examples: int
    buys: str
    missing: int
    """Examples until then; 0 = reached."""
    days: int | None
    """At the pace of the last days; None = nothing comes in."""


@dataclass(frozen=True)
class CoverageLevel:
    """One threshold: what the model here would take above it, and how often people or the large one say otherwise."""

    above: float
    taken: CountedShare
    """Of all its answers."""
    rows: int
    """Those of them that were compared."""
    reviewed: int
    """Those of these that people have judged, whose word counts; for the others the large model's does."""
    differ: int
    delta: float
    """This level's part of the task's `delta`."""
    bound: float
    """Proved bound on the risk, which is exceeded with probability `delta` at most, however often one looks."""
    holds: bool
    """The risk is proved to be at most the wanted one."""

    @property
    def risk(self) -> float:
        """How often they say otherwise, as it was seen."""
        return self.differ / self.rows

    @property
    def judges(self) -> str:
        """Who it is that says otherwise, with the verb."""
        return "people or the large model disagree" if self.reviewed else "the large model disagrees"


@dataclass(frozen=True)
class AchievableCoverage:
    """What the local model could answer at the wanted risk."""

    share: CountedShare
    """Of all inputs."""
    above: float | None
    """The confidence from which on; None = nothing is proved."""
    risk: float | None
    """How often people or the large model disagree, of what it would take."""
    more: int | None
    """Inputs still to be compared before something is proved; None = more of the same would not help."""
    levels: tuple[CoverageLevel, ...]

    @property
    def resting_on(self) -> CoverageLevel | None:
        """What is told of it rests on this level: the one that it ends at, or all; None = nothing was compared."""
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
    """The same of the newest week."""
    short: bool
    """Too few examples to judge it."""


def steps(figures: TaskFigures) -> tuple[ReadinessStep, ...]:
    """Return the marks, with what is missing to each."""
    pace = examples_a_day(figures)
    found = []
    for mark, buys in STEPS.items():
        missing = max(0, mark - figures.examples)
        found.append(ReadinessStep(mark, buys, missing, days_for(missing, pace)))
    return tuple(found)


def examples_a_day(figures: TaskFigures) -> float:
    """Return how many examples a day brings, over the last days that are known."""
    last = figures.days[-_PACE_DAYS:]
    return sum(day.examples for day in last) / len(last) if last else 0.0


def days_for(missing: int, pace: float) -> int | None:
    """Return how many days that takes; None = nothing comes in."""
    if not missing:
        return 0
    return -int(-missing // pace) if pace > 0 else None


def agreement(compared: ComparisonCount) -> CountedShare:
    """Return how often both models say the same."""
    return counted_share(compared.same, compared.rows)


def by_day(figures: TaskFigures, days_max: int) -> list[tuple[str, CountedShare]]:
    """Return the agreement of stretches of days, the first day of each; at most so many that a chart can hold."""
    seen = [day for day in figures.days if day.compared.rows]
    stretch = max(1, -(-len(seen) // days_max))
    parts = [seen[at : at + stretch] for at in range(0, len(seen), stretch)]
    return [(part[0].date, agreement(sum_comparisons(day.compared for day in part))) for part in parts]


def labels(figures: TaskFigures) -> tuple[LabelState, ...]:
    """Return every label, the one that is given most often first."""
    most = sorted(figures.labels, key=lambda label: (-label.answers, label.name))
    return tuple(map(_label, most))


def _label(label: LabelFigures) -> LabelState:
    short = label.examples < LABEL_EXAMPLES_MIN
    both, recent = agreement(label.compared), agreement(label.recent)
    return LabelState(label.name, label.answers, label.examples, both, recent, short)


def achievable_coverage(figures: TaskFigures) -> AchievableCoverage:
    """Return what the model here could take at the wanted risk."""
    levels = tuple(_levels(figures))
    held = [level for level in levels if level.holds]
    if not held:
        return AchievableCoverage(counted_share(0, figures.graded), None, None, _more(levels, figures), levels)
    last = held[-1]
    return AchievableCoverage(last.taken, last.above, last.risk, 0, levels)


def at_threshold(figures: TaskFigures) -> CoverageLevel | None:
    """Return what the bundle's own threshold would let it take; None = it has none, or nothing was compared."""
    if figures.threshold is None:
        return None
    accepted = [each for each in figures.confident if each.above >= figures.threshold - _NEAR]
    found = sum_comparisons(each.right for each in accepted)
    beyond = ConfidenceBand(figures.threshold, sum(each.answers for each in accepted), found)
    return _level(beyond, figures, [_OWN_SHARE * figures.delta])[0] if found.rows else None


def rows_min(figures: TaskFigures) -> int:
    """Return the fewest comparisons that can prove the bundle's own threshold, and only if none of them differs."""
    return anytime_rows_min(figures.target, max(delta for _, delta in _starts(figures)))


def more_at(level: CoverageLevel, figures: TaskFigures) -> int | None:
    """Return how many more inputs, compared, would prove a threshold; None = no number of them."""
    # At the share of differences seen, with half a one added.
    accepted = anytime_rows_needed((level.differ + 0.5) / (level.rows + 1), figures.target, level.delta)
    return None if accepted is None else inputs_for(max(1, accepted - level.rows), level)


def inputs_for(rows: int, level: CoverageLevel) -> int:
    """Return how many inputs it takes for so many more answers above a threshold."""
    return math.ceil(rows / (level.taken.value or 1.0))


def _starts(figures: TaskFigures) -> list[tuple[float, float]]:
    """Return the confidences where a sequence of tests begins, each with its part of `delta`."""
    own = [] if figures.threshold is None else [(figures.threshold, _OWN_SHARE * figures.delta)]
    left = figures.delta - sum(delta for _, delta in own)
    return own + [(start, left / len(_STARTS)) for start in _STARTS]


def _levels(figures: TaskFigures) -> Iterator[CoverageLevel]:
    """Walk from the strictest; a level is proved by any sequence that has not failed yet."""
    starts, bands = _starts(figures), list(_cumulated(figures))
    lower = (*(each.above for each in bands[1:]), -math.inf)
    open_: list[float] = []
    for beyond, below in zip(bands, lower, strict=False):
        open_ += [delta for start, delta in starts if below + _NEAR < start <= beyond.above + _NEAR]
        level, open_ = _level(beyond, figures, open_)
        yield level


def _cumulated(figures: TaskFigures) -> Iterator[ConfidenceBand]:
    """Yield answers and comparisons from each confidence on, as far as these are a fair sample of those.

    In shadow all answers are compared, by the audit a part of the sure ones: above the bundle's threshold and below
    it there may be different parts. Going below, the sure ones are thinned out to the part that holds there.
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
    """Return the comparisons above as if no larger part of the answers had been compared there than below."""
    above, below = _part(high), _part(low)
    found, keep = sum_comparisons(each.right for each in high), min(1.0, below / above) if above else 0.0
    rows, differ = math.floor(found.rows * keep), math.ceil((found.rows - found.same) * keep)
    return ComparisonCount(rows, max(0, rows - differ))


def _part(answers: Sequence[ConfidenceBand]) -> float:
    number = sum(each.answers for each in answers)
    return sum_comparisons(each.compared for each in answers).rows / number if number else 0.0


def _level(beyond: ConfidenceBand, figures: TaskFigures, open_: list[float]) -> tuple[CoverageLevel, list[float]]:
    """Return a level, and which of the sequences that reach it, by their part of `delta`, go on."""
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
        return rows_min(figures) - rows  # too few to guess by: at the very best
    guesses = [more_at(level, figures) for level in levels if level.rows >= _LEVEL_ROWS_MIN]
    return min((each for each in guesses if each is not None), default=None)
