"""What the large model has cost, by day, and whether the caps allow another question.

`SpendByDay` is pure, `SpendLedger` keeps it on the disk. The dearest that a question can get is set aside, durably,
before it is asked, and made good when its real price is known: a process killed in between has spent too much on paper,
never too much in truth. Days are kept apart, so that a clock that jumps forth and back opens no cap a second time.
Amounts are millionths of the currency that the prices are in.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_agent.config import EscalationConfig
from edge_agent.errors import StoreDamaged, UpstreamBusy
from edge_agent.uplink.exchange_dirs import read_bounded, write_exchanged

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
        """Return the amounts with that much more, or less, on a day. The oldest days of other months go."""
        days = {**self.days, day: max(0, self.on(day) + micros)}
        # A clock that was set back by years must not make this day, or its month, the oldest that is known.
        others = sorted(each for each in days if each[:7] != day[:7])
        for each in others[: max(0, len(days) - DAYS_MAX)]:
            del days[each]
        return replace(self, days=days)


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


FILE_NAME = "spending.json"
NO_ROOM = "the cap of the day or the month leaves no room for this question"


@dataclass(frozen=True)
class CostReservation:
    """What was set aside for one question, and on which day."""

    micros: int
    day: str


class SpendLedger:
    """The spending of one uplink. Its notes' lock keeps others out.

    One thread reserves and settles, which may take as long as the disk does; any thread may look.
    """

    def __init__(self, folder: Path, config: EscalationConfig, now: Callable[[], float]) -> None:
        """Read what was spent.

        Raises:
            StoreDamaged: the file is none; nothing is asked until somebody has looked at it.
            ExchangeDirUnusable: it cannot be read.
        """
        self._path, self._now = folder / FILE_NAME, now
        # A price is of a million tokens, so it is also the millionths for one.
        self.prices = TokenPrices(config.input_token_price, config.output_token_price)
        self.caps = SpendCaps(int(config.day_cost_max * MICROS), int(config.month_cost_max * MICROS))
        self.spent = self._read()
        """What was paid, and what is set aside for the questions in progress: what the caps count."""
        self.paid = self.spent
        """Without what is set aside for them, which is more than they will cost."""

    @property
    def today(self) -> str:
        """The day in UTC."""
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC).strftime("%Y-%m-%d")

    def affords(self, input_tokens: int, output_tokens: int, share: float = 1.0) -> bool:
        """Tell whether a question of that size stays within that share of the caps, at its dearest."""
        return self.spent.allows(self.prices.of(input_tokens, output_tokens), self.today, self.caps.part(share))

    def affords_once_settled(self, input_tokens: int, output_tokens: int) -> bool:
        """Tell whether a question of that size would stay within the caps if none were in progress."""
        return self.paid.allows(self.prices.of(input_tokens, output_tokens), self.today, self.caps)

    def reserve(self, input_tokens: int, output_tokens: int, share: float = 1.0) -> CostReservation:
        """Set its dearest price aside, on the disk.

        Raises:
            UpstreamBusy: that share of the caps leaves no room for it, whatever `affords` said before.
            DiskFull, ExchangeDirUnusable: it could not be written; nothing may be asked.
        """
        if not self.affords(input_tokens, output_tokens, share):
            raise UpstreamBusy(NO_ROOM)
        reserved = CostReservation(self.prices.of(input_tokens, output_tokens), self.today)
        self._write(self.spent.add(reserved.micros, reserved.day))
        return reserved

    def settle(self, reserved: CostReservation, micros: int) -> None:
        """Put the real price in place of what was set aside.

        Raises:
            DiskFull, ExchangeDirUnusable: the reservation stands, as if it had been paid.
        """
        paid = reserved.micros
        try:
            self._write(self.spent.add(micros - reserved.micros, reserved.day))
            paid = micros
        finally:
            self.paid = self.paid.add(paid, reserved.day)

    def _write(self, spent: SpendByDay) -> None:
        if spent == self.spent:  # where nothing costs anything, nothing is written
            return
        write_exchanged(self._path, encode(spent))
        self.spent = spent

    def _read(self) -> SpendByDay:
        raw = read_bounded(self._path, BYTES_MAX)
        try:
            return SpendByDay() if raw is None else parse(raw)
        except ValueError:
            remedy = f"Remove {self._path}: then the day and the month begin with nothing spent."
            raise StoreDamaged(f"{self._path} does not say what was spent", remedy=remedy) from None
