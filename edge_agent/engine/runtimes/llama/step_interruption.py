"""Ends a long step when a job in it is not wanted any more: a thread that listens while the model computes.

A step blocks the thread that owns the context, which is also the one that reads the mailbox. So while a step computes
that may take long, a second thread listens for it, and tells llama.cpp to stop at the next node of its graph: a
millisecond or so later, where the rest of the step may be a second. What the step had of other jobs is computed again.

The thread sleeps in the kernel until mail comes while a step computes, and for no other reason: on two cores each of
its wake-ups stops one of the threads that compute, and the others wait for that one.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Collection
from types import TracebackType

LONG_ROWS, LONG_SECONDS = 17, 0.1
"""A step of fewer rows is over before a listener has heard anything, except on a machine where it takes so long."""

Hear = Callable[[Collection[str]], bool]
"""Reads what has come, for the owner of the mailbox to act on later; tells whether one of these jobs was cancelled, or
nobody is there any more."""


def is_long(rows: int, seconds: float) -> bool:
    """Tell whether a step that is expected to take so long is listened to while it computes."""
    return rows >= LONG_ROWS or seconds >= LONG_SECONDS


class StepInterruption:
    """The listener of one runtime."""

    def __init__(self, mailbox: int, hear: Hear, abort: Callable[[], None]) -> None:
        """Take the descriptor to wait for, what reads it, and what ends the step."""
        self._mailbox, self._hear, self._abort = mailbox, hear, abort
        self._jobs: Collection[str] = ()
        self._lock = threading.Lock()
        self._closing = os.eventfd(0)
        self._mail = select.epoll()
        """Knows the mailbox while a step computes: from another thread that takes effect at once (epoll_wait(2))."""
        self._mail.register(self._closing, select.EPOLLIN)
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="interruption", daemon=True)
        self._thread.start()

    def during(self, jobs: Collection[str]) -> StepInterruption:
        """Listen while the block runs that begins with this: what comes for one of these jobs calls `abort`."""
        self._jobs = jobs
        return self

    def __enter__(self) -> None:
        """Begin to listen."""
        self._mail.register(self._mailbox, select.EPOLLIN)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop listening."""
        with self._lock:  # not while the listener is reading: the mailbox has one reader at a time
            self._jobs = ()
            self._mail.unregister(self._mailbox)

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        os.eventfd_write(self._closing, 1)
        self._thread.join()
        self._mail.close()
        os.close(self._closing)

    def _listen(self) -> None:
        while not self._closed:
            self._mail.poll()
            with self._lock:
                if self._jobs and self._hear(self._jobs):
                    self._abort()
