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
_EPSILON = 1e-9


def without_answers(figures: TaskFigures, consequence: str) -> str:
    """Return a sentence on why there are no answers, and what is therefore unknown."""
    if not figures.collected:
        message = f"This task is not collected, so its answers are not counted and {consequence}"
        return f"{message}: 'collect' under 'examples' in agent.yaml names the tasks that are."
    has_older_answers = any(sum(day.answers.values()) for day in figures.days)
    period = f"in the last {figures.window} days" if has_older_answers else "yet"
    return f"No answer of this task has been captured {period}, so {consequence}."


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
    def basis_level(self) -> CoverageLevel | None:
        """The level that statements are based on: the lowest proved one, or the last; None = nothing compared."""
        last = self.levels[-1] if self.levels else None
        return next((level for level in self.levels if level.above == self.above), last)


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
    last = figures.days[-_PACE_DAYS:]
    pace = sum(day.examples for day in last) / len(last) if last else 0.0
    missing = {mark: max(0, mark - figures.examples) for mark in STEPS}
    return tuple(
        ReadinessStep(mark, buys, missing[mark], days_for(missing[mark], pace)) for mark, buys in STEPS.items()
    )


def days_for(missing: int, pace: float) -> int | None:
    """Return how many days the missing examples take at a rate per day; None = no new examples."""
    if not missing:
        return 0
    return -int(-missing // pace) if pace > 0 else None


def agreement(compared: ComparisonCount) -> CountedShare:
    """Return the agreement of both models."""
    return counted_share(compared.same, compared.rows)


def agreement_by_day(figures: TaskFigures, days_max: int) -> list[tuple[str, CountedShare]]:
    """Return the agreement of periods with their first day, at most as many as a chart has room for."""
    compared_days = [day for day in figures.days if day.compared.rows]
    period_days = max(1, -(-len(compared_days) // days_max))
    periods = [compared_days[start : start + period_days] for start in range(0, len(compared_days), period_days)]
    return [(period[0].date, agreement(sum_comparisons(day.compared for day in period))) for period in periods]


def labels(figures: TaskFigures) -> tuple[LabelState, ...]:
    """Return every label, the most frequent first."""
    most_frequent_first = sorted(figures.labels, key=lambda label: (-label.answers, label.name))
    return tuple(map(_label_state, most_frequent_first))


def _label_state(label: LabelFigures) -> LabelState:
    short = label.examples < LABEL_EXAMPLES_MIN
    overall, recent = agreement(label.compared), agreement(label.recent)
    return LabelState(label.name, label.answers, label.examples, overall, recent, short)


def achievable_coverage(figures: TaskFigures) -> AchievableCoverage:
    """Return the coverage that the local model could have at the target risk."""
    levels = tuple(_levels(figures))
    proved = [level for level in levels if level.holds]
    if not proved:
        return AchievableCoverage(counted_share(0, figures.graded), None, None, _more_inputs(levels, figures), levels)
    lowest = proved[-1]
    return AchievableCoverage(lowest.taken, lowest.above, lowest.risk, 0, levels)


def at_threshold(figures: TaskFigures) -> CoverageLevel | None:
    """Return the level of the bundle's own threshold; None = it has none, or nothing was compared."""
    if figures.threshold is None:
        return None
    accepted = [band for band in figures.confident if band.above >= figures.threshold - _EPSILON]
    comparisons = sum_comparisons(band.right for band in accepted)
    cumulated = ConfidenceBand(figures.threshold, sum(band.answers for band in accepted), comparisons)
    return _level(cumulated, figures, [_OWN_SHARE * figures.delta])[0] if comparisons.rows else None


def rows_min(figures: TaskFigures) -> int:
    """Return the minimum comparisons to prove the bundle's own threshold, if none of them differs."""
    return anytime_rows_min(figures.target, max(delta for _, delta in _starts(figures)))


def more_at(level: CoverageLevel, figures: TaskFigures) -> int | None:
    """Return how many more compared inputs would prove a threshold; None = no number of them."""
    # At the observed share of differences, with half a difference added.
    needed_rows = anytime_rows_needed((level.differ + 0.5) / (level.rows + 1), figures.target, level.delta)
    return None if needed_rows is None else inputs_for(max(1, needed_rows - level.rows), level)


def inputs_for(rows: int, level: CoverageLevel) -> int:
    """Return how many inputs yield `rows` more answers above a threshold."""
    return math.ceil(rows / (level.taken.value or 1.0))


def _starts(figures: TaskFigures) -> list[tuple[float, float]]:
    """Return the confidences where a test sequence starts, each with its share of `delta`."""
    own = [] if figures.threshold is None else [(figures.threshold, _OWN_SHARE * figures.delta)]
    rest = figures.delta - sum(delta for _, delta in own)
    return own + [(start, rest / len(_STARTS)) for start in _STARTS]


def _levels(figures: TaskFigures) -> Iterator[CoverageLevel]:
    """Yield the levels, the strictest first; a level is proved by any sequence that has not failed yet."""
    starts, bands = _starts(figures), list(_cumulated_bands(figures))
    next_confidences = (*(band.above for band in bands[1:]), -math.inf)
    open_deltas: list[float] = []
    for band, next_confidence in zip(bands, next_confidences, strict=False):
        open_deltas += [delta for start, delta in starts if next_confidence + _EPSILON < start <= band.above + _EPSILON]
        level, open_deltas = _level(band, figures, open_deltas)
        yield level


def _cumulated_bands(figures: TaskFigures) -> Iterator[ConfidenceBand]:
    """Yield answers and comparisons at or above each confidence, where the comparisons represent the answers.

    Shadow mode compares all answers, the audit only a part of the confident ones, so the compared shares above and
    below the bundle's threshold can differ. For levels below it, the comparisons above are thinned to the lower share.
    """
    threshold = figures.threshold or 0.0
    strictest_first = sorted(figures.confident, key=lambda band: -band.above)
    high = [band for band in strictest_first if band.above >= threshold - _EPSILON]
    answers, comparisons = 0, ComparisonCount()
    for band in high:
        answers, comparisons = answers + band.answers, comparisons + band.right
        if comparisons.rows:
            yield ConfidenceBand(band.above, answers, comparisons)
    low = strictest_first[len(high) :]
    comparisons = _thinned_comparisons(high, low)
    for band in low if comparisons.rows or not high else ():
        answers, comparisons = answers + band.answers, comparisons + band.right
        if comparisons.rows:
            yield ConfidenceBand(band.above, answers, comparisons)


def _thinned_comparisons(high: Sequence[ConfidenceBand], low: Sequence[ConfidenceBand]) -> ComparisonCount:
    """Return the comparisons above, scaled down to the compared share below; differences are rounded up."""
    high_share, low_share = _compared_share(high), _compared_share(low)
    comparisons = sum_comparisons(band.right for band in high)
    kept = min(1.0, low_share / high_share) if high_share else 0.0
    rows, differ = math.floor(comparisons.rows * kept), math.ceil((comparisons.rows - comparisons.same) * kept)
    return ComparisonCount(rows, max(0, rows - differ))


def _compared_share(bands: Sequence[ConfidenceBand]) -> float:
    answers = sum(band.answers for band in bands)
    return sum_comparisons(band.compared for band in bands).rows / answers if answers else 0.0


def _level(band: ConfidenceBand, figures: TaskFigures, open_deltas: list[float]) -> tuple[CoverageLevel, list[float]]:
    """Return a level, and the shares of `delta` whose sequences continue after it."""
    rows, differ = band.compared.rows, band.compared.rows - band.compared.same
    reviewed = sum(each.people.rows for each in figures.confident if each.above >= band.above - _EPSILON)
    delta = max(open_deltas) if open_deltas else min(part for _, part in _starts(figures))
    proved_deltas = [each for each in open_deltas if anytime_proof(differ, rows, figures.target, each)]
    bound = anytime_upper_bound(differ, rows, delta)
    taken = counted_share(band.answers, figures.graded)
    level = CoverageLevel(band.above, taken, rows, min(rows, reviewed), differ, delta, bound, bool(proved_deltas))
    return level, proved_deltas


def _more_inputs(levels: tuple[CoverageLevel, ...], figures: TaskFigures) -> int | None:
    rows = figures.compared.rows
    if rows < _GUESS_ROWS_MIN:
        return rows_min(figures) - rows  # too few for a forecast: the minimum if none differs
    forecasts = [more_at(level, figures) for level in levels if level.rows >= _LEVEL_ROWS_MIN]
    return min((forecast for forecast in forecasts if forecast is not None), default=None)
