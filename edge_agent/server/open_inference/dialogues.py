"""Open streams of requests: each lasts as long as its caller likes, but not for ever, and not over a stop.

What waits on one takes no place among the calls in progress, so streams have places of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from edge_agent.errors import DeadlineExpired, Draining
from edge_agent.server.admission import Admission, Place

SILENT_SECONDS_MAX = 600.0
STREAMS_MAX = 1024
"""Of all callers; an open one costs some tens of kilobytes. Each has its share, as of calls."""
RETRY_SECONDS = 1.0


class Dialogues:
    """Those of one daemon. One event loop owns them."""

    def __init__(self, client_streams_max: int, silent_seconds_max: float = SILENT_SECONDS_MAX) -> None:
        """Let a caller hold so many open; end one whose caller says nothing for that long."""
        self._open = Admission(STREAMS_MAX, client_streams_max, "streams of requests")
        self._silent_seconds_max = silent_seconds_max
        self._waiting: set[asyncio.Timeout] = set()
        self._closed = False

    def place(self, client: str) -> Place:
        """Count a stream until the end of the `with` block. Raises QueueFull, ShareExceeded."""
        return self._open.call(client)

    async def each(self, requests: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
        """Yield the requests of a stream.

        Raises:
            Draining: the daemon stops; what was asked before has its answer.
            DeadlineExpired: the caller was silent for too long.
        """
        while True:
            try:
                request = await self._next(requests)
            except StopAsyncIteration:
                return
            yield request

    def close(self) -> None:
        """End the streams that wait for a request now, and the others after the one that they answer."""
        self._closed = True
        for waiting in self._waiting:
            waiting.reschedule(0.0)

    async def _next(self, requests: AsyncIterator[Any]) -> Any:
        self._require_open()
        try:
            async with asyncio.timeout(self._silent_seconds_max) as waiting:
                self._waiting.add(waiting)
                return await anext(requests)
        except TimeoutError:
            self._require_open()
            said = f"no request came on this stream for {self._silent_seconds_max:g} s"
            raise DeadlineExpired(said, remedy="Open a stream when there is something to ask.") from None
        finally:
            self._waiting.discard(waiting)

    def _require_open(self) -> None:
        if self._closed:
            raise Draining("the daemon is stopping and takes no new work", retry_seconds=RETRY_SECONDS)
