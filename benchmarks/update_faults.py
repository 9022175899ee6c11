"""Updates over failing and lying links: sites always answer with the old or the new version, and finish.

    python -m benchmarks.update_faults [--json] [--points N]

The daemon and the uplink are real processes on a real repository. They are killed, and their disk fails, at system
calls all over an update (strace); the uplink lays what an attacker would; clocks jump; bundles are signed and bad. Each
site is called all the while.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.bars import Bar, main, option
from benchmarks.updating import bad_offers, crashes, memory
from benchmarks.updating.tally import Tally
from tests.support.steady_load import to_and_fro
from tests.support.update_sites import UpdateSites

POINTS = 5
"""Faults of each kind: the tests sweep all of them."""


def measure(points: int = POINTS) -> list[Bar]:
    """Inject everything; what went wrong is named on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        field, faults, hostile = UpdateSites(Path(folder)), Tally(), Tally()
        crashes.measure(field, points, faults)
        bad_offers.measure_downloads(field, faults)
        bad_offers.measure_bad_bundles(field, faults)
        memory.measure_clock(field, faults)
        memory.measure(field, hostile)
        bad_offers.measure_attacks(field, hostile)
        for trouble in (*faults.troubles, *hostile.troubles):
            print(trouble, file=sys.stderr)  # noqa: T201
        return [
            Bar("faults injected", faults.injected, 6 * points + 25, "higher"),
            Bar("faults: old or new answered every call", faults.served / faults.injected, 1.0, "higher"),
            Bar("faults: arrived where they should", faults.converged / faults.injected, 1.0, "higher"),
            Bar("attacks made", hostile.injected, 35, "higher"),
            Bar("attacks refused", hostile.served / hostile.injected, 1.0, "higher"),
            Bar("attacks: took the honest copy afterwards", hostile.converged / hostile.injected, 1.0, "higher"),
            *measure_switches(field),
        ]


SWITCHES = 20


def measure_switches(field: UpdateSites) -> list[Bar]:
    """Update to and fro under a steady load: failed calls, missed deadlines, and the most memory at once."""
    with field.site() as site:
        seen = to_and_fro(field, site, SWITCHES)
    return [
        Bar(f"calls answered during {SWITCHES} switches", seen.answered, 20 * SWITCHES, "higher"),
        Bar(f"calls failed during {SWITCHES} switches", len(seen.failed), 0, "lower"),
        Bar("deadlines of 1 s missed", seen.missed, 0, "lower"),
        Bar("most memory of all engines, over old + new", seen.peak_bytes / (2 * seen.one_bytes), 1.0, "lower"),
    ]


if __name__ == "__main__":
    sys.exit(main(lambda: measure(int(option("--points", str(POINTS))))))
