"""How numbers read: counts, shares, amounts, times. Pure."""

from __future__ import annotations

import math

from edge_agent.statistics import CountedShare

UNKNOWN = "-"
MICROS = 1_000_000
_NARROW = "\u202f"


def count(number: float) -> str:
    """Return a whole number, its thousands apart."""
    return f"{number:,.0f}".replace(",", _NARROW)


def counted(number: int, what: str) -> str:
    """Return "1 example", "2 examples"."""
    return f"{count(number)} {what}{'' if number == 1 else 's'}"


def percent(value: float | None) -> str:
    """Return a share in percent; of what is not known a dash. Nearly all is not written as all."""
    if value is None:
        return UNKNOWN
    if not 0.1 <= value <= 0.994 and 0 < value < 1:
        return f"{min(max(100 * value, 0.1), 99.9):.1f}".removesuffix(".0") + "%"
    return f"{100 * value:.0f}%"


def interval(share: CountedShare) -> str:
    """Return a share with its interval."""
    if share.value is None:
        return UNKNOWN
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"


def amount(micros: float | None, currency: str = "") -> str:
    """Return an amount of money, small ones with the digits that they need."""
    if micros is None:
        return UNKNOWN
    value = micros / MICROS
    digits = 2 if not 0 < value < 0.1 else 1 - math.floor(math.log10(value))
    written = f"{value:,.{digits}f}".replace(",", _NARROW)
    return f"{written} {currency}".strip()


def milliseconds(value: float) -> str:
    """Return a time."""
    if not value:
        return UNKNOWN
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def in_days(days: int | None) -> str:
    """Say how long something takes at the present pace."""
    if days is None:
        return "nothing comes in at present"
    if days <= 1:
        return "about a day at the present pace"
    return f"about {counted(days, 'day')} at the present pace"
