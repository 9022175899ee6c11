"""The remedy sweep: each fault is made, its error or finding is read, and its remedy followed as printed.

    python -m benchmarks.remedies [--json] [--only NAME,NAME]

Plays every row of the tables in tests/support: the reasons of the catalogue of errors, as the user who meets them. Each
row starts daemons of its own; all of them take about 6 minutes on two cores. It needs root, to mount disks of its own,
and strace. Progress is on standard error, with what a row that fails has shown.

    shown     exactly this reason appeared, and no other
    cured     the remedy removed the fault, or names the person who can
    excused   rows that are not played, each with its reason; shown + excused = all
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.bars import Bar, main
from edge_agent.errors import BY_REASON
from tests.support import reason_cases
from tests.support.reason_cases import Played, RemedyCase

TABLES: Mapping[str, tuple[Mapping[str, RemedyCase], frozenset[str]]] = {
    "reasons": (reason_cases.CASES, frozenset(BY_REASON) | reason_cases.CLIENT_REASONS),
}
"""The rows by what they are of, and the names of which each needs one."""
EXCUSED_MAX = 3.0


def measure() -> Iterator[Bar]:
    """Play every row, or those that were asked for; yield the bars."""
    only = sys.argv[sys.argv.index("--only") + 1].split(",") if "--only" in sys.argv else []
    rows = []
    for kind, (table, names) in TABLES.items():
        chosen = [row for name, row in table.items() if not only or name in only]
        yield Bar(kind, len(chosen), len(chosen) if only else len(names), "higher")
        rows += chosen
    yield from judged(rows, [play(row, f"{number}/{len(rows)}") for number, row in enumerate(rows, 1)])


def judged(rows: Sequence[RemedyCase], outcomes: Sequence[Played]) -> list[Bar]:
    """Return the bars of rows and what came of each."""
    excused = sum(1 for row in rows if row.excused)
    shown = [played for row, played in zip(rows, outcomes, strict=True) if played.shown == (row.name,)]
    cured = sum(1 for played in shown if played.cured or played.person)
    return [
        Bar("shown", len(shown), len(rows) - excused, "higher"),
        Bar("cured, or the person named who can", cured, len(rows) - excused, "higher"),
        Bar("excused", excused, EXCUSED_MAX, "lower"),
        Bar("shown + excused", len(shown) + excused, len(rows), "higher"),
    ]


def play(row: RemedyCase, number: str) -> Played:
    """Play one row in a folder of its own; what fails is reported, and the sweep continues."""
    if row.play is None:
        report(f"[{number}] {row.name}: excused: {row.excused}")
        return Played((), cured=False)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="remedies-") as folder:
        try:
            played = row.play(Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever a row ends with is its result
            report(f"[{number}] {row.name}: {type(error).__name__}: {error}")
            return Played((), cured=False)
    verdict = "cured" if played.cured else f"named: {played.person}" if played.person else "NOT CURED"
    shown = "shown" if played.shown == (row.name,) else f"SHOWN {' '.join(played.shown) or 'nothing'}"
    report(f"[{number}] {row.name}: {shown}, {verdict} ({time.monotonic() - began:.1f} s)")
    return played


def report(line: str) -> None:
    """Show progress, apart from the bars."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(measure))
