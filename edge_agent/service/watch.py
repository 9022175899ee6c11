"""grpc.health.v1 with a limit on watches: each one is a call that lasts as long as its caller likes."""

from __future__ import annotations

from typing import Any

from grpc_health.v1 import _async as health_aio

from edge_agent.errors import QueueFull
from edge_agent.service import guard

RETRY_SECONDS = 10.0


class HealthServicer(health_aio.HealthServicer):  # type: ignore[misc]  # the library has no types
    """The library's servicer, for one listener or several."""

    def __init__(self, watches_max: int) -> None:
        """Take at most that many watches at a time."""
        super().__init__()
        self._watches_max = watches_max
        self._watches = 0

    async def Watch(self, request: Any, context: Any) -> None:
        """Tell the state now and at every change, until the caller goes away."""
        if self._watches >= self._watches_max:
            said = f"{self._watches} health watches are open; the limit is {self._watches_max}"
            remedy = "Close a watch, or ask with Check."
            error = QueueFull(said, retry_seconds=RETRY_SECONDS, remedy=remedy, limit=self._watches_max)
            await guard.abort(error, context)
        self._watches += 1
        try:
            await super().Watch(request, context)
        finally:
            self._watches -= 1
