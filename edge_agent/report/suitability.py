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
_UNANSWERABLE = "this question cannot be answered"
_MILESTONE_VERDICTS: tuple[Verdict, ...] = ("no", "partly", "yes")
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
        all_large = self.month_all_large_micros
        # A call without an answer, such as while the large model was offline, cost nothing and saved nothing.
        by_local = round(all_large * self.answered_here / self.calls) if self.calls else 0
        now, possible = all_large - (self.month_now_micros or 0), all_large - (self.month_possible_micros or 0)
        return YEAR_MONTHS * max(min(now, by_local), possible)


def compute_costs(figures: TaskFigures, coverage: AchievableCoverage) -> CostFigures:
    """Compute the costs."""
    days, calls = len(figures.recent), figures.calls
    priced, spent = sum(day.priced for day in figures.recent), sum(day.cost_micros for day in figures.recent)
    price = spent / priced if spent and priced >= PRICED_MIN else None
    local_answers, month = figures.routed("local"), MONTH_DAYS / days if days else 0.0
    escalated_share = 1 - (coverage.share.value or 0.0)
    return CostFigures(
        days=days,
        calls=calls,
        calls_a_day=calls / days if days else 0.0,
        answered_here=local_answers,
        priced=priced,
        price_micros=price,
        spent_micros=spent,
        saved_micros=_cost_of(price, local_answers),
        month_all_large_micros=_cost_of(price, calls * month),
        month_now_micros=None if price is None else round(spent * month),
        month_possible_micros=_cost_of(price, calls * month * escalated_share),
    )


def _cost_of(price: float | None, calls: float) -> int | None:
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
    figures: TaskFigures, costs: CostFigures, assumptions: CostAssumptions
) -> tuple[SuitabilityAnswer, ...]:
    """Answer all four questions."""
    return (
        SuitabilityAnswer("specificity", "Is the task narrow?", *_specificity(figures)),
        SuitabilityAnswer("data", "Is there enough to learn from?", *_data(figures)),
        SuitabilityAnswer("economics", "Does the volume pay?", *_economics(costs, assumptions)),
        SuitabilityAnswer("constraints", "Does anything besides cost call for a local model?", *_constraints(figures)),
    )


def _specificity(figures: TaskFigures) -> tuple[Verdict, str, str]:
    if figures.kind in ("generate", "embed"):
        message = "Its answers are not simply right or wrong, so nothing can be proved about a small model."
        return "no", f"kind {figures.kind}", message
    agreement = readiness.agreement(figures.agreement_basis)
    labels = readiness.labels(figures)
    if figures.kind == "extract":
        number = f"{percent(agreement.value)} of whole records are the same" if agreement.rows else "a fixed record"
        return "yes", number, "Its answer is a record of fixed fields, which is either right or not."
    if not figures.calls:
        return "unknown", count_of(len(labels), "label"), readiness.without_answers(figures, _UNANSWERABLE)
    if len(labels) > LABELS_NARROW_MAX:
        message = f"Many labels need many examples; up to {LABELS_NARROW_MAX} are easy. Can some be merged?"
        return "partly", count_of(len(labels), "label"), message
    return _learnable(figures, labels)


def _learnable(figures: TaskFigures, labels: tuple[LabelState, ...]) -> tuple[Verdict, str, str]:
    answers = sum(label.answers for label in labels)
    top_share = max((label.answers for label in labels), default=0) / answers if answers else 0.0
    number = count_of(len(labels), "label")
    if answers:
        number += f", as varied as {effective_label_count(labels):.1f} equally frequent ones"
    agreement = readiness.agreement(figures.agreement_basis)
    if agreement.rows < PAIRS_MIN:
        message = "The answers are a closed set. Whether a small model learns it shows once both models are compared."
        return "yes", number, message
    baseline = f"always choosing the most frequent label would agree on {percent(top_share)}"
    if agreement.low > top_share:
        return "yes", number, f"The local model agrees with the large model on {percent(agreement.value)}; {baseline}."
    return "no", number, f"The local model agrees on only {percent(agreement.value)}; {baseline}."


def effective_label_count(labels: tuple[LabelState, ...]) -> float:
    """Return the effective number of labels: the exponential of the entropy."""
    answers = sum(label.answers for label in labels)
    parts = [label.answers / answers for label in labels if label.answers]
    return math.exp(-sum(part * math.log(part) for part in parts)) if parts else 0.0


def _data(figures: TaskFigures) -> tuple[Verdict, str, str]:
    reviewed = sum(day.reviewed for day in figures.days)
    number = f"{count_of(figures.examples, 'example')}, {count(reviewed)} reviewed by people"
    steps = readiness.steps(figures)
    reached = [step for step in steps if not step.missing]
    rare = [label for label in readiness.labels(figures) if label.short]
    if len(reached) > 1 and rare:
        rarest = min(rare, key=lambda label: label.examples)
        message = f"{count_of(len(rare), 'label')} of {count(len(figures.labels))} below {readiness.LABEL_EXAMPLES_MIN}"
        return "partly", number, f"{message}: '{rarest.name}' has {count(rarest.examples)}."
    sufficiency = f"Enough to {reached[-1].buys}. " if reached else ""
    if len(reached) == len(steps):
        return "yes", number, sufficiency.strip()
    next_step = steps[len(reached)]
    message = f"{sufficiency}{count(next_step.missing)} more to {next_step.buys}: {in_days(next_step.days)}."
    return _MILESTONE_VERDICTS[len(reached)], number, message


def _economics(costs: CostFigures, assumptions: CostAssumptions) -> tuple[Verdict, str, str]:
    currency = assumptions.currency
    number = f"{count_of(round(costs.calls_a_day), 'call')} a day"
    if costs.calls < CALLS_MIN:
        return "unknown", number, f"Not enough data yet: {count_of(CALLS_MIN - costs.calls, 'more call')} are needed."
    if costs.price_micros is None or costs.month_all_large_micros is None:
        return "unknown", number, _no_price_reason(costs)
    month = amount(costs.month_all_large_micros, currency)
    number = f"{number} at {amount(costs.price_micros, currency)} each: {month} a month"
    gain = costs.year_gain_micros or 0
    if not gain:
        tenth = amount(YEAR_MONTHS * costs.month_all_large_micros / 10, currency)
        message = f"Nothing is proved yet. Each 10% that a local model answers would save {tenth} a year."
        return "unknown", number, message
    share = gain / (YEAR_MONTHS * costs.month_all_large_micros)
    message = f"At the proved coverage a local model saves {percent(share)}, {amount(gain, currency)} a year."
    if assumptions.model_cost_micros is None:
        return "partly", number, f"{message} '--model-cost' shows whether that pays for making the model."
    months = YEAR_MONTHS * assumptions.model_cost_micros / gain
    verdict: Verdict = "yes" if months <= PAID_BACK_MONTHS else "partly" if months <= PAID_BACK_MONTHS_MAX else "no"
    return verdict, number, f"{message} The model pays for itself after {_payback_period(months)}."


def _payback_period(months: float) -> str:
    if months < 1:
        return "less than a month"
    return count_of(math.ceil(months), "month") if months < 600 else "more than 50 years"


def _no_price_reason(costs: CostFigures) -> str:
    if costs.spent_micros or not costs.priced:
        verb = "was" if costs.priced == 1 else "were"
        return f"Not enough data yet: {count_of(costs.priced, 'question')} to the large model {verb} paid for."
    return "The questions cost nothing: set the prices under 'escalation' in agent.yaml."


def _constraints(figures: TaskFigures) -> tuple[Verdict, str, str]:
    if not figures.may_leave:
        message = "'tasks' under 'escalation' in agent.yaml does not name this task, so only a local model can answer."
        return "yes", "no large model may be asked", message
    if not figures.calls:
        return "unknown", "no answer captured", readiness.without_answers(figures, _UNANSWERABLE)
    blocked = counted_share(sum(day.blocked for day in figures.recent), figures.calls)
    slower = figures.large_ms / figures.local_ms if figures.local_ms else 0.0
    remote = f"; {milliseconds(figures.large_ms)} there" if figures.large_ms else ""
    local = f"; {milliseconds(figures.local_ms)} here" if figures.local_ms else ""
    number = f"not available for {percent(blocked.value)} of {count_of(figures.calls, 'answer')}{remote}{local}"
    if blocked.low >= BLOCKED_SHARE_MIN:
        return "yes", number, "The large model is not always reachable; a local model answers anyway."
    if slower >= SLOWER_MIN:
        return "yes", number, f"An answer from the large model takes {slower:.0f} times as long as a local one."
    if not figures.large_ms:
        return "unknown", number, "The large model was not asked yet."
    return "no", number, "The large model was reachable when it was needed, and it is fast enough."
