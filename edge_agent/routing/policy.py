"""What an answer's confidence leads to: one pure function.

Only local answers exist so far: an answer below its threshold is given and marked, or withheld when the caller asked
for that. A wish to escalate is answered locally and the answer says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_agent.formats.manifest import Confidence, Threshold

Wish = Literal["answer", "abstain", "escalate"]
RouteName = Literal["local", "abstained"]


@dataclass(frozen=True)
class Decision:
    """Where the answer comes from, and what the caller should know of it."""

    route: RouteName
    threshold: float | None
    below_threshold: bool
    degraded: tuple[str, ...] = ()


def decide(confidence: float, calibration: Confidence, wish: Wish) -> Decision:
    """Decide on an answer with that calibrated confidence, 0 to 1."""
    threshold = calibration.threshold if isinstance(calibration, Threshold) else None
    below = threshold is None or not confidence >= threshold  # a confidence that is not a number is below, too
    if below and wish == "abstain":
        return Decision("abstained", threshold, below_threshold=True)
    degraded = ("UPSTREAM_NOT_CONFIGURED",) if below and wish == "escalate" else ()
    return Decision("local", threshold, below, degraded)
