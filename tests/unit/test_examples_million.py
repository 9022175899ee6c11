"""A million queued examples: memory stays flat, and what is due is found without reading them all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FILL = """
import resource, sys, time
from pathlib import Path
from tests.site_cases import ASite, answered
from dataclasses import replace

count = int(sys.argv[2])
site = ASite(Path(sys.argv[1]), spool_bytes_max=2**40, segment_bytes_max=2**20)
recorder, spool = site.house.recorder, site.house.spool
made = recorder.prediction(answered(0, text="refund " * 70), 0.0)
peaks = []
for start in range(0, count, 5000):
    with spool.transaction():
        site.house.add([replace(made, prediction_id=f"p-{n}") for n in range(start, min(count, start + 5000))])
    if start in (20_000, count - 5000):
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
started = time.process_time()
site.house.outbox.due()
site.house.outbox.seal(0.0)
spool.review(__import__("edge_agent.examples.spool", fromlist=["x"]).ReviewFilter(), (-1.0, 0), 100)
slow = time.process_time() - started
peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks, round(slow, 3), spool.retained()["unsure"])
"""
GROWTH_MEGABYTES_MAX = 60


@pytest.mark.slow
@pytest.mark.parametrize("count", [1_000_000])
def test_a_million_waiting_examples_cost_no_memory(tmp_path: Path, count):
    """From the twenty thousandth to the last, and while a segment is sealed and the queue is looked at."""
    command = [sys.executable, "-c", FILL, str(tmp_path), str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900)
    early, late, after, seconds, kept = map(float, done.stdout.split())
    assert count == kept
    assert late - early < GROWTH_MEGABYTES_MAX
    assert after - early < GROWTH_MEGABYTES_MAX
    assert seconds < 10
