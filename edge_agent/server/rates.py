"""How often a client may call: a token bucket for each. Pure.

The table of buckets is bounded, and who is forgotten must not gain by it: only a bucket that is full again is given up.
While there is none, clients that are not known yet share one.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

CLIENTS_MAX = 4096
"""Clients with a bucket of their own."""
OTHERS = "others"


@dataclass
class _Bucket:
    tokens: float
    at: float

    def fill(self, now: float, per_second: float, burst: float) -> float:
        """Add what has come since; return the tokens."""
        self.tokens = min(burst, self.tokens + (now - self.at) * per_second)
        self.at = now
        return self.tokens


class Rates:
    """The buckets. `per_second` 0 = no limit."""

    def __init__(self, per_second: float, burst: int) -> None:
        """Let each client make `burst` calls at once, and `per_second` on average."""
        self._per_second = per_second
        self._burst = float(max(1, burst))
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Count a call at `now`, in seconds on a clock that does not go back.

        Return 0 if it may be made; otherwise it is not counted, and the seconds are returned after which it may be.
        """
        if not self._per_second:
            return 0.0
        bucket = self._bucket(client, now)
        if bucket.fill(now, self._per_second, self._burst) < 1:
            return (1 - bucket.tokens) / self._per_second
        bucket.tokens -= 1
        return 0.0

    def _bucket(self, client: str, now: float) -> _Bucket:
        known = self._buckets.get(client)
        if known is None and len(self._buckets) >= CLIENTS_MAX:
            oldest, bucket = next(iter(self._buckets.items()))
            if bucket.fill(now, self._per_second, self._burst) < self._burst:
                client = OTHERS
                known = self._buckets.get(client)
            else:
                del self._buckets[oldest]
        if known is None:
            known = self._buckets[client] = _Bucket(self._burst, now)
        self._buckets.move_to_end(client)
        return known
