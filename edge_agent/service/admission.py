"""How many inference calls are in progress, and whether more are taken.

gRPC's own limit counts every call, so an overload of inference would also refuse health checks and the operator, and it
refuses without a reason or a time to come back. This one counts inference alone, and gRPC's is not set.
"""

from __future__ import annotations

from types import TracebackType

from edge_agent.errors import Draining, QueueFull

RETRY_SECONDS = 1.0


class Admission:
    """The count of one daemon; a call is a `with` block."""

    def __init__(self, calls_max: int, drain_seconds: float) -> None:
        """Take at most that many calls at a time."""
        self._calls_max = calls_max
        self._drain_seconds = drain_seconds
        self._calls = 0
        self.draining = False

    @property
    def calls(self) -> int:
        """Calls in progress."""
        return self._calls

    def __enter__(self) -> None:
        """Count a call until the end of the block. Raises Draining, QueueFull."""
        if self.draining:
            raise Draining("the daemon is stopping and takes no new work", retry_seconds=self._drain_seconds)
        if self._calls >= self._calls_max:
            raise QueueFull(
                f"{self._calls} calls are in progress; the limit is {self._calls_max}",
                retry_seconds=RETRY_SECONDS,
                limit=self._calls_max,
            )
        self._calls += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count it no longer."""
        self._calls -= 1
