"""The one thread that uses a disk: it runs work in order, and reports how long the present work has taken.

`ThreadPoolExecutor` owns the thread. Cancelling a caller cancels only its own work: waiting work is dropped, running
work finishes. The thread continues whatever exception work raises.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, ParamSpec, TypeVar

Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


class DiskThread:
    """See the module. Any thread may submit work."""

    def __init__(self, name: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Name the thread, which starts with the first piece of work."""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._pending = 0
        self._progress_at = 0.0
        """When a piece of work last ended, or was submitted to an idle thread."""
        self._resting = False

    def submit(
        self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        """Run a piece of work after those submitted before it. Raises RuntimeError after `stop`."""
        with self._lock:
            if not self._pending:
                self._progress_at = self._monotonic()
            self._pending += 1
        try:
            future = self._pool.submit(self._run_timed, work, *args, **kwargs)
        except RuntimeError:
            self._count_end()
            raise
        future.add_done_callback(self._count_end)
        return future

    async def run(self, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        """Submit a piece of work and await it; cancelling the caller does not stop work that has begun."""
        return await asyncio.wrap_future(self.submit(work, *args, **kwargs))

    @property
    def stalled_seconds(self) -> float:
        """How long the running work has taken so far; 0 = there is none."""
        with self._lock:
            if not self._pending or self._resting:
                return 0.0
            return max(0.0, self._monotonic() - self._progress_at)

    @contextlib.contextmanager
    def resting(self) -> Iterator[None]:
        """Mark, inside a piece of work, a block that waits for more work and not for the disk."""
        self._set_resting(resting=True)
        try:
            yield
        finally:
            self._set_resting(resting=False)

    def stop(self, seconds_max: float) -> bool:
        """Take no more work, and finish what was submitted; tell whether that ended within `seconds_max`."""
        try:
            last = self.submit(lambda: None)
        except RuntimeError:  # stopped before
            return not self._pending
        self._pool.shutdown(wait=False)
        try:
            last.result(seconds_max)
        except FutureTimeoutError:
            return False
        self._pool.shutdown(wait=True)
        return True

    def _run_timed(self, work: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return work(*args, **kwargs)
        finally:
            with self._lock:
                self._progress_at = self._monotonic()

    def _set_resting(self, *, resting: bool) -> None:
        with self._lock:
            self._resting, self._progress_at = resting, self._monotonic()

    def _count_end(self, _: object = None) -> None:
        with self._lock:
            self._pending -= 1
