"""Should this task have a small model? Four questions, answered by measurements. Pure.

Is it narrow (specificity), is there enough to learn from (data), does the volume pay (economics), and does anything
but money ask for a model here (constraints).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from edge_agent.formatting import amount, count, count_of, in_days, milliseconds, percent
from edge_agent.report import readiness
from edge_agent.report.readiness import AchievableCoverage, LabelState
from edge_agent.report.task_figures import TaskFigures
from edge_agent.statistics import counted_share

Verdict = Literal["yes", "partly", "no", "unknown"]
LABELS_NARROW_MAX = 50
PAIRS_MIN = 30
"""Minimum comparisons to tell how well a task can be learned."""
CALLS_MIN = 100
"""Minimum answers to estimate the volume."""
PAID_BACK_MONTHS, PAID_BACK_MONTHS_MAX = 12, 36
"""Payback periods for the verdicts yes and partly."""
BLOCKED_SHARE_MIN = 0.005
PRICED_MIN = 20
"""Minimum paid questions to estimate the usual price."""
MONTH_DAYS, YEAR_MONTHS = 30, 12
SLOWER_MIN = 2.0
_UNJUDGED = "this question cannot be answered"
_REACHED: tuple[Verdict, ...] = ("no", "partly", "yes")
"""Verdict by the number of reached milestones, before the last."""


@dataclass(frozen=True)
class CostAssumptions:
    """Assumptions that only the reader knows."""

    currency: str = ""
    """The currency of amounts; empty = unknown."""
    model_cost_micros: int | None = None
    """Cost of making a model, in millionths; None = not given."""


NO_ASSUMPTIONS = CostAssumptions()


@dataclass(frozen=True)
class CostFigures:
    """Amounts in millionths of the currency of the prices; None = not known yet."""

    days: int
    """Number of days of the figures."""
    calls: int
    calls_a_day: float
    answered_here: int
    priced: int
    """Paid questions to the large model."""
    price_micros: float | None
    """Usual price of a question."""
    spent_micros: int
    saved_micros: int | None
    month_all_large_micros: int | None
    """Monthly cost if the large model answered every call, at the present number of calls."""
    month_now_micros: int | None
    """Present monthly cost."""
    month_possible_micros: int | None
    """Monthly cost if the local model had its proved coverage."""

    @property
    def year_gain_micros(self) -> int | None:
        """Yearly savings at the proved coverage, compared with the large model for every call."""
        if self.month_all_large_micros is None:
            return None
        every = self.month_all_large_micros
        # A call without an answer, such as while the large model was offline, cost nothing and saved nothing.
        by_local = round(every * self.answered_here / self.calls) if self.calls else 0
        now, possible = every - (self.month_now_micros or 0), every - (self.month_possible_micros or 0)
        return YEAR_MONTHS * max(min(now, by_local), possible)


def compute_costs(figures: TaskFigures, takes: AchievableCoverage) -> CostFigures:
    """Compute the costs."""
    days, calls = len(figures.recent), figures.calls
    priced, spent = sum(day.priced for day in figures.recent), sum(day.cost_micros for day in figures.recent)
    price = spent / priced if spent and priced >= PRICED_MIN else None
    here, month = figures.routed("local"), MONTH_DAYS / days if days else 0.0
    left = 1 - (takes.share.value or 0.0)
    return CostFigures(
        days=days,
        calls=calls,
        calls_a_day=calls / days if days else 0.0,
        answered_here=here,
        priced=priced,
        price_micros=price,
        spent_micros=spent,
        saved_micros=_times(price, here),
        month_all_large_micros=_times(price, calls * month),
        month_now_micros=None if price is None else round(spent * month),
        month_possible_micros=_times(price, calls * month * left),
    )


def _times(price: float | None, calls: float) -> int | None:
    return None if price is None else round(price * calls)


@dataclass(frozen=True)
class SuitabilityAnswer:
    """One question, its answer and the number that it is based on."""

    about: Literal["specificity", "data", "economics", "constraints"]
    question: str
    verdict: Verdict
    number: str
    because: str


def assess_suitability(
    figures: TaskFigures, money: CostFigures, wish: CostAssumptions
) -> tuple[SuitabilityAnswer, ...]:
    """Answer all four questions."""
    return (
        SuitabilityAnswer("specificity", "Is the task narrow?", *_narrow(figures)),
        _data(figures),
        SuitabilityAnswer("economics", "Does the volume pay?", *_pays(money, wish)),
        SuitabilityAnswer("constraints", "Does anything besides cost call for a local model?", *_asks(figures)),
    )


def _narrow(figures: TaskFigures) -> tuple[Verdict, str, str]:
    if figures.kind in ("generate", "embed"):
        return (
            "no",
            f"kind {figures.kind}",
            "Its answers are not simply right or wrong, so nothing can be proved about a small model.",
        )
    agreed = readiness.agreement(figures.alike)
    known = readiness.labels(figures)
    if figures.kind == "extract":
        fields = f"{percent(agreed.value)} of whole records are the same" if agreed.rows else "a fixed record"
        return "yes", fields, "Its answer is a record of fixed fields, which is either right or not."
    if not figures.calls:
        return "unknown", count_of(len(known), "label"), readiness.without_answers(figures, _UNJUDGED)
    if len(known) > LABELS_NARROW_MAX:
        message = f"Many labels need many examples; up to {LABELS_NARROW_MAX} are easy. Can some be merged?"
        return "partly", count_of(len(known), "label"), message
    return _learnable(figures, known)


def _learnable(figures: TaskFigures, known: tuple[LabelState, ...]) -> tuple[Verdict, str, str]:
    answers = sum(label.answers for label in known)
    usual = max((label.answers for label in known), default=0) / answers if answers else 0.0
    number = (
        f"{count_of(len(known), 'label')}, as varied as {effective_label_count(known):.1f} equally frequent ones"
        if answers
        else ""
    )
    number = number or count_of(len(known), "label")
    agreed = readiness.agreement(figures.alike)
    if agreed.rows < PAIRS_MIN:
        message = "The answers are a closed set. Whether a small model learns it shows once both models are compared."
        return "yes", number, message
    against = f"always choosing the most frequent label would agree on {percent(usual)}"
    if agreed.low > usual:
        return "yes", number, f"The local model agrees with the large model on {percent(agreed.value)}; {against}."
    return "no", number, f"The local model agrees on only {percent(agreed.value)}; {against}."


def effective_label_count(known: tuple[LabelState, ...]) -> float:
    """Return the effective number of labels: the exponential of the entropy."""
    answers = sum(label.answers for label in known)
    parts = [label.answers / answers for label in known if label.answers]
    return math.exp(-sum(part * math.log(part) for part in parts)) if parts else 0.0


def _data(figures: TaskFigures) -> SuitabilityAnswer:
    reviewed = sum(day.reviewed for day in figures.days)
    number = f"{count_of(figures.examples, 'example')}, {count(reviewed)} reviewed by people"
    return SuitabilityAnswer("data", "Is there enough to learn from?", *_enough(figures, number))


def _enough(figures: TaskFigures, number: str) -> tuple[Verdict, str, str]:
    every = readiness.steps(figures)
    reached = [step for step in every if not step.missing]
    rare = [label for label in readiness.labels(figures) if label.short]
    if len(reached) > 1 and rare:
        least = min(rare, key=lambda label: label.examples)
        message = f"{count_of(len(rare), 'label')} of {count(len(figures.labels))} below {readiness.LABEL_EXAMPLES_MIN}"
        return "partly", number, f"{message}: '{least.name}' has {count(least.examples)}."
    bought = f"Enough to {reached[-1].buys}. " if reached else ""
    if len(reached) == len(every):
        return "yes", number, bought.strip()
    following = every[len(reached)]
    message = f"{bought}{count(following.missing)} more to {following.buys}: {in_days(following.days)}."
    return _REACHED[len(reached)], number, message


def _pays(money: CostFigures, wish: CostAssumptions) -> tuple[Verdict, str, str]:
    currency = wish.currency
    number = f"{count_of(round(money.calls_a_day), 'call')} a day"
    if money.calls < CALLS_MIN:
        return "unknown", number, f"Not enough data yet: {count_of(CALLS_MIN - money.calls, 'more call')} are needed."
    if money.price_micros is None or money.month_all_large_micros is None:
        return "unknown", number, _no_price(money)
    month = amount(money.month_all_large_micros, currency)
    number = f"{number} at {amount(money.price_micros, currency)} each: {month} a month"
    gain = money.year_gain_micros or 0
    if not gain:
        tenth = amount(YEAR_MONTHS * money.month_all_large_micros / 10, currency)
        return (
            "unknown",
            number,
            f"Nothing is proved yet. Each 10% that a local model answers would save {tenth} a year.",
        )
    part = gain / (YEAR_MONTHS * money.month_all_large_micros)
    message = f"At the proved coverage a local model saves {percent(part)}, {amount(gain, currency)} a year."
    if wish.model_cost_micros is None:
        return "partly", number, f"{message} '--model-cost' shows whether that pays for making the model."
    months = YEAR_MONTHS * wish.model_cost_micros / gain
    return _paid_back(months), number, f"{message} The model pays for itself after {_months(months)}."


def _paid_back(months: float) -> Verdict:
    return "yes" if months <= PAID_BACK_MONTHS else "partly" if months <= PAID_BACK_MONTHS_MAX else "no"


def _months(months: float) -> str:
    return (
        "less than a month"
        if months < 1
        else count_of(math.ceil(months), "month")
        if months < 600
        else "more than 50 years"
    )


def _no_price(money: CostFigures) -> str:
    if money.spent_micros or not money.priced:
        paid = "was" if money.priced == 1 else "were"
        return f"Not enough data yet: {count_of(money.priced, 'question')} to the large model {paid} paid for."
    return "The questions cost nothing: set the prices under 'escalation' in agent.yaml."


def _asks(figures: TaskFigures) -> tuple[Verdict, str, str]:
    if not figures.may_leave:
        return (
            "yes",
            "no large model may be asked",
            "'tasks' under 'escalation' in agent.yaml does not name this task, so only a local model can answer.",
        )
    if not figures.calls:
        return "unknown", "no answer captured", readiness.without_answers(figures, _UNJUDGED)
    blocked = counted_share(sum(day.blocked for day in figures.recent), figures.calls)
    slower = figures.large_ms / figures.local_ms if figures.local_ms else 0.0
    there = f"; {milliseconds(figures.large_ms)} there" if figures.large_ms else ""
    here = f"; {milliseconds(figures.local_ms)} here" if figures.local_ms else ""
    number = f"not available for {percent(blocked.value)} of {count_of(figures.calls, 'answer')}{there}{here}"
    if blocked.low >= BLOCKED_SHARE_MIN:
        return "yes", number, "The large model is not always reachable; a local model answers anyway."
    if slower >= SLOWER_MIN:
        return "yes", number, f"An answer from the large model takes {slower:.0f} times as long as a local one."
    if not figures.large_ms:
        return "unknown", number, "The large model was not asked yet."
    return "no", number, "The large model was reachable when it was needed, and it is fast enough."
