"""What updates do when everything in between fails or lies: sites answer by the old or the new version, and arrive.

    python -m benchmarks.update_faults [--json] [--points N]

The daemon and the uplink are real processes on a real repository. They are killed, and their disk fails, at system
calls all over an update (strace); the uplink lays what an attacker would; clocks jump; bundles are signed and bad. Each
site is called all the while.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.bars import Bar, main
from benchmarks.updating import attacks, bad_bundles, crashes, downloads, memory, switching
from benchmarks.updating.tally import Tally
from tests.support.update_field import Field

POINTS = 5
"""Faults of each kind: the tests sweep all of them."""


def measure(points: int = POINTS) -> list[Bar]:
    """Inject everything; what went wrong is named on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        field, faults, hostile = Field(Path(folder)), Tally(), Tally()
        crashes.measure(field, points, faults)
        downloads.measure(field, faults)
        bad_bundles.measure(field, faults)
        memory.measure_clock(field, faults)
        memory.measure(field, hostile)
        attacks.measure(field, hostile)
        for trouble in (*faults.troubles, *hostile.troubles):
            print(trouble, file=sys.stderr)  # noqa: T201
        return [
            Bar("faults injected", faults.injected, 6 * points + 25, "higher"),
            Bar("faults: old or new answered every call", faults.served / faults.injected, 1.0, "higher"),
            Bar("faults: arrived where they should", faults.converged / faults.injected, 1.0, "higher"),
            Bar("attacks made", hostile.injected, 35, "higher"),
            Bar("attacks refused", hostile.served / hostile.injected, 1.0, "higher"),
            Bar("attacks: took the honest copy afterwards", hostile.converged / hostile.injected, 1.0, "higher"),
            *switching.measure(field),
        ]


if __name__ == "__main__":
    given = sys.argv[sys.argv.index("--points") + 1] if "--points" in sys.argv else str(POINTS)
    sys.exit(main(lambda: measure(int(given))))
