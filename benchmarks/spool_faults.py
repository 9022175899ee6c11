"""Faults between an acknowledged correction and the central team: nothing is lost.

    python -m benchmarks.spool_faults [--json] [--points N] [--examples N]

Sites, uplinks and the central team are real. They are killed, and their disks fail, at system calls (strace; N of each
kind); files are cut, changed and deleted; clocks jump; the way is cut, the store answers badly or is not there, two
uplinks work at once, the machine is installed again, the uplink is hostile; there is much. Counted are acknowledged
corrections that the central team does not have in the end, records that it has twice after collecting, and gaps that
it cannot explain. The whole sweeps are tests: scripts/test --release tests/process.
"""

from __future__ import annotations

import filecmp
import logging
import sys
import tempfile
from pathlib import Path

import structlog

from benchmarks.bars import Bar, main, option
from benchmarks.carrying import lives, sealing, uploading
from benchmarks.carrying.tally import Tally
from tests.support.delivery_path import Outcome
from tests.support.queued_examples import GROWTH_MIB_MAX, fill
from tests.support.uplink_cases import UplinkCase
from tests.support.uplink_process import BACKLOG_BYTES_EACH, BACKLOG_SEGMENTS, RESIDENT_BYTES_MAX, UplinkProcess

POINTS = 24
EXAMPLES = 1_000_000


def measure(points: int = POINTS, examples: int = EXAMPLES) -> list[Bar]:
    """Inject a seeded choice of each kind of fault."""
    tally = Tally()
    with tempfile.TemporaryDirectory() as path:
        root = Path(path)
        sealing.measure(root / "sealing", points, tally)
        uploading.measure(root / "uploading", points, tally)
        lives.measure(root / "lives", tally)
        measure_volume(root / "volume", examples, tally)
    return tally.bars()


def measure_volume(root: Path, examples: int, tally: Tally) -> None:
    """Queue that many examples without a link; then upload the 1 GiB that 30 days offline leave."""
    filled = fill(root / "queued", examples)
    tally.add(f"{examples} examples queued", 1, Outcome(examples - filled.kept), wanted=1)
    tally.measured(Bar("MiB more for all but the first 20000", filled.growth_mib, GROWTH_MIB_MAX, "lower"))
    (root / "backlog" / "upstream").mkdir(parents=True)
    case = UplinkCase(root / "backlog", str(root / "backlog" / "upstream"))
    case.seal(BACKLOG_SEGMENTS, BACKLOG_BYTES_EACH)
    code, resident_bytes = UplinkProcess(case, case.config.url).once_measured()
    assert code == 0, code
    here, there = case.outbox / "segments", Path(case.config.url, "site=site-1", "segments")
    names = [path.name for path in here.iterdir()]
    same, *_ = filecmp.cmpfiles(here, there, names, shallow=False)
    tally.add("1 GiB after 30 days offline", 1, Outcome(len(names) - len(same)), wanted=1)
    tally.measured(Bar("MiB resident of its uplink", resident_bytes / 2**20, RESIDENT_BYTES_MAX / 2**20, "lower"))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(lambda: measure(int(option("--points", str(POINTS))), int(option("--examples", str(EXAMPLES))))))
