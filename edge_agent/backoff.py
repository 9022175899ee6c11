"""Exponential back-off. Pure.

The callers choose the pauses: `client/daemon_connection.py` for a client of the daemon, `uplink/connectivity.py` for
the uplink.
"""

from __future__ import annotations

import math

_DOUBLINGS_MAX = 64  # a float holds more, but no pause does


def backoff_seconds(failures: int, first_seconds: float, max_seconds: float) -> float:
    """Return the pause in seconds after `failures` in a row: `first_seconds`, doubled with each further failure.

    0 without a failure, `max_seconds` at most. Callers add their own jitter, because each has another reason for it.
    """
    if failures < 1:
        return 0.0
    return min(math.ldexp(first_seconds, min(failures - 1, _DOUBLINGS_MAX)), max_seconds)
