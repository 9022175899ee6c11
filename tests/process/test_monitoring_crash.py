"""Counts of production monitoring after kills: every stored answer is counted exactly once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.site_cases import SiteCase

WRITING = """
import sys, itertools
from pathlib import Path
from edge_agent.capture.spool_writer import CaptureLimits, SpoolWriter
from tests.support.site_cases import answered, opener

folder, start = Path(sys.argv[1]), int(sys.argv[2])
folder.mkdir(parents=True, exist_ok=True)
writer = SpoolWriter(opener(folder, collect={"pos-intent": "local"}), CaptureLimits(10_000, 10**7, 64, 0.001, 10_000))
writer.start()
shadow = {"model": "large-1", "route": "upstream", "reasons": ("MODE_SHADOW",)}
for number in itertools.count(start):
    output = "refund" if number % 3 else "price"
    writer.queue_answer(answered(number, teacher_answer=output, **shadow))
    if number % 50 == 0:
        writer.submit(lambda worker: None).result()
        print(number, flush=True)
"""


def killed_in(folder: Path, start: int, lines: int) -> int:
    """Let a process store answers and kill it after a number of commits; return the next number."""
    command = [sys.executable, "-c", WRITING, str(folder), str(start)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = [next(process.stdout) for _ in range(lines)]
        process.kill()
    return int(said[-1]) + 100_000


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4])
def test_kills_neither_lose_nor_double_a_count(tmp_path, kills):
    """After kills during writes, the counts of answers and pairs equal those of the stored answers."""
    folder, start = tmp_path / "state", 1
    for number in range(kills):
        start = killed_in(folder, start, 2 + 3 * number)
    site = SiteCase(tmp_path, collect={"pos-intent": "local"})
    ((kept,),) = site.worker.spool.db.rows("SELECT count(*) FROM predictions")
    ((disagreed,),) = site.worker.spool.db.rows(
        "SELECT count(*) FROM predictions WHERE json_extract(CAST(record AS TEXT), '$.output') = 'price'"
    )
    (series,) = site.worker.monitoring.report("pos-intent")
    counted = sum(day["answers"] for day in series.days.values())
    assert kept > 50 * kills
    assert (kept, kept) == (counted, sum(row.pairs for row in series.agreement))
    assert disagreed == sum(row.pairs - row.agreed for row in series.agreement)
    assert kept == sum(row.answers for row in series.confidences)
    assert site.worker.spool.counters["captured"] == kept
