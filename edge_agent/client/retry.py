"""When a call of a client is made again, and after which pause. Pure.

A call may be made again when the daemon says so (RetryInfo, whose delay is kept), and when no daemon answered. Its
tries last as long as its timeout. Two things keep them from adding to a load:

- Waits grow to PAUSE_SECONDS_MAX. So a daemon that is being restarted, or loads its model, is asked at most that often
  for each call that waits for it. Such tries are refused before they cost anything, and are not counted.
- A try against a busy daemon (RESOURCE_EXHAUSTED) costs one of the client's budget, which answered calls fill up
  slowly. Tries therefore add a tenth to an overload that lasts, and no more: the other calls fail at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.backoff import backoff_seconds
from edge_agent.client.call_failed import DEADLINE_EXPIRED, TLS_FAILED, UNREACHABLE, CallFailed

PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.1, 2.0
"""Between tries where the daemon names no longer delay; twice as long each time."""
JITTER = 0.2
"""So much longer at most, by chance: clients that failed together do not come back together."""
_BUSY = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Retry:
    """How a client tries again: `Client(target, retry=Retry())`. Calls then carry a request_id."""

    tries_max: int = 0
    """Of one call, the first included; 0 = as many as its timeout allows."""
    budget_max: float = 100.0
    """How many tries against a busy daemon a client may have saved up; it begins with so many."""
    earned: float = 0.1
    """How much of one each answered call earns."""
    from_the_start: bool = True
    """Also look for a daemon that has not answered this client yet; False = a wrong address is an error at once."""


class RetryBudget:
    """What a client has left for asking a busy daemon again, in tries.

    Shared by its threads: an update lost in a race is no harm.
    """

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


class CallAttempts:
    """The tries of one call, which began at `now` on a clock in seconds that does not go back."""

    def __init__(self, retry: Retry | None, budget: RetryBudget, timeout_seconds: float, now: float) -> None:
        """None = the call is made once."""
        self._retry = retry
        self._budget = budget
        self._began, self._timeout_seconds = now, timeout_seconds
        self._refused: CallFailed | None = None
        self.made = 1

    def seconds_left(self, now: float) -> float:
        """Return what is left of the caller's timeout for a try that begins now; gRPC takes no less than nothing."""
        return max(0.001, self._left(now))

    def pause(self, failed: CallFailed, now: float, chance: float) -> float | None:
        """Count a try that failed; return how many seconds to wait for the next, or None: there is none.

        `chance` is from 0 to 1. Where there is none, `failed` explains why.
        """
        failed.tries, failed.seconds = self.made, now - self._began
        if self._retry is None:
            return None
        least = _least_delay(failed, self._retry.from_the_start)
        if least is None:
            self._tell_of_earlier(failed)
            return None
        left = self._left(now)
        growing = backoff_seconds(self.made, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX)
        # At most half of what is left: a daemon that comes back shortly before the deadline is still found.
        seconds = max(least, min(max(least, growing) * (1 + JITTER * chance), left / 2))
        if why := self._reason_to_give_up(failed, seconds, left):
            failed.give_up(why)
            return None
        self.made += 1
        self._refused = failed
        return seconds

    def _left(self, now: float) -> float:
        return self._began + self._timeout_seconds - now

    def _reason_to_give_up(self, failed: CallFailed, seconds: float, left: float) -> str:
        """Say why the call is not made again after so many seconds; empty = it is. Spends the budget."""
        assert self._retry is not None
        if self.made == self._retry.tries_max:
            return f"'tries_max' is {self.made}"
        if seconds >= left:
            asked = failed.retry_after_seconds
            wait = f"the daemon asks for {asked:g} s, and " if asked else ""
            return f"{wait}{max(0.0, left):.1f} s of the call's {self._timeout_seconds:g} s are left"
        if failed.code == _BUSY and not self._budget.spend():
            return f"the client's budget of {self._retry.budget_max:g} tries against a busy daemon is spent"
        return ""

    def _tell_of_earlier(self, failed: CallFailed) -> None:
        """Name what the tries before met, where the last one ran into the caller's deadline."""
        if self._refused is not None and failed.reason == DEADLINE_EXPIRED:
            failed.give_up(f"the try before met {self._refused.reason}, {self._refused.message}")


def _least_delay(failed: CallFailed, from_the_start: bool) -> float | None:
    """Return the least time to wait before a call is made again; None = it is not made again."""
    if failed.retry_after_seconds is not None:
        return failed.retry_after_seconds
    # A server that ends looks to its clients like one that refuses their certificates: only where it has taken them.
    lost = failed.reason in (UNREACHABLE, TLS_FAILED) and failed.answered_before
    return PAUSE_SECONDS_FIRST if lost or (failed.reason == UNREACHABLE and from_the_start) else None
