"""What the report says of a task in words: the headline, the summary and its most important numbers. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from edge_agent.report.judgement import TaskJudgement, sum_costs
from edge_agent.report.mode_recommendation import RecommendationReason
from edge_agent.report.number_format import amount, count, counted, percent
from edge_agent.report.task_figures import TaskAlarm, TaskFigures

VERDICTS = {"yes": "✓ yes", "partly": "◐ partly", "no": "✗ no", "unknown": "? not known yet"}
MODES = {
    "bootstrap": "the large model answers, examples are gathered",
    "shadow": "the large model answers, the local one is compared",
    "hybrid": "the local model gives its confident answers, the large model the rest",
    "local": "the local model answers everything",
}


def headline(judged: TaskJudgement) -> str:
    """Say in a few words what to do next."""
    advice, mode = judged.advice, judged.figures.mode
    if advice.why is RecommendationReason.MAKE_A_MODEL:
        return "Next: make a model"
    return f"Stay in {mode}" if advice.mode == mode else f"Next: {advice.mode}"


def other_alarms(judged: TaskJudgement) -> list[TaskAlarm]:
    """Return the alarms that the advice does not speak of."""
    said = judged.advice.because.lower()
    return [alarm for alarm in judged.figures.alarms if alarm.message.lower() not in said]


def summary(judged: Sequence[TaskJudgement]) -> str:
    """Say what all tasks come to, of what is counted: captured answers."""
    every, currency = sum_costs(judged), judged[0].currency
    tasks = counted(len({each.figures.task for each in judged}), "task")
    left_out = dict.fromkeys(each.figures.task for each in judged if not each.figures.collected)
    note = f" Not collected, so not counted: {', '.join(left_out)}." if left_out else ""
    if not every.calls:
        return f"{tasks}; no answers have been captured yet.{note}"
    here = percent(every.answered_here / every.calls)
    saved = "not known yet" if every.saved_micros is None else amount(every.saved_micros, currency)
    spent = f"Spent on the large model: {amount(every.spent_micros, currency)}; saved: {saved}."
    return f"{tasks}, {counted(every.calls, 'captured answer')}, {here} of them local. {spent}{note}"


def summary_tiles(judged: TaskJudgement) -> list[tuple[str, str, str]]:
    """Return the most important numbers: what each is, the number, and what it rests on."""
    money, figures = judged.money, judged.figures
    graded = (
        [_could(judged), _same(judged), _held_up(figures)] if figures.kind in ("classify", "decide", "extract") else []
    )
    here = money.answered_here / money.calls if money.calls else None
    return [
        *graded,
        ("Answered locally", percent(here), f"of {counted(money.calls, 'answer')}"),
        ("Spent", amount(money.spent_micros, judged.currency), f"on {counted(money.priced, 'question')}"),
        _saved(judged),
        ("Examples", count(figures.examples), f"{count(1000)} are enough for every step"),
    ]


def _could(judged: TaskJudgement) -> tuple[str, str, str]:
    takes, what = judged.takes, "Could be answered locally"
    wanted = f"at a risk of {percent(judged.figures.target)}"
    if takes.above is None:
        return what, "not yet", f"nothing is proved {wanted}"
    by = "by people and the large model" if takes.resting_on and takes.resting_on.reviewed else "by the large model"
    return what, percent(takes.share.value), f"{percent(takes.share.low)} to {percent(takes.share.high)}, {wanted} {by}"


_LIMITS = {
    "BELOW_THRESHOLD": "below the threshold",
    "BELOW_FLOOR": "below the floor",
    "OUT_OF_DISTRIBUTION": "out of distribution",
    "SCORES_VARY": "by scores that vary",
}


def _held_up(figures: TaskFigures) -> tuple[str, str, str]:
    """Return how many answers were not confident, and what held up how many of them."""
    held_up, graded = figures.held_up, sum(day.sure + day.unsure for day in figures.recent)
    parts = [f"{count(held_up[reason])} {words}" for reason, words in _LIMITS.items() if held_up.get(reason)]
    if figures.gate == "none":
        parts.append("no gate: an input unlike the training data can get a confident answer")
    share = percent(sum(day.unsure for day in figures.recent) / graded) if graded else "not yet"
    return "Not confident", share, "; ".join(parts) or f"of {counted(graded, 'answer')}"


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
