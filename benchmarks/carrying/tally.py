"""Counting what became of faults, kind by kind."""

from __future__ import annotations

import sys
from collections import Counter

from benchmarks.bars import Bar
from tests.support.delivery_path import Outcome


class Tally:
    """What came of the faults so far. A kind that lost something is named on standard error."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.injected: Counter[str] = Counter()
        self._wanted: Counter[str] = Counter()
        self._lost = self._doubled = self._unnamed = 0
        self._measured: list[Bar] = []

    def add(self, kind: str, injected: int, *outcomes: Outcome, wanted: int = 1) -> None:
        """Record injected faults of a kind, their required minimum, and the findings after them."""
        self.injected[kind] += injected
        self._wanted[kind] += wanted
        for outcome in outcomes:
            self.found(kind, outcome)

    def found(self, kind: str, outcome: Outcome) -> None:
        """Record the findings after faults."""
        self._lost += outcome.lost
        self._doubled += outcome.doubled
        self._unnamed += outcome.unnamed
        if outcome != Outcome():
            print(f"{kind}: {outcome}", file=sys.stderr)  # noqa: T201

    def measured(self, bar: Bar) -> None:
        """Note a figure that a fault has a limit of its own for."""
        self._measured.append(bar)

    def bars(self) -> list[Bar]:
        """Return the faults of each kind, and the findings of all together."""
        return [
            *(Bar(f"injected: {kind}", count, self._wanted[kind], "higher") for kind, count in self.injected.items()),
            *self._measured,
            Bar("injected, all", self.injected.total(), sum(self._wanted.values()), "higher"),
            Bar("acknowledged corrections or segments lost", self._lost, 0, "lower"),
            Bar("records twice after collect", self._doubled, 0, "lower"),
            Bar("gaps that the central team cannot explain", self._unnamed, 0, "lower"),
        ]
