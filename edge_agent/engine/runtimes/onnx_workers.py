"""Threads that compute batches, each one at a time, while their owner stays on its own thread and stays reachable.

onnxruntime lets go of the interpreter while it computes, so one session of one thread serves all of them: they share
its weights, and nothing of the score. With one worker there is no thread: `start` computes, and nothing is handed over.
Nor is it with more of them as long as the work comes one by one: to another thread and back costs 0.2 ms, a tenth of a
short text. What came during such a work had to wait for it, so the next ones go to the threads until it is quiet again.

A batch that takes longer than `overdue_seconds` is taken for stuck: the owner is then kept from everything else until
it is done. So a heartbeat that the owner answers tells of its workers too.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Generic, TypeVar

from edge_agent.engine.runtimes.job_results import DeviceLost

Outcome = TypeVar("Outcome")

# A batch is bounded at some 60 ms on the reference machine; a hundred times that is no slow machine.
OVERDUE_SECONDS = 10.0


class BatchWorkers(Generic[Outcome]):
    """See the module. Only one thread may call it."""

    def __init__(self, count: int, overdue_seconds: float = OVERDUE_SECONDS) -> None:
        """Start the threads: none for a count of 1."""
        self._count = count
        self._overdue_seconds = overdue_seconds
        self._tasks: SimpleQueue[tuple[int, Callable[[], Outcome]] | None] = SimpleQueue()
        self._finished: deque[tuple[int, Outcome | MemoryError | DeviceLost | None]] = deque()
        self._begun = 0
        self._running: dict[int, float] = {}
        self._quiet = True
        """Nothing else came while the last work was done."""
        self._company = False
        """Something else came since the workers were idle."""
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._threads = [Thread(target=self._serve, name="onnx", daemon=True) for _ in range(count if count > 1 else 0)]
        for thread in self._threads:
            thread.start()

    @property
    def busy(self) -> bool:
        """True while there is an outcome that `wait` has not returned."""
        return bool(self._running)

    @property
    def idle(self) -> int:
        """How many would begin at once; none while a batch is overdue."""
        return 0 if self._overdue() else self._count - len(self._running)

    def start(self, work: Callable[[], Outcome], *, lone: bool = False) -> None:
        """Let an idle worker do it. `lone`: no other work is to be had now."""
        self._begun += 1
        self._company = bool(self._running) or not lone
        self._running[self._begun] = time.monotonic()
        if self._threads and (self._company or not self._quiet):
            self._tasks.put((self._begun, work))
        else:
            self._do(self._begun, work)

    def wait(self, mailbox: int = -1) -> list[Outcome]:
        """Return what is done; sleep until something is, or until the descriptor `mailbox` is readable.

        Raises:
            MemoryError, DeviceLost: a worker had not enough, or the device failed.
            RuntimeError: a worker died of something else; threading has printed it.
        """
        watched = [self._bell] if mailbox < 0 or self._overdue() else [self._bell, mailbox]
        ready = select.select(watched, [], [], 0 if self._finished else None)[0]
        self._company = self._company or mailbox in ready
        if self._bell in ready:
            os.eventfd_read(self._bell)
        outcomes = [self._collected(*self._finished.popleft()) for _ in range(len(self._finished))]
        if not self._running:
            self._quiet = not self._company
        return outcomes

    def close(self) -> None:
        """Wait for what is running, and end the threads."""
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()
        self._running.clear()
        os.close(self._bell)

    def _overdue(self) -> bool:
        oldest = next(iter(self._running.values()), None)
        return oldest is not None and time.monotonic() - oldest > self._overdue_seconds

    def _collected(self, number: int, outcome: Outcome | MemoryError | DeviceLost | None) -> Outcome:
        del self._running[number]
        if isinstance(outcome, MemoryError | DeviceLost):
            raise outcome
        if outcome is None:
            raise RuntimeError("a worker died")
        return outcome

    def _serve(self) -> None:
        while task := self._tasks.get():
            try:
                self._do(*task)
            finally:
                os.eventfd_write(self._bell, 1)

    def _do(self, number: int, work: Callable[[], Outcome]) -> None:
        outcome: Outcome | MemoryError | DeviceLost | None = None
        try:
            outcome = work()
        except (MemoryError, DeviceLost) as error:
            outcome = error
        finally:
            self._finished.append((number, outcome))
