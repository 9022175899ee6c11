"""The state of the connection to a store or a large model, and limits on retries. Pure.

    probing ──success──► online ──failures_max failures in a row──► offline
       │                                                               │
       └──failure──► offline ◄───────────────                          │
       ▲                                                               │
       └────────────────────── its pause is over ──────────────────────┘

The state is known, so no caller waits for a timeout to find out. While probing, one small request is made; others
follow only when it succeeds. Each failure lengthens the next pause, up to a limit, and jitter keeps many sites from
returning in the same second. Times are seconds of one monotonic clock.

`RetryThrottle` limits the retries of questions to a large model, as gRPC does (gRFC A6). Only a question that the
server refused without working on it (429, 503) is retried, so a question that may have been answered is never sent
twice. A retry takes one token and a success returns a tenth of one. At half of the tokens or fewer there are no
retries, so an overloaded server gets at most a tenth more requests in the long run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edge_agent.backoff import backoff_seconds

State = Literal["online", "offline", "probing"]


@dataclass(frozen=True)
class Backoff:
    """Pauses after failures of an upstream."""

    first_seconds: float
    """Longest pause after the first failure; doubles with each further one."""
    seconds_max: float
    failures_max: int
    """Failures in a row after which an upstream that was online counts as offline."""

    def pause_seconds(self, failures: int, jitter: float) -> float:
        """Return the pause in seconds after `failures` in a row; `jitter` is from 0 to 1."""
        return backoff_seconds(failures, self.first_seconds, self.seconds_max) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class Connectivity:
    """The state, since when, and when the next request may be made."""

    state: State
    since: float
    """When it came online or went offline; a failed probe does not change it."""
    retry_at: float
    failures: int = 0
    """In a row."""
    last_contact: float | None = None
    """When a request succeeded last."""

    def may_try(self, now: float) -> bool:
        """Return whether a request may be made."""
        return self.state != "offline" and now >= self.retry_at


def initial_connectivity(now: float) -> Connectivity:
    """Return the state before the first request."""
    return Connectivity("probing", since=now, retry_at=now)


def after_time_passed(link: Connectivity, now: float) -> Connectivity:
    """Return the state as time passes: an offline upstream is probed when its pause is over."""
    if link.state == "offline" and now >= link.retry_at:
        return replace(link, state="probing")
    return link


def after_success(link: Connectivity, now: float) -> Connectivity:
    """Return the state after a request that succeeded."""
    since = link.since if link.state == "online" else now
    return Connectivity("online", since=since, retry_at=now, last_contact=now)


def after_failure(link: Connectivity, now: float, backoff: Backoff, jitter: float) -> Connectivity:
    """Return the state after a request that failed; `jitter` is from 0 to 1."""
    failures = link.failures + 1
    goes_offline = link.state != "online" or failures >= backoff.failures_max
    return Connectivity(
        "offline" if goes_offline else "online",
        since=now if goes_offline and link.state == "online" else link.since,
        retry_at=now + backoff.pause_seconds(failures, jitter),
        failures=failures,
        last_contact=link.last_contact,
    )


TOKENS_MAX = 10.0
TOKENS_PER_SUCCESS = 0.1
PAUSE_SECONDS_DEFAULT = 1.0
PAUSE_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class RetryThrottle:
    """Tokens for retries."""

    tokens: float = TOKENS_MAX

    def can_retry(self) -> bool:
        """Return whether a retry is allowed."""
        return self.tokens > TOKENS_MAX / 2

    def after_retry(self) -> RetryThrottle:
        """Return the tokens after a retry."""
        return replace(self, tokens=max(0.0, self.tokens - 1.0))

    def after_success(self) -> RetryThrottle:
        """Return the tokens after an answer."""
        return replace(self, tokens=min(TOKENS_MAX, self.tokens + TOKENS_PER_SUCCESS))


def retry_pause_seconds(retry_after: str | None, jitter: float) -> float:
    """Return the pause in seconds for a Retry-After header (RFC 9110, 10.2.3) and a `jitter` from 0 to 1.

    A header with a date instead of seconds counts as missing.
    """
    try:
        seconds = float(retry_after or PAUSE_SECONDS_DEFAULT)
    except ValueError:
        seconds = PAUSE_SECONDS_DEFAULT
    seconds = seconds if 0 <= seconds <= PAUSE_SECONDS_MAX else PAUSE_SECONDS_MAX
    return seconds * (1.0 + 0.1 * jitter)
