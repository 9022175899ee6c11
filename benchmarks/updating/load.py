"""A steady load on a site, and the most memory that its engines have meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.client import CallFailed
from tests.fleet_site import TASK, FleetSite

CALLERS = 2
DEADLINE_SECONDS = 1.0
PAUSE_SECONDS = 0.005
SAMPLE_SECONDS = 0.02


class Load:
    """Callers with a deadline of a second, who do not try again."""

    def __init__(self, site: FleetSite) -> None:
        """Note whom to call."""
        self._site, self._stop = site, threading.Event()
        self._threads = [threading.Thread(target=self._call_on) for _ in range(CALLERS)]
        self.answered = 0
        self.failed: list[str] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call while the block runs."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def missed(self) -> int:
        """Return how many deadlines were missed."""
        return sum(failed.startswith("DEADLINE_EXCEEDED") for failed in self.failed)

    def _call_on(self) -> None:
        with self._site.daemon.client() as client:
            while not self._stop.wait(PAUSE_SECONDS):
                try:
                    client.classify(TASK, ["refund"], timeout_seconds=DEADLINE_SECONDS)
                    self.answered += 1
                except CallFailed as failed:
                    self.failed.append(f"{failed.code} {failed.reason}")


class Memory:
    """The most memory that all engines' processes had at once."""

    def __init__(self, site: FleetSite) -> None:
        """Watch the daemon's children."""
        assert site.daemon.process is not None
        self._pid, self._stop = site.daemon.process.pid, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak_bytes = 0

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def now_bytes(self) -> int:
        """Return what the children have now."""
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        return sum(map(_resident_bytes, filter(_is_engine, children)))

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            self.peak_bytes = max(self.peak_bytes, self.now_bytes())


def _is_engine(pid: str) -> bool:
    """Tell an engine from a process that is about to become one: that still shows the daemon's memory."""
    try:
        return b"edge_agent.engine.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False


def _resident_bytes(pid: str) -> int:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0
    return next((1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
