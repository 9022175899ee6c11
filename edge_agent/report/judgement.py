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
    framework: tuple[SuitabilityAnswer, ...]
    steps: tuple[ReadinessStep, ...]
    agreement: CountedShare
    agreement_by_day: tuple[tuple[str, CountedShare], ...]
    labels: tuple[LabelState, ...]
    takes: AchievableCoverage
    at_threshold: CoverageLevel | None
    judged: CountedShare
    """Confident answers that the large model answered, too, and how many were equal."""
    checked: CountedShare
    """Confident answers that people judged, and how many they found right."""
    money: CostFigures
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


def judge_task(figures: TaskFigures, wish: CostAssumptions = NO_ASSUMPTIONS) -> TaskJudgement:
    """Judge one task."""
    takes = readiness.achievable_coverage(figures)
    reckoned = suitability.compute_costs(figures, takes)
    return TaskJudgement(
        figures=figures,
        advice=mode_recommendation.recommend_mode(figures),
        framework=suitability.assess_suitability(figures, reckoned, wish),
        steps=readiness.steps(figures),
        agreement=readiness.agreement(figures.alike),
        agreement_by_day=tuple(readiness.by_day(figures, DAYS_DRAWN_MAX)),
        labels=readiness.labels(figures),
        takes=takes,
        at_threshold=readiness.at_threshold(figures),
        judged=readiness.agreement(figures.judged),
        checked=readiness.agreement(figures.checked),
        money=reckoned,
        currency=wish.currency,
    )


def sum_costs(judged: Iterable[TaskJudgement]) -> SiteTotal:
    """Sum the costs of all tasks."""
    every = [each.money for each in judged]
    saved = [each.saved_micros for each in every if each.saved_micros is not None]
    return SiteTotal(
        calls=sum(each.calls for each in every),
        answered_here=sum(each.answered_here for each in every),
        spent_micros=sum(each.spent_micros for each in every),
        saved_micros=sum(saved) if saved else None,
    )


def could_take(judged: TaskJudgement) -> str:
    """Return a sentence on the coverage that the local model could have at the target risk."""
    found, target = judged.takes, judged.figures.target
    wanted = f"at a risk of {percent(target)}"
    if found.above is not None and (level := found.resting_on):
        return (
            f"It could answer {interval(found.share)} of the inputs {wanted}: those with a confidence of at least"
            f" {found.above:.2f}. Of these, {level.judges} with {percent(found.risk)}. {measured_by(found)}"
        )
    if found.more is None:
        return (
            f"Nothing is proved {wanted}, and more examples of the same kind would not help: the model has to improve."
        )
    return f"Nothing is proved {wanted} yet: about {count_of(found.more, 'more input')} to compare."


def measured_by(found: AchievableCoverage) -> str:
    """Return a sentence on whose judgements the coverage is based; empty = nothing was compared."""
    level = found.resting_on
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


def report_json(judged: Sequence[TaskJudgement], about: ReportHeader) -> dict[str, Any]:
    """Return the report for JSON. Amounts are millionths of the currency; unknown values are null."""
    return {
        "schema": SCHEMA,
        **asdict(about),
        "currency": judged[0].currency if judged else "",
        "total": asdict(sum_costs(judged)),
        "tasks": [_task(each) for each in judged],
    }


def _task(judged: TaskJudgement) -> dict[str, Any]:
    figures = judged.figures
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
        "advice": asdict(judged.advice),
        "framework": [asdict(answer) for answer in judged.framework],
        "examples": {"number": figures.examples, "steps": [asdict(step) for step in judged.steps]},
        "agreement": _share(judged.agreement),
        "agreement_by_day": [{"from": date, **_share(share)} for date, share in judged.agreement_by_day],
        "labels": [
            {**asdict(label), "agreement": _share(label.agreement), "recent": _share(label.recent)}
            for label in judged.labels
        ],
        "could_take": _could_take(judged.takes),
        "at_threshold": asdict(judged.at_threshold) if judged.at_threshold else None,
        "judged": _share(judged.judged),
        "checked": _share(judged.checked),
        "alarms": [asdict(alarm) for alarm in figures.alarms],
        "money": {**asdict(judged.money), "year_gain_micros": judged.money.year_gain_micros},
        "days": [asdict(day) for day in figures.days],
        "large_ms": figures.large_ms or None,
        "local_ms": figures.local_ms or None,
        "may_leave": figures.may_leave,
        "collected": figures.collected,
    }


def _could_take(takes: AchievableCoverage) -> dict[str, Any]:
    level = takes.resting_on
    people = level.reviewed if level else 0
    judges = {"people": people, "large_model": level.rows - people if level else 0, "note": measured_by(takes)}
    return {**asdict(takes), "share": _share(takes.share), "judged_by": judges}


def _share(share: CountedShare) -> dict[str, Any]:
    return {"value": share.value, **asdict(share), "level": LEVEL}


VERDICTS = {"yes": "✓ yes", "partly": "◐ partly", "no": "✗ no", "unknown": "? not known yet"}
MODES = {
    "bootstrap": "the large model answers, examples are gathered",
    "shadow": "the large model answers, the local one is compared",
    "hybrid": "the local model gives its confident answers, the large model the rest",
    "local": "the local model answers everything",
}


def headline(judged: TaskJudgement) -> str:
    """Return the next step in a few words."""
    advice, mode = judged.advice, judged.figures.mode
    if advice.why is RecommendationReason.MAKE_A_MODEL:
        return "Next: make a model"
    return f"Stay in {mode}" if advice.mode == mode else f"Next: {advice.mode}"


def other_alarms(judged: TaskJudgement) -> list[TaskAlarm]:
    """Return the alarms that the recommendation does not mention."""
    reason = judged.advice.because.lower()
    return [alarm for alarm in judged.figures.alarms if alarm.message.lower() not in reason]


def summary(judged: Sequence[TaskJudgement]) -> str:
    """Return a summary of all tasks; only captured answers are counted."""
    every, currency = sum_costs(judged), judged[0].currency
    tasks = count_of(len({each.figures.task for each in judged}), "task")
    left_out = dict.fromkeys(each.figures.task for each in judged if not each.figures.collected)
    note = f" Not collected, so not counted: {', '.join(left_out)}." if left_out else ""
    if not every.calls:
        return f"{tasks}; no answers have been captured yet.{note}"
    here = percent(every.answered_here / every.calls)
    saved = "not known yet" if every.saved_micros is None else amount(every.saved_micros, currency)
    spent = f"Spent on the large model: {amount(every.spent_micros, currency)}; saved: {saved}."
    return f"{tasks}, {count_of(every.calls, 'captured answer')}, {here} of them local. {spent}{note}"


def summary_tiles(judged: TaskJudgement) -> list[tuple[str, str, str]]:
    """Return the main numbers: title, number and basis of each."""
    money, figures = judged.money, judged.figures
    graded = (
        [_could(judged), _same(judged), _held_up(figures)] if figures.kind in ("classify", "decide", "extract") else []
    )
    here = money.answered_here / money.calls if money.calls else None
    return [
        *graded,
        ("Answered locally", percent(here), f"of {count_of(money.calls, 'answer')}"),
        ("Spent", amount(money.spent_micros, judged.currency), f"on {count_of(money.priced, 'question')}"),
        _saved(judged),
        ("Examples", count(figures.examples), f"{count(1000)} are enough for every step"),
    ]


def _could(judged: TaskJudgement) -> tuple[str, str, str]:
    takes, what = judged.takes, "Could be answered locally"
    risk = f"at a risk of {percent(judged.figures.target)}"
    if judged.figures.mode == "local" and judged.figures.threshold is not None and not takes.levels:
        sure, unsure = (sum(getattr(day, name) for day in judged.figures.recent) for name in ("sure", "unsure"))
        share = percent(sure / (sure + unsure)) if sure + unsure else "not known yet"
        return what, share, "by the bundle's own threshold; nothing was compared here"
    if takes.above is None:
        return what, "not yet", f"nothing is proved {risk}"
    by = "by people and the large model" if takes.resting_on and takes.resting_on.reviewed else "by the large model"
    return what, percent(takes.share.value), f"{percent(takes.share.low)} to {percent(takes.share.high)}, {risk} {by}"


_LIMITS = {
    "BELOW_THRESHOLD": "below the threshold",  # also the daemon's word for no gate
    "BELOW_FLOOR": "below the floor",
    "OUT_OF_DISTRIBUTION": "out of distribution",
    "SCORES_VARY": "by scores that vary",
}


def _held_up(figures: TaskFigures) -> tuple[str, str, str]:
    """Return how many answers were not confident, and for which reasons."""
    held_up, graded = figures.held_up, sum(day.sure + day.unsure for day in figures.recent)
    limits = _LIMITS if figures.threshold is not None else {**_LIMITS, "BELOW_THRESHOLD": "without a threshold"}
    parts = [f"{count(held_up[reason])} {words}" for reason, words in limits.items() if held_up.get(reason)]
    if figures.gate == "none" and figures.threshold is not None:
        parts.append("no gate: an input unlike the training data can get a confident answer")
    share = percent(sum(day.unsure for day in figures.recent) / graded) if graded else "not yet"
    return "Not confident", share, "; ".join(parts) or f"of {count_of(graded, 'answer')}"


def _same(judged: TaskJudgement) -> tuple[str, str, str]:
    agreed = judged.agreement
    what = "Agrees with the large model"
    if not agreed.rows:
        return what, "not yet", "nothing was compared"
    return (
        what,
        percent(agreed.value),
        f"{percent(agreed.low)} to {percent(agreed.high)}, of {count(agreed.rows)} compared",
    )


def _saved(judged: TaskJudgement) -> tuple[str, str, str]:
    money = judged.money
    if money.saved_micros is None:
        return "Saved", "not known yet", "a question has no usual price yet"
    each = amount(money.price_micros, judged.currency)
    return "Saved", amount(money.saved_micros, judged.currency), f"{count(money.answered_here)} at {each} each"
