"""The cost of the large model, by day, and whether the caps allow another question.

`SpendByDay` is pure; `SpendLedger` keeps it on the disk. The highest price of a question is reserved durably before it
is asked, and replaced by the real price later: if the process is killed in between, the record is too high, and the
real spending never exceeds it. Days are kept apart, so that a clock that jumps forward and back does not renew a cap.
Amounts are millionths of the currency of the prices.
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
from edge_agent.formatting import MICROS
from edge_agent.uplink.exchange_dirs import read_bounded, write_exchanged

DAYS_MAX = 100
BYTES_MAX = 64 * 1024


@dataclass(frozen=True)
class TokenPrices:
    """Token prices, in units of the currency per million tokens, which is millionths per token."""

    input_token_micros: float = 0.0
    output_token_micros: float = 0.0

    def of(self, input_tokens: int, output_tokens: int) -> int:
        """Return the price, rounded up."""
        exact = input_tokens * self.input_token_micros + output_tokens * self.output_token_micros
        return int(-(-exact // 1))


@dataclass(frozen=True)
class SpendCaps:
    """Limits on the spending; 0 = no cap."""

    day_micros: int = 0
    month_micros: int = 0

    def part(self, share: float) -> SpendCaps:
        """Return a share of the caps, 0 to 1; a cap stays at least 1, because 0 would lift it."""
        return SpendCaps(
            *(max(1, int(micros * share)) if micros else 0 for micros in (self.day_micros, self.month_micros))
        )


@dataclass(frozen=True)
class SpendByDay:
    """Amounts by day in UTC, such as "2026-11-25"."""

    days: Mapping[str, int] = field(default_factory=dict)

    def on(self, day: str) -> int:
        """Return the spending of a day."""
        return self.days.get(day, 0)

    def in_month(self, day: str) -> int:
        """Return the spending of the month of a day."""
        return sum(micros for date, micros in self.days.items() if date[:7] == day[:7])

    def allows(self, micros: int, day: str, caps: SpendCaps) -> bool:
        """Return whether another `micros` would stay within both caps."""
        in_day = not caps.day_micros or self.on(day) + micros <= caps.day_micros
        return in_day and (not caps.month_micros or self.in_month(day) + micros <= caps.month_micros)

    def add(self, micros: int, day: str) -> SpendByDay:
        """Return the amounts with `micros` added on a day, or subtracted; old days of other months are dropped."""
        days = {**self.days, day: max(0, self.on(day) + micros)}
        # After a clock is set back by years, this day and its month must not be dropped as the oldest.
        others = sorted(date for date in days if date[:7] != day[:7])
        for date in others[: max(0, len(days) - DAYS_MAX)]:
            del days[date]
        return replace(self, days=days)


def encode(spending: SpendByDay) -> bytes:
    """Return it as JSON."""
    return json.dumps({"schema": "edge-agent/spending/v1", "days": dict(spending.days)}).encode() + b"\n"


def parse(raw: bytes) -> SpendByDay:
    """Parse the output of `encode`.

    Raises:
        ValueError: it has another form.
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
    """The amount reserved for one question, and its day."""

    micros: int
    day: str


class SpendLedger:
    """The spending of one uplink, whose lock keeps other processes out.

    One thread reserves and settles, which may block on the disk; any thread may read.
    """

    def __init__(self, folder: Path, config: EscalationConfig, now: Callable[[], float]) -> None:
        """Read the spending.

        Raises:
            StoreDamaged: the file is invalid; no question is asked until somebody has repaired it.
            ExchangeDirUnusable: the file cannot be read.
        """
        self._path, self._now = folder / FILE_NAME, now
        # A price per million tokens is also the price per token in millionths.
        self.prices = TokenPrices(config.input_token_price, config.output_token_price)
        self.caps = SpendCaps(int(config.day_cost_max * MICROS), int(config.month_cost_max * MICROS))
        self.spent = self._read()
        """Paid amounts and reservations for questions in progress; the caps count these."""
        self.paid = self.spent
        """Paid amounts without reservations, which exceed the later price."""

    @property
    def today(self) -> str:
        """Today in UTC, such as "2026-11-25"."""
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC).strftime("%Y-%m-%d")

    def affords(self, input_tokens: int, output_tokens: int, share: float = 1.0) -> bool:
        """Return whether the highest price of a question stays within a share of the caps, counting reservations."""
        return self.spent.allows(self.prices.of(input_tokens, output_tokens), self.today, self.caps.part(share))

    def affords_once_settled(self, input_tokens: int, output_tokens: int) -> bool:
        """Return whether the highest price of a question stays within the caps, not counting reservations."""
        return self.paid.allows(self.prices.of(input_tokens, output_tokens), self.today, self.caps)

    def reserve(self, input_tokens: int, output_tokens: int, share: float = 1.0) -> CostReservation:
        """Reserve the highest price of a question, on the disk.

        Raises:
            UpstreamBusy: the share of the caps has no room; another question may have taken it since `affords`.
            DiskFull, ExchangeDirUnusable: the reservation could not be written; the question must not be asked.
        """
        if not self.affords(input_tokens, output_tokens, share):
            raise UpstreamBusy(NO_ROOM)
        reservation = CostReservation(self.prices.of(input_tokens, output_tokens), self.today)
        self._write(self.spent.add(reservation.micros, reservation.day))
        return reservation

    def settle(self, reservation: CostReservation, micros: int) -> None:
        """Replace a reservation by the real price.

        Raises:
            DiskFull, ExchangeDirUnusable: it could not be written; the reservation counts as paid.
        """
        paid = reservation.micros
        try:
            self._write(self.spent.add(micros - reservation.micros, reservation.day))
            paid = micros
        finally:
            self.paid = self.paid.add(paid, reservation.day)

    def _write(self, spent: SpendByDay) -> None:
        if spent == self.spent:  # without prices, nothing is written
            return
        write_exchanged(self._path, encode(spent))
        self.spent = spent

    def _read(self) -> SpendByDay:
        raw = read_bounded(self._path, BYTES_MAX)
        try:
            return SpendByDay() if raw is None else parse(raw)
        except ValueError:
            remedy = f"Remove {self._path}: then the day and the month begin without spending."
            raise StoreDamaged(f"{self._path} is not a record of the spending", remedy=remedy) from None
