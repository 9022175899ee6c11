"""How many inference calls are in progress, of all clients and of each, and whether more are taken.

gRPC's own limit counts every call, so an overload of inference would also refuse health checks and the operator, and it
refuses without a reason or a time to come back. This one counts inference alone, and gRPC's is not set.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from edge_agent.engine import job_queue
from edge_agent.errors import Draining, QueueFull, ShareExceeded

RETRY_SECONDS = 1.0
QUIET_SECONDS, QUIET_SECONDS_MAX = 0.05, 0.5
"""How long no call has come when callers count as told that the daemon stops; and the longest wait for that."""


class Place:
    """One call's, given back at the end of the block. By hand: a generator would cost each call three times as much."""

    __slots__ = ("_client", "_leave")

    def __init__(self, leave: Callable[[str], None], client: str) -> None:
        """Note whose it is."""
        self._leave = leave
        self._client = client

    def __enter__(self) -> None:
        """Do nothing: it is counted already."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give it back."""
        self._leave(self._client)


class Admission:
    """The count of one daemon. One event loop owns it."""

    def __init__(self, calls_max: int, client_calls_max: int = 0, what: str = "calls") -> None:
        """Take at most `calls_max` calls of one client at a time, and so far as others find places (`shares.py`).

        `client_calls_max` is lower where one client is never to have that many; 0 = it is not. `what` are they?
        """
        self._what = what
        self._calls_max = calls_max
        self._client_calls_max = client_calls_max or calls_max
        self._calls = 0
        self._by_client: dict[str, int] = {}
        self._turned_away = 0
        self.draining = False

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._calls

    def call(self, client: str) -> Place:
        """Count a call until the end of the `with` block. Raises Draining, QueueFull, ShareExceeded."""
        self._require_place(client)
        self._calls += 1
        self._by_client[client] = self._by_client.get(client, 0) + 1
        return Place(self._leave, client)

    async def until_quiet(self) -> None:
        """Wait, while draining, until no more calls come.

        A call that has reached gRPC and no handler when its server stops ends with CANCELLED and without a reason.
        Callers that have been refused come back after RETRY_SECONDS, so there is a moment without one.
        """
        for _ in range(round(QUIET_SECONDS_MAX / QUIET_SECONDS)):
            turned_away = self._turned_away
            await asyncio.sleep(QUIET_SECONDS)
            if turned_away == self._turned_away:
                return

    def _leave(self, client: str) -> None:
        self._calls -= 1
        left = self._by_client[client] - 1
        if left:
            self._by_client[client] = left
        else:
            del self._by_client[client]

    def _require_place(self, client: str) -> None:
        if self.draining:
            self._turned_away += 1
            # An idle daemon is gone, and back, long before 'drain_seconds' are over.
            raise Draining("the daemon is stopping and takes no new work", retry_seconds=RETRY_SECONDS)
        held = self._by_client.get(client, 0)
        at_its_most = self._client_calls_max <= held < self._calls_max
        if not at_its_most and job_queue.has_share_for(held, self._calls, 1, self._calls_max):
            return
        whose = f"{held} {self._what} of {client} are in progress"
        if at_its_most:
            raise self._over_share(f"{whose}; the limit is {self._client_calls_max}")
        if 0 < held < self._calls:
            raise self._over_share(f"{whose}, and {self._calls - held} of others: one more is over its share")
        raise QueueFull(
            f"{self._calls} {self._what} are in progress; the limit is {self._calls_max}",
            retry_seconds=RETRY_SECONDS,
            limit=self._calls_max,
        )

    def _over_share(self, said: str) -> ShareExceeded:
        return ShareExceeded(said, retry_seconds=RETRY_SECONDS, limit=self._client_calls_max)
