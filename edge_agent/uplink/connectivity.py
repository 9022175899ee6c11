"""Whether a store or a large model can be used, as a known state, and how often a request may be repeated. Pure.

    probing ──success──► online ──failures_max failures in a row──► offline
       │                                                               │
       └──failure──► offline ◄───────────────                          │
       ▲                                                               │
       └────────────────────── its pause is over ──────────────────────┘

No caller has to wait for a timeout to find out. While probing, one small request is made; only when it succeeds does
more follow. Each failure makes the next pause longer, up to a limit, and jitter keeps many sites from coming back in
the same second. Times are seconds of one monotonic clock.

`RetryThrottle` limits the retries of questions to a large model, as gRPC does (gRFC A6). Only a question that the
server refused without working on it (429, 503) is retried, so that nothing is sent twice that may have been answered.
A retry takes one token and a success gives back a part of one. Below half of the tokens nobody retries, so a server in
trouble gets at most a tenth more requests.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from edge_agent.backoff import backoff_seconds

State = Literal["online", "offline", "probing"]


@dataclass(frozen=True)
class Backoff:
    """How long to leave an upstream alone."""

    first_seconds: float
    """Longest pause after the first failure; doubles with each."""
    seconds_max: float
    failures_max: int
    """Failures in a row after which an upstream that was online counts as offline."""

    def pause_seconds(self, failures: int, jitter: float) -> float:
        """Return seconds to wait after that many failures in a row; `jitter` is from 0 to 1."""
        return backoff_seconds(failures, self.first_seconds, self.seconds_max) * (0.5 + 0.5 * jitter)


@dataclass(frozen=True)
class Connectivity:
    """The state, since when, and when the next request may be made."""

    state: State
    since: float
    """When it came online, or when it ceased to be: a probe that fails does not change it."""
    retry_at: float
    failures: int = 0
    """In a row."""
    last_contact: float | None = None
    """When a request succeeded last."""

    def may_try(self, now: float) -> bool:
        """Tell whether a request may be made."""
        return self.state != "offline" and now >= self.retry_at


def initial_connectivity(now: float) -> Connectivity:
    """Return the state before anything is known."""
    return Connectivity("probing", since=now, retry_at=now)


def after_time_passed(known: Connectivity, now: float) -> Connectivity:
    """Return the state as time passes: an offline upstream is probed when its pause is over."""
    if known.state == "offline" and now >= known.retry_at:
        return replace(known, state="probing")
    return known


def after_success(known: Connectivity, now: float) -> Connectivity:
    """Return the state after a request that succeeded."""
    since = known.since if known.state == "online" else now
    return Connectivity("online", since=since, retry_at=now, last_contact=now)


def after_failure(known: Connectivity, now: float, backoff: Backoff, jitter: float) -> Connectivity:
    """Return the state after a request that failed; `jitter` is from 0 to 1."""
    failures = known.failures + 1
    opens = known.state != "online" or failures >= backoff.failures_max
    return Connectivity(
        "offline" if opens else "online",
        since=now if opens and known.state == "online" else known.since,
        retry_at=now + backoff.pause_seconds(failures, jitter),
        failures=failures,
        last_contact=known.last_contact,
    )


TOKENS_MAX = 10.0
GIVEN_BACK = 0.1
PAUSE_SECONDS_DEFAULT = 1.0
PAUSE_SECONDS_MAX = 30.0


@dataclass(frozen=True)
class RetryThrottle:
    """Tokens for retries."""

    tokens: float = TOKENS_MAX

    def can_retry(self) -> bool:
        """Tell whether a retry may be made."""
        return self.tokens > TOKENS_MAX / 2

    def after_retry(self) -> RetryThrottle:
        """Return it after a retry."""
        return replace(self, tokens=max(0.0, self.tokens - 1.0))

    def after_success(self) -> RetryThrottle:
        """Return it after an answer."""
        return replace(self, tokens=min(TOKENS_MAX, self.tokens + GIVEN_BACK))


def retry_pause_seconds(retry_after: str | None, jitter: float) -> float:
    """Return how long to wait, in seconds, from a Retry-After header (RFC 9110, 10.2.3: seconds, or a date that is not
    read) and a `jitter` from 0 to 1.
    """
    try:
        asked = float(retry_after or PAUSE_SECONDS_DEFAULT)
    except ValueError:
        asked = PAUSE_SECONDS_DEFAULT
    asked = asked if 0 <= asked <= PAUSE_SECONDS_MAX else PAUSE_SECONDS_MAX
    return asked * (1.0 + 0.1 * jitter)
