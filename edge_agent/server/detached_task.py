"""A task that outlives those who wait for it, and whose failure is in the log when nobody is there to see it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

import structlog

from edge_agent.errors import EdgeAgentError

log = structlog.get_logger("edge_agent.server")

Result = TypeVar("Result")


class DetachedTask(Generic[Result]):
    """See the module. Whoever makes one owns it until `ended` was called."""

    def __init__(
        self,
        name: str,
        work: Coroutine[Any, Any, Result],
        ended: Callable[[], None],
        left: Callable[[], None] = lambda: None,
    ) -> None:
        """Begin the work; the log has the name.

        `ended` is called when it is over, before those who wait go on; `left` when nobody waits for it any more.
        """
        self._name = name
        self._attending = 0
        self._ended, self._left = ended, left
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(self._over)

    async def result(self) -> Result:
        """Return what came of it. Raises what it failed with. Who is cancelled here leaves it to the others."""
        with self.attended():
            await asyncio.wait([self.task])
            return self.task.result()

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Be there inside the block, where a failure will be seen."""
        self._attending += 1
        try:
            yield
        except asyncio.CancelledError:
            if self._attending == 1 and self.task.done():
                self._tell()  # it failed in the moment in which the last one left
            elif self._attending == 1:
                self._left()
            raise
        finally:
            self._attending -= 1

    def _over(self, _: asyncio.Task[Result]) -> None:
        self._ended()
        if not self._attending:
            self._tell()

    def _tell(self) -> None:
        error = None if self.task.cancelled() else self.task.exception()
        if isinstance(error, EdgeAgentError):
            log.info("unattended_call_failed", call=self._name, reason=error.reason, message=error.message)
        elif error is not None:
            log.error("unattended_call_broke", call=self._name, error=type(error).__name__, exc_info=error)
