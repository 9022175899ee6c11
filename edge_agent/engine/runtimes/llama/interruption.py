"""Ends a long step when a job in it is not wanted any more: a thread that listens while the model computes.

A step blocks the thread that owns the context, which is also the one that reads the mailbox. So while a step computes
that may take long, a second thread listens for it, and tells llama.cpp to stop at the next node of its graph: a
millisecond or so later, where the rest of the step may be a second. What the step had of other jobs is computed again.
"""

from __future__ import annotations

import contextlib
import select
import threading
from collections.abc import Callable, Collection, Iterator

LISTEN_MS = 20
"""The listener looks so often whether the step has ended; it wakes at once when something comes."""

Hear = Callable[[Collection[str]], bool]
"""Reads what has come, for the owner of the mailbox to act on later; tells whether one of these jobs was cancelled, or
nobody is there any more."""


class Interruption:
    """The listener of one runtime."""

    def __init__(self, mailbox: int, hear: Hear, abort: Callable[[], None]) -> None:
        """Take the descriptor to wait for, what reads it, and what ends the step."""
        self._mail = select.poll()
        self._mail.register(mailbox, select.POLLIN)
        self._hear, self._abort = hear, abort
        self._jobs: Collection[str] = ()
        self._lock = threading.Lock()
        self._wanted = threading.Event()
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name="interruption", daemon=True)
        self._thread.start()

    @contextlib.contextmanager
    def during(self, jobs: Collection[str]) -> Iterator[None]:
        """Listen while the block runs: what comes for one of these jobs calls `abort`."""
        self._jobs = jobs
        self._wanted.set()
        try:
            yield
        finally:
            with self._lock:  # not while the listener is reading: the mailbox has one reader at a time
                self._jobs = ()
                self._wanted.clear()

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        self._thread.join()

    def _listen(self) -> None:
        while self._wanted.wait() and not self._closed:
            if not self._mail.poll(LISTEN_MS):
                continue
            with self._lock:
                if self._jobs and self._hear(self._jobs):
                    self._abort()
