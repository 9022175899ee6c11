"""What an answer's confidence leads to: one pure function.

Only local answers exist so far: an answer below its threshold is given and marked, or withheld when the caller asked
for that. A wish to escalate is answered locally and the answer says why. An input that is unlike the calibration texts
is answered by the same rule, and the answer says so: the threshold was proved for texts like those.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edge_agent.formats.manifest import Confidence, Novelty, Threshold

Wish = Literal["answer", "abstain", "escalate"]
RouteName = Literal["local", "abstained"]


@dataclass(frozen=True)
class Decision:
    """Where the answer comes from, and what the caller should know of it."""

    route: RouteName
    threshold: float | None
    below_threshold: bool
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True)
class Seen:
    """What a model saw of an input."""

    input_tokens: int
    """In the rendered prompt."""
    label_mass: float = 1.0


def decide(confidence: float, calibration: Confidence, wish: Wish, seen: Seen | None = None) -> Decision:
    """Decide on an answer with that calibrated confidence, 0 to 1."""
    threshold = calibration.threshold if isinstance(calibration, Threshold) else None
    below = threshold is None or not confidence >= threshold  # a confidence that is not a number is below, too
    unusual = _unusual(calibration.novelty, seen) if calibration.novelty and seen else ()
    if below and wish == "abstain":
        return Decision("abstained", threshold, below_threshold=True, degraded=unusual)
    alone = ("UPSTREAM_NOT_CONFIGURED",) if below and wish == "escalate" else ()
    return Decision("local", threshold, below, alone + unusual)


def _unusual(usual: Novelty, seen: Seen) -> tuple[str, ...]:
    mass = ("LABEL_MASS_UNUSUAL",) if seen.label_mass < usual.label_mass_min else ()
    inside = usual.input_tokens_min <= seen.input_tokens <= usual.input_tokens_max
    return mass if inside else (*mass, "INPUT_LENGTH_UNUSUAL")
