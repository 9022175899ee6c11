"""What the large model has cost, what was saved, and what a month comes to. Pure.

The usual price of a call is what was paid for questions divided by how many there were, of the same task and days:
an average and not a median, since it is multiplied by a number of calls. Saved is that price for each call that was
answered here. Whatever the model here costs (power, making it) is not in it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.report.figures import Figures
from edge_agent.report.readiness import Takes

PRICED_MIN = 20
"""Fewer paid questions say nothing of the usual price."""
MONTH_DAYS, YEAR_MONTHS = 30, 12


@dataclass(frozen=True)
class Money:
    """Amounts in millionths of the currency that the prices are in; None = not known yet."""

    days: int
    """That the figures are of."""
    calls: int
    calls_a_day: float
    answered_here: int
    priced: int
    """Questions to the large model that were paid for."""
    price_micros: float | None
    """Usual price of a question."""
    spent_micros: int
    saved_micros: int | None
    month_all_large_micros: int | None
    """What a month would cost if the large model answered everything, at the present number of calls."""
    month_now_micros: int | None
    """What a month costs as things are."""
    month_possible_micros: int | None
    """What a month would cost if the model here took what it could at the wanted risk."""

    @property
    def year_gain_micros(self) -> int | None:
        """What a year would save against asking the large model about everything, at the best that is proved."""
        if self.month_all_large_micros is None:
            return None
        least = min(self.month_now_micros or 0, self.month_possible_micros or 0)
        return YEAR_MONTHS * (self.month_all_large_micros - least)


def money(figures: Figures, takes: Takes) -> Money:
    """Reckon it."""
    days, calls = len(figures.recent), figures.calls
    priced, spent = sum(day.priced for day in figures.recent), sum(day.cost_micros for day in figures.recent)
    price = spent / priced if spent and priced >= PRICED_MIN else None
    here, month = figures.routed("local"), MONTH_DAYS / days if days else 0.0
    left = 1 - (takes.share.value or 0.0)
    return Money(
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
