"""A steady load on a site while it switches again and again, and the most memory that its engines have meanwhile.

with field.site() as site:
    switched = to_and_fro(field, site, 20)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent.client import CallFailed
from tests.support.fleet_site import TASK, FleetSite
from tests.support.update_sites import NEW, OLD, UpdateSites, wanted

CALLERS = 2
DEADLINE_SECONDS = 1.0
PAUSE_SECONDS = 0.005
SAMPLE_SECONDS = 0.02


class Load:
    """Callers with a deadline of 1 s that do not retry."""

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
        self.one_bytes = 0
        """The most that one of them had."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Watch while the block runs."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_SECONDS):
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
            sizes = [_resident_bytes(child) for child in children if _is_engine(child)]
            self.peak_bytes = max(self.peak_bytes, sum(sizes))
            self.one_bytes = max(self.one_bytes, *sizes, 0)


@dataclass(frozen=True)
class SwitchResults:
    """The measurements of a series of switches."""

    answered: int
    failed: list[str]
    """Calls, by code and reason."""
    missed: int
    """Of them those whose deadline passed."""
    peak_bytes: int
    """Of all engines together."""
    one_bytes: int
    """Of one engine: the old and the new one are alike."""


def to_and_fro(field: UpdateSites, site: FleetSite, switches: int) -> SwitchResults:
    """Switch a site between versions 2 and 1 that many times; the last plan names version 2."""
    memory, load = Memory(site), Load(site)
    site.start_uplink()
    with load.running(), memory.watched():
        for number in range(switches):
            version, digest = ((NEW, field.new), (OLD, field.old))[number % 2]
            wanted(field.central, digest)
            site.until(version)
            site.until_state("done")
    wanted(field.central, field.new)
    return SwitchResults(load.answered, load.failed, load.missed(), memory.peak_bytes, memory.one_bytes)


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
