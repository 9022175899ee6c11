"""How long something took, and how much memory this process and its children held at most meanwhile."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import TracebackType

from edge_agent.process_memory import resident_bytes

_SAMPLE_SECONDS = 0.05


class ResourceMeter:
    """Measures the block it is entered around.

    Memory is the sum of the resident sets, sampled: a page that two processes share counts twice, and a peak shorter
    than a sample may be missed. Outside Linux it is 0.
    """

    def __init__(self) -> None:
        """Measure nothing yet."""
        self.seconds = 0.0
        self.memory_peak_bytes = 0
        self._stop = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._started = 0.0

    def __enter__(self) -> ResourceMeter:
        """Start the clock."""
        self._started = time.perf_counter()
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the clock."""
        self.seconds = time.perf_counter() - self._started
        self._stop.set()
        self._sampler.join()

    def _sample(self) -> None:
        while True:
            self.memory_peak_bytes = max(self.memory_peak_bytes, tree_resident_bytes(os.getpid()))
            if self._stop.wait(_SAMPLE_SECONDS):
                return


def tree_resident_bytes(pid: int) -> int:
    """Return the resident memory of a process and of all its descendants, in bytes; of one that is gone, 0."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return 0
    return resident_bytes(pid) + sum(tree_resident_bytes(child) for task in tasks for child in _children(task))


def _children(task: Path) -> list[int]:
    try:
        return [int(child) for child in (task / "children").read_text().split()]
    except OSError:
        return []
