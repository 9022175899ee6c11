"""Twenty updates in a row under a steady load: failed calls, missed deadlines, and the most memory at once."""

from __future__ import annotations

import time

from benchmarks.bars import Bar
from benchmarks.updating.field import NEW, OLD, Field, wanted
from benchmarks.updating.load import SAMPLE_SECONDS, Load, Memory

SWITCHES = 20


def measure(field: Field) -> list[Bar]:
    """Switch to and fro."""
    with field.site() as site:
        memory, load = Memory(site), Load(site)
        old_bytes = _settled(memory)
        site.start_uplink()
        with load.running(), memory.watched():
            for number in range(SWITCHES):
                version, digest = ((NEW, field.new), (OLD, field.old))[number % 2]
                wanted(field.centre, digest)
                site.until(version)
                site.until_state("done")
        new_bytes = _settled(memory)
    wanted(field.centre, field.new)
    return [
        Bar(f"calls answered during {SWITCHES} switches", load.answered, 20 * SWITCHES, "higher"),
        Bar(f"calls failed during {SWITCHES} switches", len(load.failed), 0, "lower"),
        Bar("deadlines of 1 s missed", load.missed(), 0, "lower"),
        Bar("most memory of all engines, over old + new", memory.peak_bytes / (old_bytes + new_bytes), 1.0, "lower"),
    ]


def _settled(memory: Memory) -> int:
    """Return the most that one engine alone has within a second."""
    until, most = time.monotonic() + 1.0, 0
    while time.monotonic() < until:
        most = max(most, memory.now_bytes())
        time.sleep(SAMPLE_SECONDS)
    return most
