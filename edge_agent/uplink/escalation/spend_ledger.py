"""Keeps what was spent on the disk: reserved before a question is asked, made good after."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import EscalationConfig
from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import StoreDamaged, UpstreamBusy
from edge_agent.uplink.escalation import spend_caps
from edge_agent.uplink.escalation.spend_caps import MICROS, SpendByDay, SpendCaps, TokenPrices
from edge_agent.uplink.exchange_dirs import FILE_MODE, exchange_errors

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

    @property
    def today(self) -> str:
        """The day in UTC."""
        return datetime.datetime.fromtimestamp(self._now(), datetime.UTC).strftime("%Y-%m-%d")

    def affords(self, input_tokens: int, output_tokens: int, share: float = 1.0) -> bool:
        """Tell whether a question of that size stays within that share of the caps, at its dearest."""
        return self.spent.allows(self.prices.of(input_tokens, output_tokens), self.today, self.caps.part(share))

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
            DiskFull, ExchangeDirUnusable: the reservation stands.
        """
        self._write(self.spent.add(micros - reserved.micros, reserved.day))

    def _write(self, spent: SpendByDay) -> None:
        if spent == self.spent:  # where nothing costs anything, nothing is written
            return
        with exchange_errors(self._path):
            write_durably(self._path, spend_caps.encode(spent), FILE_MODE)
        self.spent = spent

    def _read(self) -> SpendByDay:
        with exchange_errors(self._path):
            try:
                fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return SpendByDay()
            with os.fdopen(fd, "rb") as file:
                raw = file.read(spend_caps.BYTES_MAX)
        try:
            return spend_caps.parse(raw)
        except ValueError:
            remedy = f"Remove {self._path}: then the day and the month begin with nothing spent."
            raise StoreDamaged(f"{self._path} does not say what was spent", remedy=remedy) from None
