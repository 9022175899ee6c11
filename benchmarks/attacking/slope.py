"""How fast a figure grows: the slope of a least-squares line, and how sure that is. Pure.

Neighbouring samples are alike, so a line through all of them would seem surer than it is: they are averaged into BLOCKS
means first, and the 95% interval is Student's over those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

BLOCKS = 20
T_95 = {8: 2.31, 10: 2.23, 13: 2.16, 18: 2.10}
"""Student's t for 95%, two-sided, by degrees of freedom; fewer take the value of the next smaller entry, or 4.3."""
SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True)
class Slope:
    """A growth for each hour."""

    an_hour: float
    half_width: float
    """Of the 95% interval around it."""


def slope(samples: Sequence[tuple[float, float]]) -> Slope:
    """Return the growth of samples of (seconds, value), the oldest first."""
    points = blocks(samples)
    count = len(points)
    if count < 4:
        return Slope(0.0, math.inf)
    mean_at, mean = (sum(each[axis] for each in points) / count for axis in (0, 1))
    spread = sum((at - mean_at) ** 2 for at, _ in points)
    growth = sum((at - mean_at) * (value - mean) for at, value in points) / spread
    errors = [value - mean - growth * (at - mean_at) for at, value in points]
    deviation = math.sqrt(sum(error**2 for error in errors) / (count - 2) / spread)
    return Slope(growth * SECONDS_PER_HOUR, _t(count - 2) * deviation * SECONDS_PER_HOUR)


def blocks(samples: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the means of up to BLOCKS equal parts."""
    size = max(1, len(samples) // BLOCKS)
    parts = [samples[at : at + size] for at in range(0, len(samples) - size + 1, size)]
    return [(sum(at for at, _ in part) / len(part), sum(value for _, value in part) / len(part)) for part in parts]


def _t(freedom: int) -> float:
    return next((t for known, t in sorted(T_95.items(), reverse=True) if known <= freedom), 4.3)
