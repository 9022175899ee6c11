"""The large model as a client sees it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LargeModel:
    """The large model that a site may ask. Amounts are millionths of the currency that its prices are in."""

    online: bool
    affordable: bool
    """The caps leave room for another question."""
    model: str
    problem_reason: str
    """What is in the way; empty = nothing."""
    problem: str
    usual_ms: float
    """Median time of its last answers; 0 = none yet."""
    day_micros: int
    month_micros: int
    day_micros_max: int
    """0 = no cap."""
    month_micros_max: int
    tasks: tuple[str, ...]
    """Whose inputs may go there."""
    waiting: dict[str, int]
    """Questions for later, by why: deferred or audit."""
    waiting_seconds: float
    """Age of the oldest of them."""
    opinions: int
    """Questions of that kind that it has answered."""
    given_up: dict[str, int]
    """Those that were given up, by why: failed, lost, expired or crowded."""
