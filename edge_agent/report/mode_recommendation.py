"""The recommended next mode of a task, and why: one pure function of its figures.

A task goes bootstrap → shadow → hybrid → local, one step at a time, and goes back when the large model disagrees too
often. Each recommendation states the number that it is based on and what to do; without enough data, how much more is
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from edge_agent.formatting import count, count_of, in_days, percent
from edge_agent.report import readiness
from edge_agent.report.readiness import CoverageLevel
from edge_agent.report.task_figures import Mode, TaskFigures
from edge_agent.statistics import CountedShare, counted_share

BROKEN = ("errors", "opinions")
"""Alarms that the risk guarantee does not hold."""
LOCAL_ANSWERS_MIN, LOCAL_SHARE_MIN = 1000, 0.98
"""With this many answers and this share of confident ones, the large model is hardly needed."""
MORE_SHARE_MIN = 0.05
"""Minimum gain in coverage for which recalibration with a lower threshold is recommended."""
UNSURE_SHARE_MAX = 0.05
"""A task in mode local with a larger share of unconfident answers should ask a large model."""
_UNKNOWN = "nothing is known of its confidence"


class RecommendationReason(StrEnum):
    """The reason of a recommendation."""

    ONLY_ON_REQUEST = "ONLY_ON_REQUEST"
    """Texts and vectors have no confidence: only callers decide to use the large model."""
    NEEDS_EXAMPLES = "NEEDS_EXAMPLES"
    NEEDS_LABELS = "NEEDS_LABELS"
    MAKE_A_MODEL = "MAKE_A_MODEL"
    MODEL_IS_HERE = "MODEL_IS_HERE"
    NOT_CALIBRATED = "NOT_CALIBRATED"
    NEEDS_COMPARISONS = "NEEDS_COMPARISONS"
    RISK_HOLDS = "RISK_HOLDS"
    RISK_BROKEN = "RISK_BROKEN"
    STILL_ASKS = "STILL_ASKS"
    HARDLY_ASKS = "HARDLY_ASKS"
    ASKS_NOBODY = "ASKS_NOBODY"
    DOUBTS_ARE_GIVEN = "DOUBTS_ARE_GIVEN"


@dataclass(frozen=True)
class ModeRecommendation:
    """The recommended mode."""

    mode: Mode
    why: RecommendationReason
    because: str
    """A complete sentence with the number that the recommendation is based on."""
    then: str
    """What to do."""
    more: int | None = None
    """Missing examples or comparisons; None = none are missing, or no number of them would help."""


def recommend_mode(figures: TaskFigures) -> ModeRecommendation:
    """Recommend a mode."""
    if figures.kind in ("generate", "embed"):
        message = f"A task of kind {figures.kind} has no confidence, so nothing can be proved about it."
        then = "Nothing to do: callers ask for the large model."
        return ModeRecommendation(figures.mode, RecommendationReason.ONLY_ON_REQUEST, message, then)
    if not figures.has_model:
        return _without_model(figures)
    return _BY_MODE[figures.mode](figures)


def _without_model(figures: TaskFigures) -> ModeRecommendation:
    examples = figures.examples
    for step in readiness.steps(figures)[:2]:
        if step.missing:
            message = f"There {_is_or_are(examples)}; {count(step.examples)} are enough to {step.buys}."
            then = f"Wait for {count_of(step.missing, 'more example')}: {in_days(step.days)}."
            return ModeRecommendation("bootstrap", RecommendationReason.NEEDS_EXAMPLES, message, then, step.missing)
    rare = [label for label in readiness.labels(figures) if label.short]
    if rare:
        rarest, minimum = min(rare, key=lambda label: label.examples), readiness.LABEL_EXAMPLES_MIN
        missing = sum(minimum - label.examples for label in rare)
        labels = f"{count_of(len(rare), 'label')} {'has' if len(rare) == 1 else 'have'} fewer than {minimum} examples"
        message = f"{labels}; '{rarest.name}' has {count(rarest.examples)}."
        then = f"Wait for {count_of(missing, 'example')} of these labels, write some, or merge rare labels."
        return ModeRecommendation("bootstrap", RecommendationReason.NEEDS_LABELS, message, then, missing)
    message = f"There {_is_or_are(examples)}, enough to {readiness.STEPS[500]}."
    then = (
        "In the central team: 'edge-convert collect', 'dataset', 'run', 'publish'."
        " The installed bundle starts in shadow."
    )
    return ModeRecommendation("bootstrap", RecommendationReason.MAKE_A_MODEL, message, then)


def _bootstrap(figures: TaskFigures) -> ModeRecommendation:
    message = "A model is installed, and it has not been compared with the large model yet."
    then = f"Run {_command(figures, 'shadow')}: it costs as much as bootstrap."
    return ModeRecommendation("shadow", RecommendationReason.MODEL_IS_HERE, message, then)


def _shadow(figures: TaskFigures) -> ModeRecommendation:
    if figures.threshold is None:
        return _uncalibrated(figures, "none of its answers is confident")
    level, minimum = readiness.at_threshold(figures), readiness.rows_min(figures)
    rows = level.rows if level else 0
    if level is None or rows < minimum:
        more = readiness.inputs_for(minimum - rows, level) if level else minimum
        message = f"{count(rows)} of its confident answers were compared; at least {count(minimum)} are needed."
        then = f"Wait for about {count_of(more, 'more input')}."
        return ModeRecommendation("shadow", RecommendationReason.NEEDS_COMPARISONS, message, then, more)
    if not figures.first_alarm(*BROKEN) and level.holds:
        message = (
            f"It is confident of {percent(level.taken.value)} of the inputs, and {level.judges} with"
            f" {percent(level.risk)} of these: proved to be {_at_most(figures)}."
        )
        then = _hybrid_instruction(figures, level.taken)
        return ModeRecommendation("hybrid", RecommendationReason.RISK_HOLDS, message, then)
    return _unproved(figures, level)


def _hybrid_instruction(figures: TaskFigures, current: CountedShare) -> str:
    coverage = readiness.achievable_coverage(figures)
    instruction = f"Run {_command(figures, 'hybrid')}."
    if coverage.above is None or (coverage.share.value or 0.0) < (current.value or 0.0) + MORE_SHARE_MIN:
        return instruction
    share = percent(coverage.share.value)
    return f"{instruction} Recalibrated with a threshold of {coverage.above:.2f}, it could answer {share}."


def _uncalibrated(figures: TaskFigures, consequence: str) -> ModeRecommendation:
    reason, coverage = f"Its bundle has no threshold, so {consequence}.", readiness.achievable_coverage(figures)
    if coverage.above is not None:
        share = percent(coverage.share.value)
        reason += f" The compared answers prove a threshold of {coverage.above:.2f}, for {share} of the inputs."
    then = "Calibrate it with the collected examples: 'edge-convert run'."
    return ModeRecommendation(figures.mode, RecommendationReason.NOT_CALIBRATED, reason, then)


def _unproved(figures: TaskFigures, level: CoverageLevel) -> ModeRecommendation:
    judges = level.judges[:1].upper() + level.judges[1:]
    observation = f"{judges} with {percent(level.risk)} of its {count_of(level.rows, 'confident answer')}"
    more = readiness.more_at(level, figures)
    if more is not None and not figures.first_alarm(*BROKEN):
        message = f"{observation}, which does not yet prove that it is {_at_most(figures)}."
        then = f"Wait for about {count_of(more, 'more input')}."
        return ModeRecommendation("shadow", RecommendationReason.NEEDS_COMPARISONS, message, then, more)
    then = "Train it again with the collected examples, or calibrate it for a higher threshold."
    message = f"{observation}; the target is {percent(figures.target)} at most."
    return ModeRecommendation("shadow", RecommendationReason.RISK_BROKEN, message, then)


def _hybrid(figures: TaskFigures) -> ModeRecommendation:
    alarm = figures.first_alarm(*BROKEN)
    if alarm:
        then = f"Run {_command(figures, 'shadow')}, and train it again with the collected examples. {alarm.remedy}"
        return ModeRecommendation("shadow", RecommendationReason.RISK_BROKEN, sentence(alarm.message), then)
    confident, judged = _confident_share(figures), figures.judged
    if confident.rows and figures.threshold is None:
        return _uncalibrated(figures, "none of its answers is confident, and the large model answers every input")
    reason = (
        f"It is confident of {percent(confident.value)} of its answers. The large model was also asked about"
        f" {count(judged.rows)} of these, and disagrees with {count(judged.rows - judged.same)}."
    )
    reason = readiness.without_answers(figures, _UNKNOWN) if confident.value is None else reason
    not_escalated = counted_share(confident.hits - sum(day.unusual for day in figures.recent), confident.rows)
    if confident.rows >= LOCAL_ANSWERS_MIN and not_escalated.low >= LOCAL_SHARE_MIN and judged.rows:
        then = f"Run {_command(figures, 'local')}, unless the other answers matter."
        return ModeRecommendation("local", RecommendationReason.HARDLY_ASKS, reason, then)
    then = "Nothing to do: corrected examples make the next model more confident."
    return ModeRecommendation("hybrid", RecommendationReason.STILL_ASKS, reason, then)


def _local(figures: TaskFigures) -> ModeRecommendation:
    alarm = figures.first_alarm(*BROKEN)
    if alarm and figures.may_leave:
        then = f"Run {_command(figures, 'shadow')}. {alarm.remedy}"
        return ModeRecommendation("shadow", RecommendationReason.RISK_BROKEN, sentence(alarm.message), then)
    unsure = counted_share(sum(day.unsure for day in figures.recent), _confident_share(figures).rows)
    if unsure.rows and figures.threshold is None:
        return _uncalibrated(figures, "none of its answers is confident, and no other model is asked")
    if unsure.low <= UNSURE_SHARE_MAX:
        message = f"{percent(unsure.value)} of its answers are below the threshold, and no other model is asked."
        reason = readiness.without_answers(figures, _UNKNOWN) if unsure.value is None else message
        return ModeRecommendation("local", RecommendationReason.ASKS_NOBODY, reason, "Nothing to do.")
    reason = f"{percent(unsure.value)} of its answers are below the threshold and are returned anyway."
    prefix = "Run " if figures.may_leave else "Add the task to 'tasks' under 'escalation' in agent.yaml, then run "
    then = f"{prefix}{_command(figures, 'hybrid')}: a large model answers the others."
    return ModeRecommendation("hybrid", RecommendationReason.DOUBTS_ARE_GIVEN, reason, then)


_BY_MODE: dict[Mode, Callable[[TaskFigures], ModeRecommendation]] = {
    "bootstrap": _bootstrap,
    "shadow": _shadow,
    "hybrid": _hybrid,
    "local": _local,
}


def sentence(message: str) -> str:
    """Return the message of an alarm as a sentence."""
    return f"{message[:1].upper()}{message[1:].rstrip('.')}."


def _confident_share(figures: TaskFigures) -> CountedShare:
    confident = sum(day.sure for day in figures.recent)
    return counted_share(confident, confident + sum(day.unsure for day in figures.recent))


def _at_most(figures: TaskFigures) -> str:
    return f"{percent(figures.target)} at most, with {percent(1 - figures.delta)} certainty"


def _command(figures: TaskFigures, mode: Mode) -> str:
    return f"'edge-agent mode {figures.task} {mode}'"


def _is_or_are(number: int) -> str:
    return f"{'is' if number == 1 else 'are'} {count_of(number, 'example')}"
