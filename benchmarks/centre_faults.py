"""What an uplink that flips, cuts, deletes, swaps, invents and forges makes the centre lose or double: nothing."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.bars import Bar, main
from tests.hostile_uplink import World

WORLDS, ROUNDS = 10, 10


def measure() -> list[Bar]:
    """Let sites behind such uplinks seal, collect after each fault, and look for every correction in the end."""
    injected = lost = doubled = unnamed = 0
    for seed in range(WORLDS):
        with tempfile.TemporaryDirectory() as folder:
            world = World(Path(folder), seed)
            for _ in range(ROUNDS):
                world.round()
            report = world.end()
            injected += world.faults.total() - world.faults["none"]
            lost += len(world.lost())
            doubled += world.doubled()
            unnamed += sum(gap.last <= world.site.sequence for gap in report.gaps)
    return [
        Bar("centre: faults injected", injected, WORLDS * ROUNDS / 2, "higher"),
        Bar("centre: corrections lost", lost, 0, "lower"),
        Bar("centre: examples doubled", doubled, 0, "lower"),
        Bar("centre: segments missing in the end", unnamed, 0, "lower"),
    ]


if __name__ == "__main__":
    sys.exit(main(measure))
