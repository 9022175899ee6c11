"""Steady load from callers that honour the delay of RetryInfo and retry.

with Callers(daemon, "intent", count=4) as callers:
    callers.wait_for_answers(20)
assert [] == callers.lost
"""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Self

from edge_agent.client import CallFailed, Classification, Client, Failure
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync

RETRYABLE = ("UNAVAILABLE", "RESOURCE_EXHAUSTED")
DELAY_SECONDS = 0.05  # where the daemon was not there to name one
GIVE_UP_SECONDS = 30.0


class Callers:
    """Threads with one client each that call until the block is left. An answer with another label is a lost call."""

    def __init__(self, daemon: RunningDaemon, task: str, count: int = 4, text: str = "refund") -> None:
        """Note whom to call. The first answer is the right one: the same text gets the same label for ever."""
        self._daemon = daemon
        self._task = task
        self._text = text
        self._label = ""
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._call_on, args=(place,)) for place in range(count)]
        self.answers = 0
        self.retries = 0
        self.lost: list[str] = []
        self.versions: list[list[str]] = [[] for _ in range(count)]
        """For each caller the versions of the bundle that answered, each time that it changed."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        """Start calling."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for all calls to end."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for_answers(self, more: int, seconds: float = GIVE_UP_SECONDS) -> None:
        """Return when that many more calls were answered."""
        target = self.answers + more
        eventually_sync(lambda: self.answers >= target or bool(self.lost), seconds)

    def _call_on(self, place: int) -> None:
        with self._daemon.client() as client:
            while not self._stop.is_set():
                try:
                    self._note(self._until_answered(client), self.versions[place])
                except CallFailed as failed:
                    with self._lock:
                        self.lost.append(f"{failed.code} {failed.reason}: {failed.message}")

    def _until_answered(self, client: Client) -> Classification | Failure:
        give_up = time.monotonic() + GIVE_UP_SECONDS
        while True:
            try:
                [answer] = client.classify(self._task, [self._text])
            except CallFailed as failed:
                if failed.code not in RETRYABLE or time.monotonic() > give_up:
                    raise
                with self._lock:
                    self.retries += 1
                threading.Event().wait(failed.retry_after_seconds or DELAY_SECONDS)
            else:
                return answer

    def _note(self, answer: Classification | Failure, versions: list[str]) -> None:
        with self._lock:
            if isinstance(answer, Failure):
                self.lost.append(f"{answer.reason}: {answer.message}")
                return
            self.answers += 1
            self._label = self._label or answer.label
            if answer.label != self._label:
                self.lost.append(f"the answer was {answer.label}, and {self._label} before")
            if versions[-1:] != [answer.bundle.version]:
                versions.append(answer.bundle.version)
