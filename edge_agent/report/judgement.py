"""The judgement of one task, and its text in the report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edge_agent.formatting import amount, count, count_of, interval, percent
from edge_agent.report import mode_recommendation, readiness, suitability
from edge_agent.report.mode_recommendation import ModeRecommendation, RecommendationReason
from edge_agent.report.readiness import AchievableCoverage, CoverageLevel, LabelState, ReadinessStep
from edge_agent.report.suitability import NO_ASSUMPTIONS, CostAssumptions, CostFigures, SuitabilityAnswer
from edge_agent.report.task_figures import TaskAlarm, TaskFigures
from edge_agent.statistics import LEVEL, CountedShare

SCHEMA = "edge-agent/report/v1"
DAYS_DRAWN_MAX = 60


@dataclass(frozen=True)
class TaskJudgement:
    """One task."""

    figures: TaskFigures
    advice: ModeRecommendation
    suitability: tuple[SuitabilityAnswer, ...]
    steps: tuple[ReadinessStep, ...]
    agreement: CountedShare
    agreement_by_day: tuple[tuple[str, CountedShare], ...]
    labels: tuple[LabelState, ...]
    coverage: AchievableCoverage
    at_threshold: CoverageLevel | None
    judged: CountedShare
    """Confident answers that the large model answered, too, and how many were equal."""
    checked: CountedShare
    """Confident answers that people judged, and how many they found right."""
    costs: CostFigures
    currency: str = ""
    """The currency of amounts; empty = unknown."""


@dataclass(frozen=True)
class SiteTotal:
    """All tasks together."""

    calls: int
    answered_here: int
    spent_micros: int
    saved_micros: int | None
    """Sum over the tasks with a known price; None = no task has one."""


@dataclass(frozen=True)
class ReportHeader:
    """Site and time of the report."""

    site: str
    """Empty = the site has no name."""
    at: str
    """2026-11-25 21:40 UTC."""
    agent_version: str
    large_model: str
    """Name of the large model; empty = none is configured."""


def judge_task(figures: TaskFigures, assumptions: CostAssumptions = NO_ASSUMPTIONS) -> TaskJudgement:
    """Judge one task."""
    coverage = readiness.achievable_coverage(figures)
    costs = suitability.compute_costs(figures, coverage)
    return TaskJudgement(
        figures=figures,
        advice=mode_recommendation.recommend_mode(figures),
        suitability=suitability.assess_suitability(figures, costs, assumptions),
        steps=readiness.steps(figures),
        agreement=readiness.agreement(figures.agreement_basis),
        agreement_by_day=tuple(readiness.agreement_by_day(figures, DAYS_DRAWN_MAX)),
        labels=readiness.labels(figures),
        coverage=coverage,
        at_threshold=readiness.at_threshold(figures),
        judged=readiness.agreement(figures.judged),
        checked=readiness.agreement(figures.checked),
        costs=costs,
        currency=assumptions.currency,
    )


def sum_costs(judgements: Iterable[TaskJudgement]) -> SiteTotal:
    """Sum the costs of all tasks."""
    costs = [each.costs for each in judgements]
    saved = [each.saved_micros for each in costs if each.saved_micros is not None]
    return SiteTotal(
        calls=sum(each.calls for each in costs),
        answered_here=sum(each.answered_here for each in costs),
        spent_micros=sum(each.spent_micros for each in costs),
        saved_micros=sum(saved) if saved else None,
    )


def coverage_sentence(judgement: TaskJudgement) -> str:
    """Return a sentence on the coverage that the local model could have at the target risk."""
    coverage, target = judgement.coverage, judgement.figures.target
    at_risk = f"at a risk of {percent(target)}"
    if coverage.above is not None and (level := coverage.basis_level):
        return (
            f"It could answer {interval(coverage.share)} of the inputs {at_risk}: those with a confidence of at least"
            f" {coverage.above:.2f}. Of these, {level.judges} with {percent(coverage.risk)}."
            f" {judges_sentence(coverage)}"
        )
    if coverage.more is None:
        return (
            f"Nothing is proved {at_risk}, and more examples of the same kind would not help: the model has to improve."
        )
    return f"Nothing is proved {at_risk} yet: about {count_of(coverage.more, 'more input')} to compare."


def judges_sentence(coverage: AchievableCoverage) -> str:
    """Return a sentence on whose judgements the coverage is based; empty = nothing was compared."""
    level = coverage.basis_level
    if level is None:
        return ""
    if not level.reviewed:
        return (
            "The large model's answers count as right here, although it makes errors itself:"
            " no person has reviewed these."
        )
    rest = level.rows - level.reviewed
    return (
        f"For {count_of(level.reviewed, 'answer')} the judgement of people counts; for the other {count(rest)} it is"
        " the large model's, which makes errors itself."
    )


def report_json(judgements: Sequence[TaskJudgement], header: ReportHeader) -> dict[str, Any]:
    """Return the report for JSON. Amounts are millionths of the currency; unknown values are null."""
    return {
        "schema": SCHEMA,
        **asdict(header),
        "currency": judgements[0].currency if judgements else "",
        "total": asdict(sum_costs(judgements)),
        "tasks": [_task_json(each) for each in judgements],
    }


def _task_json(judgement: TaskJudgement) -> dict[str, Any]:
    figures = judgement.figures
    return {
        "task": figures.task,
        **({"question": figures.question} if figures.question else {}),
        "kind": figures.kind,
        "mode": figures.mode,
        "has_model": figures.has_model,
        "threshold": figures.threshold,
        "gate": figures.gate or None,
        "held_up": dict(figures.held_up),
        "wanted_risk": {"target": figures.target, "delta": figures.delta},
        "advice": asdict(judgement.advice),
        "framework": [asdict(answer) for answer in judgement.suitability],
        "examples": {"number": figures.examples, "steps": [asdict(step) for step in judgement.steps]},
        "agreement": _share_json(judgement.agreement),
        "agreement_by_day": [{"from": date, **_share_json(share)} for date, share in judgement.agreement_by_day],
        "labels": [
            {**asdict(label), "agreement": _share_json(label.agreement), "recent": _share_json(label.recent)}
            for label in judgement.labels
        ],
        "could_take": _coverage_json(judgement.coverage),
        "at_threshold": asdict(judgement.at_threshold) if judgement.at_threshold else None,
        "judged": _share_json(judgement.judged),
        "checked": _share_json(judgement.checked),
        "alarms": [asdict(alarm) for alarm in figures.alarms],
        "money": {**asdict(judgement.costs), "year_gain_micros": judgement.costs.year_gain_micros},
        "days": [asdict(day) for day in figures.days],
        "large_ms": figures.large_ms or None,
        "local_ms": figures.local_ms or None,
        "may_leave": figures.may_leave,
        "collected": figures.collected,
    }


def _coverage_json(coverage: AchievableCoverage) -> dict[str, Any]:
    level = coverage.basis_level
    people = level.reviewed if level else 0
    judges = {"people": people, "large_model": level.rows - people if level else 0, "note": judges_sentence(coverage)}
    return {**asdict(coverage), "share": _share_json(coverage.share), "judged_by": judges}


def _share_json(share: CountedShare) -> dict[str, Any]:
    return {"value": share.value, **asdict(share), "level": LEVEL}


VERDICTS = {"yes": "✓ yes", "partly": "◐ partly", "no": "✗ no", "unknown": "? not known yet"}
MODES = {
    "bootstrap": "the large model answers, examples are gathered",
    "shadow": "the large model answers, the local one is compared",
    "hybrid": "the local model gives its confident answers, the large model the rest",
    "local": "the local model answers everything",
}


def headline(judgement: TaskJudgement) -> str:
    """Return the next step in a few words."""
    advice, mode = judgement.advice, judgement.figures.mode
    if advice.why is RecommendationReason.MAKE_A_MODEL:
        return "Next: make a model"
    return f"Stay in {mode}" if advice.mode == mode else f"Next: {advice.mode}"


def other_alarms(judgement: TaskJudgement) -> list[TaskAlarm]:
    """Return the alarms that the recommendation does not mention."""
    reason = judgement.advice.because.lower()
    return [alarm for alarm in judgement.figures.alarms if alarm.message.lower() not in reason]


def summary(judgements: Sequence[TaskJudgement]) -> str:
    """Return a summary of all tasks; only captured answers are counted."""
    total, currency = sum_costs(judgements), judgements[0].currency
    tasks = count_of(len({each.figures.task for each in judgements}), "task")
    left_out = dict.fromkeys(each.figures.task for each in judgements if not each.figures.collected)
    note = f" Not collected, so not counted: {', '.join(left_out)}." if left_out else ""
    if not total.calls:
        return f"{tasks}; no answers have been captured yet.{note}"
    local_share = percent(total.answered_here / total.calls)
    saved = "not known yet" if total.saved_micros is None else amount(total.saved_micros, currency)
    spent = f"Spent on the large model: {amount(total.spent_micros, currency)}; saved: {saved}."
    return f"{tasks}, {count_of(total.calls, 'captured answer')}, {local_share} of them local. {spent}{note}"


def summary_tiles(judgement: TaskJudgement) -> list[tuple[str, str, str]]:
    """Return the main numbers: title, number and basis of each."""
    costs, figures = judgement.costs, judgement.figures
    graded = (
        [_coverage_tile(judgement), _agreement_tile(judgement), _confidence_tile(figures)]
        if figures.kind in ("classify", "decide", "extract")
        else []
    )
    local_share = costs.answered_here / costs.calls if costs.calls else None
    return [
        *graded,
        ("Answered locally", percent(local_share), f"of {count_of(costs.calls, 'answer')}"),
        ("Spent", amount(costs.spent_micros, judgement.currency), f"on {count_of(costs.priced, 'question')}"),
        _savings_tile(judgement),
        ("Examples", count(figures.examples), f"{count(1000)} are enough for every step"),
    ]


def _coverage_tile(judgement: TaskJudgement) -> tuple[str, str, str]:
    coverage, title = judgement.coverage, "Could be answered locally"
    risk = f"at a risk of {percent(judgement.figures.target)}"
    if judgement.figures.mode == "local" and judgement.figures.threshold is not None and not coverage.levels:
        sure, unsure = (sum(getattr(day, name) for day in judgement.figures.recent) for name in ("sure", "unsure"))
        share = percent(sure / (sure + unsure)) if sure + unsure else "not known yet"
        return title, share, "by the bundle's own threshold; nothing was compared here"
    if coverage.above is None:
        return title, "not yet", f"nothing is proved {risk}"
    level = coverage.basis_level
    judges = "by people and the large model" if level and level.reviewed else "by the large model"
    bounds = f"{percent(coverage.share.low)} to {percent(coverage.share.high)}"
    return title, percent(coverage.share.value), f"{bounds}, {risk} {judges}"


_LIMITS = {
    "BELOW_THRESHOLD": "below the threshold",  # also the daemon's word for no gate
    "BELOW_FLOOR": "below the floor",
    "OUT_OF_DISTRIBUTION": "out of distribution",
    "SCORES_VARY": "by scores that vary",
}


def _confidence_tile(figures: TaskFigures) -> tuple[str, str, str]:
    """Return how many answers were not confident, and for which reasons."""
    held_up, graded = figures.held_up, sum(day.sure + day.unsure for day in figures.recent)
    limits = _LIMITS if figures.threshold is not None else {**_LIMITS, "BELOW_THRESHOLD": "without a threshold"}
    parts = [f"{count(held_up[reason])} {words}" for reason, words in limits.items() if held_up.get(reason)]
    if figures.gate == "none" and figures.threshold is not None:
        parts.append("no gate: an input unlike the training data can get a confident answer")
    share = percent(sum(day.unsure for day in figures.recent) / graded) if graded else "not yet"
    return "Not confident", share, "; ".join(parts) or f"of {count_of(graded, 'answer')}"


def _agreement_tile(judgement: TaskJudgement) -> tuple[str, str, str]:
    agreement, title = judgement.agreement, "Agrees with the large model"
    if not agreement.rows:
        return title, "not yet", "nothing was compared"
    bounds = f"{percent(agreement.low)} to {percent(agreement.high)}"
    return title, percent(agreement.value), f"{bounds}, of {count(agreement.rows)} compared"


def _savings_tile(judgement: TaskJudgement) -> tuple[str, str, str]:
    costs = judgement.costs
    if costs.saved_micros is None:
        return "Saved", "not known yet", "a question has no usual price yet"
    price = amount(costs.price_micros, judgement.currency)
    return "Saved", amount(costs.saved_micros, judgement.currency), f"{count(costs.answered_here)} at {price} each"
