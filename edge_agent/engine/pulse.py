"""Whether one engine computes: what watchdogs go by. Pure: time is an argument, in seconds.

A sign is a piece of work that the child has done, for whomever. Where none was seen for a while one is owed; an engine
that owes one for longer than its patience is stuck.
"""

from __future__ import annotations

# More than it takes until a silent child is killed: a child's fault is the engine's to mend, not the watchdog's.
PATIENCE_HEARTBEATS = 1.5
PATIENCE_SECONDS_MIN = 2.0


def patience_seconds(heartbeat_seconds_max: float) -> float:
    """Return for how long an engine may owe a sign."""
    return PATIENCE_HEARTBEATS * heartbeat_seconds_max + PATIENCE_SECONDS_MIN


class Pulse:
    """See the module."""

    def __init__(self, patience_seconds: float) -> None:
        """Owe nothing yet."""
        self._patience = patience_seconds
        self._signed_at = 0.0
        self._owed_since: float | None = None

    def sign(self, now: float) -> None:
        """Note a sign, or that none can be expected."""
        self._signed_at, self._owed_since = now, None

    def owes(self, now: float, every_seconds: float, *, exempt: bool = False) -> bool:
        """Tell whether a sign is owed: the last one is that old, or it was owed before; never while `exempt`."""
        if exempt:
            self.sign(now)
        elif self._owed_since is None and now - self._signed_at >= every_seconds:
            self._owed_since = now
        return self._owed_since is not None

    def stuck(self, now: float) -> bool:
        """Tell whether it is owed for too long."""
        return self._owed_since is not None and now - self._owed_since > self._patience


class Effort:
    """Whether a child that says nothing computes all the same, as one does that reads weights."""

    def __init__(self, patience_seconds: float) -> None:
        """Begin without having looked."""
        self._patience = patience_seconds
        self._spent, self._spent_at = -1.0, 0.0

    def goes_on(self, spent_seconds: float, now: float) -> bool:
        """Tell whether it has spent time of a processor lately, by what it has spent in all when it is looked at."""
        if spent_seconds != self._spent:
            self._spent, self._spent_at = spent_seconds, now
        return now - self._spent_at <= self._patience
