"""A bar: a measured figure beside its limit, printed as one JSON object a line or as a table."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Bar:
    """One figure. `better` says on which side of `limit` it has to be; the limit itself is good enough."""

    bar: str
    value: float
    limit: float
    better: Literal["lower", "higher"]
    ok: bool = field(init=False)

    def __post_init__(self) -> None:
        """Judge."""
        met = self.value <= self.limit if self.better == "lower" else self.value >= self.limit
        object.__setattr__(self, "ok", met)


def median(values: list[float]) -> float:
    """Return the middle value."""
    ordered = sorted(values)
    half = len(ordered) // 2
    return ordered[half] if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def main(measure: Callable[[], list[Bar]]) -> int:
    """Measure, print, and return the exit code: 1 when a bar is missed."""
    bars = measure()
    for bar in bars:
        if "--json" in sys.argv[1:]:
            print(json.dumps(asdict(bar)))  # noqa: T201 - a benchmark's output
        else:
            sign = "<=" if bar.better == "lower" else ">="
            verdict = "ok" if bar.ok else "MISSED"
            print(f"{bar.bar:<50} {bar.value:>10.3f}  {sign} {bar.limit:<10g} {verdict}")  # noqa: T201
    return 0 if all(bar.ok for bar in bars) else 1
