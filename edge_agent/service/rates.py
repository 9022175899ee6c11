"""How often a client may call: a token bucket for each. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

CLIENTS_MAX = 4096
"""Clients that are remembered; one that is forgotten begins again with a full bucket."""


@dataclass
class _Bucket:
    tokens: float
    at: float


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
        bucket.tokens = min(self._burst, bucket.tokens + (now - bucket.at) * self._per_second)
        bucket.at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._per_second
        bucket.tokens -= 1
        return 0.0

    def _bucket(self, client: str, now: float) -> _Bucket:
        if client in self._buckets:
            self._buckets.move_to_end(client)
        else:
            if len(self._buckets) >= CLIENTS_MAX:
                self._buckets.popitem(last=False)
            self._buckets[client] = _Bucket(self._burst, now)
        return self._buckets[client]
