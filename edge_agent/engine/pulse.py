"""Whether one engine computes: what the daemon's watchdog goes by. Pure: time is an argument, in seconds.

A sign is a piece of work that the child has done, for whomever. Where none was seen for a while one is owed; an engine
that owes one for longer than its patience is stuck.
"""

from __future__ import annotations


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

    def owes(self, now: float, every_seconds: float) -> bool:
        """Tell whether a sign is owed: the last one is that old, or it was owed before."""
        if self._owed_since is None and now - self._signed_at >= every_seconds:
            self._owed_since = now
        return self._owed_since is not None

    def stuck(self, now: float) -> bool:
        """Tell whether it is owed for too long."""
        return self._owed_since is not None and now - self._owed_since > self._patience
