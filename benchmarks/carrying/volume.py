"""Much at once: a queue that nobody empties, and a month of segments for one uplink."""

from __future__ import annotations

import filecmp
from pathlib import Path

from benchmarks.bars import Bar
from benchmarks.carrying.tally import Tally
from tests.support.queued_examples import GROWTH_MIB_MAX, fill
from tests.support.uplink_cases import UplinkCase
from tests.support.uplink_process import BACKLOG_BYTES_EACH, BACKLOG_SEGMENTS, RESIDENT_BYTES_MAX, Process
from tests.support.whole_way import Outcome


def measure(root: Path, examples: int, tally: Tally) -> None:
    """Queue that many examples; then bring up what 30 days offline leave, 1 GiB."""
    filled = fill(root / "queued", examples)
    tally.add(f"{examples} examples queued", 1, Outcome(examples - filled.kept), wanted=1)
    tally.measured(Bar("MiB more for all but the first 20000", filled.growth_mib, GROWTH_MIB_MAX, "lower"))
    (root / "backlog" / "upstream").mkdir(parents=True)
    case = UplinkCase(root / "backlog", str(root / "backlog" / "upstream"))
    case.seal(BACKLOG_SEGMENTS, BACKLOG_BYTES_EACH)
    code, resident_bytes = Process(case, case.config.url).once_measured()
    assert code == 0, code
    here, there = case.outbox / "segments", Path(case.config.url, "site=site-1", "segments")
    names = [path.name for path in here.iterdir()]
    same, *_ = filecmp.cmpfiles(here, there, names, shallow=False)
    tally.add("1 GiB after 30 days offline", 1, Outcome(len(names) - len(same)), wanted=1)
    tally.measured(Bar("MiB resident of its uplink", resident_bytes / 2**20, RESIDENT_BYTES_MAX / 2**20, "lower"))
