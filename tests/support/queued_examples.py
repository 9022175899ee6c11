"""A spool that a separate process fills with waiting examples; the process prints its use of memory.

filled = fill(tmp_path, 1_000_000)
assert filled.kept == 1_000_000
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edge_agent.capture.capture_values import ReviewCursor, ReviewFilter
from edge_agent.capture.spool_worker import SpoolWorker
from tests.support.site_cases import SiteCase, answered

GROUP, EARLY = 5000, 20_000
TEXT = "refund " * 70
GROWTH_MIB_MAX = 20
STEP_INSTRUCTIONS = 1000


@dataclass(frozen=True)
class ProcessMeasurements:
    """The measurements of the process."""

    kept: int
    early_mib: float
    """Most memory up to the twenty thousandth example."""
    peak_mib: float
    """Most memory up to the end, with a segment sealed and a page of the review queue read."""
    early_steps: int
    """What SQLite did to seal and read after the twenty thousandth, in thousands of instructions."""
    steps: int
    """The same at the end."""

    @property
    def growth_mib(self) -> float:
        """Return the memory growth after the early examples."""
        return self.peak_mib - self.early_mib


def fill(folder: Path, count: int) -> ProcessMeasurements:
    """Queue examples of 500 characters, seal a segment of them, and look at the review queue."""
    command = [sys.executable, "-m", "tests.support.queued_examples", str(folder), str(count)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900, cwd=root)
    return ProcessMeasurements(**json.loads(done.stdout))


def _fill(folder: Path, count: int) -> ProcessMeasurements:
    site = SiteCase(folder, spool_bytes_max=2**40, segment_bytes_max=2**20)
    worker = site.worker
    made = worker.recorder.build_prediction(answered(0, text=TEXT), 0.0)
    early, early_steps = 0.0, 0
    for start in range(0, count, GROUP):
        numbers = range(start, min(count, start + GROUP))
        with worker.spool.transaction():
            worker.store_predictions([replace(made, prediction_id=f"p-{number}") for number in numbers])
        if start <= EARLY:
            early = _peak_mib()
        if start == EARLY:
            early_steps = _steps_of_looking(worker)
    steps = _steps_of_looking(worker)
    return ProcessMeasurements(worker.spool.count_retained()["unsure"], early, _peak_mib(), early_steps, steps)


def _steps_of_looking(worker: SpoolWorker) -> int:
    """Seal a segment and read a page of the review queue; return what SQLite did for it."""
    with counted_steps(worker) as counted:
        assert worker.outbox
        worker.outbox.is_due()
        worker.outbox.seal_segment(0.0)
        worker.spool.review_page(ReviewFilter(), ReviewCursor(), 100)
    return counted()


@contextlib.contextmanager
def counted_steps(worker: SpoolWorker) -> Iterator[Callable[[], int]]:
    """Count what SQLite does in the block, in steps of STEP_INSTRUCTIONS."""
    count = 0

    def step() -> int:
        nonlocal count
        count += 1
        return 0

    connection = worker.spool.db._db
    connection.set_progress_handler(step, STEP_INSTRUCTIONS)
    yield lambda: count
    connection.set_progress_handler(None, 0)


def _peak_mib() -> float:
    # Not ru_maxrss: that begins with what the parent had when it started this process.
    [line] = re.findall(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(line) / 1024


if __name__ == "__main__":
    sys.stdout.write(json.dumps(asdict(_fill(Path(sys.argv[1]), int(sys.argv[2])))))
