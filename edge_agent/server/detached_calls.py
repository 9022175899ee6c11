"""Changes of operators, which continue when their callers leave, and the task of such a call.

A change that has begun runs to its end whether or not its caller waits. So its line in the audit log states the outcome
of the change, even if the caller has left, and is on the disk before the caller has its answer. There is one exception:
a bundle that is not ready yet when its caller leaves is given up like one that does not load (`caller_left`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from typing import Any, Generic, NamedTuple, TypeVar

import structlog

from edge_agent.errors import EdgeAgentError, RequestCancelled
from edge_agent.server.audit_log import AuditLog
from edge_agent.server.client_call_limits import AdmissionControl, CallSlot
from edge_agent.server.error_status import UNEXPECTED_ERROR_REASON
from edge_agent.server.roles import Caller

log = structlog.get_logger("edge_agent.server")

CHANGES_MAX = 64
"""In progress at a time, including those whose caller has left; each client has its share, as of calls."""
caller_left: ContextVar[asyncio.Event | None] = ContextVar("caller_left", default=None)
"""In the task of a change: set when its caller has left. A change that can be given up as a whole checks it."""

Result = TypeVar("Result")


class DetachedTask(Generic[Result]):
    """A task that continues when its waiters leave; a failure without a waiter is logged.

    Its creator owns it until `on_end` was called.
    """

    def __init__(
        self,
        name: str,
        work: Coroutine[Any, Any, Result],
        on_end: Callable[[], None],
        on_abandoned: Callable[[], None] = lambda: None,
    ) -> None:
        """Start the work; the log names it `name`.

        `on_end` is called at its end, before waiters continue; `on_abandoned` when the last waiter is cancelled.
        """
        self._name = name
        self._waiters = 0
        self._on_end, self._on_abandoned = on_end, on_abandoned
        self.task = asyncio.create_task(work)
        self.task.add_done_callback(self._handle_end)

    async def result(self) -> Result:
        """Return its result, or raise its exception. A waiter that is cancelled does not cancel the task."""
        with self.attended():
            await asyncio.wait([self.task])
            return self.task.result()

    @contextlib.contextmanager
    def attended(self) -> Iterator[None]:
        """Count the block as a waiter that handles a failure."""
        self._waiters += 1
        try:
            yield
        except asyncio.CancelledError:
            if self._waiters == 1 and self.task.done():
                self._log_failure()  # it failed at the moment when the last waiter left
            elif self._waiters == 1:
                self._on_abandoned()
            raise
        finally:
            self._waiters -= 1

    def _handle_end(self, _: asyncio.Task[Result]) -> None:
        self._on_end()
        if not self._waiters:
            self._log_failure()

    def _log_failure(self) -> None:
        error = None if self.task.cancelled() else self.task.exception()
        if isinstance(error, EdgeAgentError):
            log.info("unattended_call_failed", call=self._name, reason=error.reason, message=error.message)
        elif error is not None:
            log.error("unattended_call_broke", call=self._name, error=type(error).__name__, exc_info=error)


class OperatorChange(NamedTuple):
    """What the audit log records of a change."""

    caller: Caller
    call: str
    request: Any


class ChangeRunner:
    """Runs the operators' changes of one daemon. One event loop owns it; `stop` waits for those that run."""

    def __init__(self, audit: AuditLog) -> None:
        """Record the outcome of each change in that log."""
        self._audit = audit
        self._slots = AdmissionControl(CHANGES_MAX, noun="changes")
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, change: OperatorChange, act: Callable[[], Awaitable[Any]]) -> Any:
        """Start a change and return its result.

        Raises:
            QueueFull, ShareExceeded: too many are in progress; nothing has begun.
            Exception: what `act` raised.
        """
        return await self._start(change, act, lambda: None).result()

    async def run_with_progress(
        self,
        change: OperatorChange,
        act: Callable[[LatestProgress], Awaitable[Any]],
        write: Callable[[Any], Awaitable[Any]],
    ) -> None:
        """Likewise, and write the progress that `act` reports as long as the caller waits."""
        progress = LatestProgress()
        detached = self._start(change, lambda: act(progress), progress.end)
        with detached.attended():
            async with contextlib.aclosing(progress.messages()) as messages:
                async for message in messages:
                    await write(message)
            await detached.result()

    async def stop(self) -> None:
        """Return when all changes have ended; call it when no more calls can come."""
        while self._running:
            await asyncio.wait(self._running)

    def _start(
        self, change: OperatorChange, act: Callable[[], Awaitable[Any]], on_end: Callable[[], None]
    ) -> DetachedTask[Any]:
        slot = self._slots.call(change.caller.account)
        abandoned = asyncio.Event()

        def finish() -> None:
            self._running.discard(detached.task)
            on_end()

        detached = DetachedTask(change.call, self._make_change(change, act, slot, abandoned), finish, abandoned.set)
        self._running.add(detached.task)
        return detached

    async def _make_change(
        self, change: OperatorChange, act: Callable[[], Awaitable[Any]], slot: CallSlot, abandoned: asyncio.Event
    ) -> Any:
        caller_left.set(abandoned)
        with slot:
            outcome = RequestCancelled.reason
            try:
                response = await act()
                outcome = "OK"
                return response
            except Exception as error:
                outcome = error.reason if isinstance(error, EdgeAgentError) else UNEXPECTED_ERROR_REASON
                raise
            finally:
                await self._audit.record_change(change.caller, change.call, outcome, change.request)


class LatestProgress:
    """Replaces a call's context for a change that writes progress: the caller gets only the newest message.

    So a caller that does not read, or has left, does not delay the change.
    """

    def __init__(self) -> None:
        """Begin with no message."""
        self._newest: Any = None
        self._written = asyncio.Event()
        self._ended = False

    async def write(self, message: Any) -> None:
        """Take a message; it replaces one that was not read yet."""
        self._newest = message
        self._written.set()

    def end(self) -> None:
        """Let `messages` end after the newest one."""
        self._ended = True
        self._written.set()

    async def messages(self) -> AsyncGenerator[Any, None]:
        """Yield the newest message whenever there is a new one."""
        while self._newest is not None or not self._ended:
            await self._written.wait()
            self._written.clear()
            message, self._newest = self._newest, None
            if message is not None:
                yield message
