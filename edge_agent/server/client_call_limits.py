"""Admission control: how many calls a client may have in progress, and how often it may call.

gRPC's own limit is not set. It counts every call, so an overload of inference would also refuse health checks and the
operator, and it refuses without a reason or a time to retry. `AdmissionControl` counts inference alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from edge_agent.engine import job_queue
from edge_agent.errors import Draining, QueueFull, ShareExceeded

RETRY_SECONDS = 1.0
QUIET_SECONDS, QUIET_SECONDS_MAX = 0.05, 0.5
"""A stop waits until no call has come for this long; and the longest such wait."""
CLIENTS_MAX = 4096
"""Clients with a token bucket of their own."""
OTHER_CLIENTS = "others"


class CallSlot:
    """The slot of one call, released at the end of the block. Not a generator, which would cost three times as much."""

    __slots__ = ("_client", "_release")

    def __init__(self, release: Callable[[str], None], client: str) -> None:
        """Take the function that releases it, and its client."""
        self._release, self._client = release, client

    def __enter__(self) -> None:
        """Do nothing: the call is counted already."""

    def __exit__(self, *_: object) -> None:
        """Release it."""
        self._release(self._client)


class AdmissionControl:
    """The calls in progress in one daemon, in all and by client. One event loop owns it."""

    def __init__(self, calls_max: int, client_calls_max: int = 0, noun: str = "calls") -> None:
        """Admit at most `calls_max` calls of one client at a time, less while others need slots (`has_share_for`).

        Args:
            calls_max: for a client that is alone.
            client_calls_max: the most that one client may ever have; 0 = `calls_max`.
            noun: the plural noun for error messages.
        """
        self._noun = noun
        self._calls_max = calls_max
        self._client_calls_max = client_calls_max or calls_max
        self._calls = 0
        self._by_client: dict[str, int] = {}
        self._refused = 0
        self._draining_since: float | None = None

    @property
    def draining(self) -> bool:
        """It admits no new work."""
        return self._draining_since is not None

    @draining.setter
    def draining(self, draining: bool) -> None:
        self._draining_since = (self._draining_since or time.monotonic()) if draining else None

    @property
    def draining_seconds(self) -> float | None:
        """How long it has been draining; None = it is not."""
        return None if self._draining_since is None else time.monotonic() - self._draining_since

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._calls

    def call(self, client: str) -> CallSlot:
        """Admit a call until the end of a `with` block. Raises Draining, QueueFull, ShareExceeded."""
        if self.draining:
            self._refused += 1
            # An idle daemon is back long before 'drain_seconds' are over.
            raise Draining("the daemon is stopping and takes no new work", retry_seconds=RETRY_SECONDS)
        calls = self._by_client.get(client, 0)
        at_limit = self._client_calls_max <= calls < self._calls_max
        if at_limit or not job_queue.has_share_for(calls, self._calls, 1, self._calls_max):
            raise self._make_refusal(client, calls, at_limit=at_limit)
        self._calls += 1
        self._by_client[client] = calls + 1
        return CallSlot(self._release, client)

    async def wait_until_quiet(self) -> None:
        """Wait, while draining, until no more calls come.

        A call that has reached gRPC but no handler when its server stops ends with CANCELLED and without a reason.
        Refused callers retry after RETRY_SECONDS, so there is a moment without calls.
        """
        for _ in range(round(QUIET_SECONDS_MAX / QUIET_SECONDS)):
            refused = self._refused
            await asyncio.sleep(QUIET_SECONDS)
            if refused == self._refused:
                return

    def _release(self, client: str) -> None:
        self._calls -= 1
        remaining = self._by_client[client] - 1
        if remaining:
            self._by_client[client] = remaining
        else:
            del self._by_client[client]

    def _make_refusal(self, client: str, calls: int, *, at_limit: bool) -> QueueFull | ShareExceeded:
        """Return the error for a client with `calls` calls that may not have another."""
        usage = f"{calls} {self._noun} of {client} are in progress"
        if at_limit:
            problem = f"{usage}; the limit is {self._client_calls_max}"
        elif 0 < calls < self._calls:
            problem = f"{usage}, and {self._calls - calls} of others: one more exceeds its share"
        else:
            message = f"{self._calls} {self._noun} are in progress; the limit is {self._calls_max}"
            return QueueFull(message, retry_seconds=RETRY_SECONDS, limit=self._calls_max)
        return ShareExceeded(problem, retry_seconds=RETRY_SECONDS, limit=self._client_calls_max)


@dataclass
class _TokenBucket:
    tokens: float
    at: float

    def fill(self, now: float, per_second: float, burst: float) -> float:
        """Add the tokens since the last call; return how many there are."""
        self.tokens = min(burst, self.tokens + (now - self.at) * per_second)
        self.at = now
        return self.tokens


class RateLimiter:
    """Limits how often each client may call, by a token bucket for each. Pure.

    The table of buckets is bounded, and a client must not gain by its eviction: only a full bucket is evicted. While no
    bucket is full, new clients share one.
    """

    def __init__(self, per_second: float, burst: int) -> None:
        """Let each client make `burst` calls at once, and `per_second` on average; 0 = no limit."""
        self._per_second = per_second
        self.limited = per_second > 0
        self._burst = float(max(1, burst))
        self._buckets: OrderedDict[str, _TokenBucket] = OrderedDict()

    def take(self, client: str, now: float) -> float:
        """Take a token at `now`, in seconds on a monotonic clock, and return 0.

        Without a token, return the seconds until the client may call, and count nothing.
        """
        if not self.limited:
            return 0.0
        bucket = self._bucket(client, now)
        if bucket.fill(now, self._per_second, self._burst) < 1:
            return (1 - bucket.tokens) / self._per_second
        bucket.tokens -= 1
        return 0.0

    def _bucket(self, client: str, now: float) -> _TokenBucket:
        bucket = self._buckets.get(client)
        if bucket is None and len(self._buckets) >= CLIENTS_MAX:
            oldest_client, oldest_bucket = next(iter(self._buckets.items()))
            if oldest_bucket.fill(now, self._per_second, self._burst) < self._burst:
                client = OTHER_CLIENTS
                bucket = self._buckets.get(client)
            else:
                del self._buckets[oldest_client]
        if bucket is None:
            bucket = self._buckets[client] = _TokenBucket(self._burst, now)
        self._buckets.move_to_end(client)
        return bucket
