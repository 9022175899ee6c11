"""How often a question may be asked again: the throttle of gRPC's retries (gRFC A6). Pure.

Only what the server has refused without working on it (429, 503) is asked again: nothing is sent twice that may have
been answered. Each retry takes one token, each success gives back a part of one; below half of them nobody retries, so
that a server in trouble gets at most a tenth more than it would without.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

TOKENS_MAX = 10.0
GIVEN_BACK = 0.1
PAUSE_SECONDS_DEFAULT = 1.0
PAUSE_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class Throttle:
    """Tokens for retries."""

    tokens: float = TOKENS_MAX

    def allows(self) -> bool:
        """Tell whether a retry may be made."""
        return self.tokens > TOKENS_MAX / 2

    def retried(self) -> Throttle:
        """Return it after a retry."""
        return replace(self, tokens=max(0.0, self.tokens - 1.0))

    def succeeded(self) -> Throttle:
        """Return it after an answer."""
        return replace(self, tokens=min(TOKENS_MAX, self.tokens + GIVEN_BACK))


def pause(retry_after: str | None, jitter: float) -> float:
    """Return how long to wait, in seconds, from a Retry-After header (RFC 9110, 10.2.3: seconds, or a date that is not
    read) and a `jitter` from 0 to 1.
    """
    try:
        asked = float(retry_after or PAUSE_SECONDS_DEFAULT)
    except ValueError:
        asked = PAUSE_SECONDS_DEFAULT
    asked = asked if 0 <= asked <= PAUSE_SECONDS_MAX else PAUSE_SECONDS_MAX
    return asked * (1.0 + 0.1 * jitter)
