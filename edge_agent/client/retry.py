"""Trying a call again: whether, and after how long. Pure: the time and the dice are arguments.

What may be tried again is what the daemon says can (RetryInfo, whose delay is kept), and what no daemon answered. Each
try costs one of the client's budget, which answered calls fill up slowly: when much fails for long, tries add a tenth
to the load and no more, and a daemon that comes back is not run over. The caller's timeout is for all tries together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_agent.client.failure import UNREACHABLE, CallFailed
from edge_agent.client.tls import TLS_FAILED

PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.1, 2.0
"""Between tries to reach a daemon; twice as long each time."""
JITTER = 0.2
"""So much longer at most, by chance: clients that failed together do not come back together."""


@dataclass(frozen=True)
class Retry:
    """How a client tries again: `Client(target, retry=Retry())`. Calls then carry a request_id."""

    tries_max: int = 8
    """Of one call, the first included."""
    budget_max: float = 10.0
    """How many further tries a client may have saved up; it begins with so many."""
    earned: float = 0.1
    """How much of one each answered call earns."""
    from_the_start: bool = True
    """Also look for a daemon that has not answered this client yet; False = a wrong address is an error at once."""


_ONCE = Retry(tries_max=1)


class Budget:
    """What a client has left for trying again, in tries. Shared by its threads: an update lost in a race is no harm."""

    def __init__(self, retry: Retry) -> None:
        """Begin with all of it."""
        self._retry = retry
        self.left = retry.budget_max

    def earn(self) -> None:
        """Note a call that was answered."""
        self.left = min(self._retry.budget_max, self.left + self._retry.earned)

    def spend(self) -> bool:
        """Take one try off; tell whether there was one."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Tries:
    """The tries of one call, which began at `now` on a clock in seconds that does not go back."""

    def __init__(self, retry: Retry | None, budget: Budget, timeout_seconds: float, now: float) -> None:
        """None = the call is made once."""
        self._retry = retry or _ONCE
        self._budget = budget
        self._until = now + timeout_seconds
        self.made = 1

    def seconds_left(self, now: float) -> float:
        """Return what is left of the caller's timeout for a try that begins now; gRPC takes no less than nothing."""
        return max(0.001, self._until - now)

    def pause(self, failed: CallFailed, now: float, chance: float) -> float | None:
        """Count a try that failed; return how many seconds to wait for the next, or None: there is none.

        `chance` is from 0 to 1.
        """
        failed.tries = self.made
        seconds = _delay(failed, self.made, self._retry.from_the_start)
        if seconds is None or self.made >= self._retry.tries_max:
            return None
        seconds *= 1 + JITTER * chance
        if now + seconds >= self._until or not self._budget.spend():
            return None
        self.made += 1
        return seconds


def _delay(failed: CallFailed, made: int, from_the_start: bool) -> float | None:
    """Return the least time to wait before a call is made again; None = not at all."""
    growing = min(math.ldexp(PAUSE_SECONDS_FIRST, made - 1), PAUSE_SECONDS_MAX)
    if failed.retry_after_seconds is not None:
        return max(failed.retry_after_seconds, growing)
    # A server that ends looks to its clients like one that refuses their certificates: only where it has taken them.
    lost = failed.reason in (UNREACHABLE, TLS_FAILED) and failed.answered_before
    return growing if lost or (failed.reason == UNREACHABLE and from_the_start) else None
