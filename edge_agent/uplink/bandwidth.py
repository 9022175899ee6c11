"""The cap on what is sent: a token bucket that may go into debt. Pure.

An object store takes an object in one piece, so an object is sent as soon as the bucket holds anything, and what it
takes beyond that is paid back by waiting. Over any time of T seconds no more is sent than `rate * T`, one burst and
one object.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

BURST_SECONDS = 1.0


@dataclass(frozen=True)
class Bandwidth:
    """Bytes that may be sent now. Times are seconds of one clock that never goes back."""

    bytes_per_second: int
    """0 = no cap."""
    tokens: float
    """Bytes; below zero = debt."""
    at: float

    @classmethod
    def full(cls, bytes_per_second: int, now: float) -> Bandwidth:
        """Return a bucket with one burst in it."""
        return cls(bytes_per_second, bytes_per_second * BURST_SECONDS, now)

    def free_at(self) -> float:
        """Return when the next object may be sent."""
        if not self.bytes_per_second or self.tokens > 0:
            return self.at
        return self.at + (1 - self.tokens) / self.bytes_per_second

    def spend(self, count: int, now: float) -> Bandwidth:
        """Return the bucket after that many bytes."""
        return replace(self._filled(now), tokens=self._filled(now).tokens - count)

    def _filled(self, now: float) -> Bandwidth:
        gained = self.bytes_per_second * max(0.0, now - self.at)
        return replace(self, tokens=min(self.bytes_per_second * BURST_SECONDS, self.tokens + gained), at=now)
