"""What is lost between an acknowledged correction and the central team when everything in between fails: nothing.

    python -m benchmarks.spool_faults [--json] [--points N] [--examples N]

Sites, uplinks and the central team are real. They are killed, and their disks fail, at system calls (strace; N of each
kind); files are cut, changed and deleted; clocks jump; the way is cut, the store answers badly or is not there, two
uplinks work at once, the machine is installed again, the uplink is hostile; there is much. Counted are acknowledged
corrections that the central team does not have in the end, records that it has twice after collecting, and gaps that
it cannot explain. The whole sweeps are tests: scripts/test --release tests/process.
"""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import structlog

from benchmarks.bars import Bar, main
from benchmarks.carrying import lives, sealing, uploading, volume
from benchmarks.carrying.tally import Tally

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
        volume.measure(root / "volume", examples, tally)
    return tally.bars()


def _given(option: str, default: int) -> int:
    return int(sys.argv[sys.argv.index(option) + 1]) if option in sys.argv else default


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    sys.exit(main(lambda: measure(_given("--points", POINTS), _given("--examples", EXAMPLES))))
