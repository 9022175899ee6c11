"""Twenty updates in a row under a steady load: failed calls, missed deadlines, and the most memory at once."""

from __future__ import annotations

from benchmarks.bars import Bar
from tests.support.steady_load import to_and_fro
from tests.support.update_field import Field

SWITCHES = 20


def measure(field: Field) -> list[Bar]:
    """Switch to and fro."""
    with field.site() as site:
        seen = to_and_fro(field, site, SWITCHES)
    return [
        Bar(f"calls answered during {SWITCHES} switches", seen.answered, 20 * SWITCHES, "higher"),
        Bar(f"calls failed during {SWITCHES} switches", len(seen.failed), 0, "lower"),
        Bar("deadlines of 1 s missed", seen.missed, 0, "lower"),
        Bar("most memory of all engines, over old + new", seen.peak_bytes / (2 * seen.one_bytes), 1.0, "lower"),
    ]
