"""What the large model has cost, by day, and whether another question may be asked. Pure.

The dearest that a question can get is set aside, durably, before it is asked, and made good when its real price is
known: a process killed in between has spent too much on paper, never too much in truth. Days are kept apart, so that a
clock that jumps forth and back opens no cap a second time. Amounts are millionths of the currency that the prices are
in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

DAYS_MAX = 100
BYTES_MAX = 64 * 1024
MICROS = 1_000_000


@dataclass(frozen=True)
class TokenPrices:
    """What tokens cost: units of the currency for a million of them, which is millionths for one."""

    input_token_micros: float = 0.0
    output_token_micros: float = 0.0

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Return the price, rounded up."""
        exact = input_tokens * self.input_token_micros + output_tokens * self.output_token_micros
        return int(-(-exact // 1))


@dataclass(frozen=True)
class SpendCaps:
    """What may be spent; 0 = no cap."""

    day_micros: int = 0
    month_micros: int = 0

    def part(self, share: float) -> SpendCaps:
        """Return that share of them, 0 to 1; what is capped stays so."""
        return SpendCaps(
            *(max(1, int(micros * share)) if micros else 0 for micros in (self.day_micros, self.month_micros))
        )


@dataclass(frozen=True)
class SpendByDay:
    """Amounts by day, as "2026-11-25" in UTC."""

    days: Mapping[str, int] = field(default_factory=dict)

    def on(self, day: str) -> int:
        """Return what a day has cost."""
        return self.days.get(day, 0)

    def in_month(self, day: str) -> int:
        """Return what the month of a day has cost."""
        return sum(micros for each, micros in self.days.items() if each[:7] == day[:7])

    def allows(self, micros: int, day: str, caps: SpendCaps) -> bool:
        """Tell whether that much more stays within both caps."""
        in_day = not caps.day_micros or self.on(day) + micros <= caps.day_micros
        return in_day and (not caps.month_micros or self.in_month(day) + micros <= caps.month_micros)

    def add(self, micros: int, day: str) -> SpendByDay:
        """Return the amounts with that much more, or less, on a day. The oldest days go."""
        days = {**self.days, day: max(0, self.on(day) + micros)}
        return replace(self, days=dict(sorted(days.items())[-DAYS_MAX:]))


def encode(spending: SpendByDay) -> bytes:
    """Write it as JSON."""
    return json.dumps({"schema": "edge-agent/spending/v1", "days": dict(spending.days)}).encode() + b"\n"


def parse(raw: bytes) -> SpendByDay:
    """Read it.

    Raises:
        ValueError: it is not what `encode` writes.
    """
    plain: Any = json.loads(raw)
    days = plain.get("days") if isinstance(plain, dict) else None
    if not isinstance(days, dict) or not all(_is_entry(day, micros) for day, micros in days.items()):
        raise ValueError("no amounts by day")
    return SpendByDay(days)


def _is_entry(day: object, micros: object) -> bool:
    return isinstance(day, str) and len(day) == 10 and isinstance(micros, int) and 0 <= micros < 2**62
