"""Decides whether a client makes a call again, and after which pause. Pure.

A call is tried again if the daemon says so (RetryInfo, whose delay is observed) or if no daemon answered, until the
call's timeout. Two rules limit the load from retries:

- Pauses grow to PAUSE_SECONDS_MAX, so a daemon that restarts or loads its model gets no more than one try per pause
  from each waiting call. Such tries are refused before they cost anything, and need no budget.
- A try against a busy daemon (RESOURCE_EXHAUSTED) takes one from the client's budget, which answered calls refill
  slowly. So retries add at most a tenth to a lasting overload; further calls fail at once.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_agent.backoff import backoff_seconds
from edge_agent.client.call_failed import DEADLINE_EXPIRED, TLS_FAILED, UNREACHABLE, CallFailed

PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX = 0.1, 2.0
"""Pause between tries, doubled each time, unless the daemon asks for a longer one."""
JITTER = 0.2
"""Largest random extension of a pause, as a share of it: clients that failed together do not return together."""
_BUSY = "RESOURCE_EXHAUSTED"


@dataclass(frozen=True)
class Retry:
    """How a client tries again: `Client(target, retry=Retry())`. Calls then carry a request_id."""

    tries_max: int = 0
    """Most tries of one call, including the first; 0 = as many as its timeout allows."""
    budget_max: float = 100.0
    """Size of the budget, in tries against a busy daemon; a client starts with a full one."""
    earned: float = 0.1
    """Tries that each answered call adds to the budget."""
    from_the_start: bool = True
    """Also retry before the daemon has answered this client once; False = a wrong address is an error at once."""


class RetryBudget:
    """A client's budget for retries against a busy daemon, in tries.

    Its threads share it without a lock: an update lost in a race does no harm.
    """

    def __init__(self, retry: Retry) -> None:
        """Start with a full budget."""
        self._retry = retry
        self.left = retry.budget_max

    def earn(self) -> None:
        """Add the share of one answered call."""
        self.left = min(self._retry.budget_max, self.left + self._retry.earned)

    def spend(self) -> bool:
        """Take one try from the budget; tell whether there was one."""
        if self.left < 1:
            return False
        self.left -= 1
        return True


class CallAttempts:
    """The tries of one call, which began at `now` in monotonic seconds."""

    def __init__(self, retry: Retry | None, budget: RetryBudget, timeout_seconds: float, now: float) -> None:
        """Begin with the first try; without `retry` it is the only one."""
        self._retry = retry
        self._budget = budget
        self._started_at, self._timeout_seconds = now, timeout_seconds
        self._previous: CallFailed | None = None
        self.tries = 1

    def seconds_left(self, now: float) -> float:
        """Return the rest of the caller's timeout, at least 1 ms because gRPC takes no negative one."""
        return max(0.001, self._time_left(now))

    def pause(self, failed: CallFailed, now: float, chance: float) -> float | None:
        """Count a failed try; return the pause before the next in seconds, or None to give up.

        `chance` is random, from 0 to 1. `failed` gets the tries so far and, on giving up, the cause.
        """
        failed.tries, failed.seconds = self.tries, now - self._started_at
        if self._retry is None:
            return None
        delay_min = _delay_min(failed, self._retry.from_the_start)
        if delay_min is None:
            self._mention_previous(failed)
            return None
        seconds_left = self._time_left(now)
        backoff = backoff_seconds(self.tries, PAUSE_SECONDS_FIRST, PAUSE_SECONDS_MAX)
        # At most half of the rest, so that a daemon that returns shortly before the deadline is still reached.
        seconds = max(delay_min, min(max(delay_min, backoff) * (1 + JITTER * chance), seconds_left / 2))
        if why := self._reason_to_give_up(failed, seconds, seconds_left):
            failed.give_up(why)
            return None
        self.tries += 1
        self._previous = failed
        return seconds

    def _time_left(self, now: float) -> float:
        return self._started_at + self._timeout_seconds - now

    def _reason_to_give_up(self, failed: CallFailed, seconds: float, seconds_left: float) -> str:
        """Return why the call is not made again after `seconds`; empty = it is. Spends the budget."""
        assert self._retry is not None
        if self.tries == self._retry.tries_max:
            return f"'tries_max' is {self.tries}"
        if seconds >= seconds_left:
            delay = failed.retry_after_seconds
            prefix = f"the daemon asks for {delay:g} s, and " if delay else ""
            return f"{prefix}{max(0.0, seconds_left):.1f} s of the call's {self._timeout_seconds:g} s are left"
        if failed.code == _BUSY and not self._budget.spend():
            return f"the client's budget of {self._retry.budget_max:g} tries against a busy daemon is spent"
        return ""

    def _mention_previous(self, failed: CallFailed) -> None:
        """Add the previous try's error if the last one ran into the caller's deadline."""
        if self._previous is not None and failed.reason == DEADLINE_EXPIRED:
            failed.give_up(f"the previous try failed with {self._previous.reason}, {self._previous.message}")


def _delay_min(failed: CallFailed, from_the_start: bool) -> float | None:
    """Return the least pause in seconds before the call is made again; None = it is not made again."""
    if failed.retry_after_seconds is not None:
        return failed.retry_after_seconds
    # A server that stops looks like one that refuses the client's certificate, unless it has accepted it before.
    is_lost = failed.reason in (UNREACHABLE, TLS_FAILED) and failed.answered_before
    return PAUSE_SECONDS_FIRST if is_lost or (failed.reason == UNREACHABLE and from_the_start) else None
