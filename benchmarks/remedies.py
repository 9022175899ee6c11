"""The remedy sweep: each fault is made, its error or finding is read, and its remedy followed as printed.

    python -m benchmarks.remedies [--json] [--only NAME,NAME]

Plays every row of the tables in tests/support: the reasons of the catalogue of errors, as the user who meets them,
then the findings of doctor, as the technician who reads them. Each row starts daemons of its own, and takes 1 to 40 s;
all of them took 14 minutes on two busy cores, with 7 minutes of processor time. It needs root, to mount disks of its
own, and strace. Progress is on standard error, with what a row that fails has shown.

    shown     exactly this reason appeared, and no other
    cured     the remedy removed the fault, or names the person who can
    booted    rows about systemd, which the release tests of a booted machine play (tests/e2e/test_booted_*.py)
    excused   rows that nothing plays, each with its reason; shown + booted + excused = all
    not made  rows that nobody has written yet: they count as missing
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarks.bars import Bar, main, option
from edge_agent.errors import BY_REASON
from tests.support import finding_cases, reason_cases
from tests.support.reason_cases import CaseOutcome, RemedyCase

TABLES: Mapping[str, tuple[Mapping[str, RemedyCase], frozenset[str]]] = {
    "reasons": (reason_cases.CASES, frozenset(BY_REASON) | reason_cases.CLIENT_REASONS),
    "findings": (
        {case.name: case.as_row() for case in finding_cases.CASES},
        frozenset(kind.name for kind in finding_cases.finding_kinds()),
    ),
}
"""The rows by what they are of, and the names of which each needs one."""
EXCUSED_MAX: Mapping[str, float] = {"reasons": 3.0, "findings": 9.0}
"""Of the findings 5 are about hardware or the kernel. 4 are about systemd: a state of less than a second, one of more
than five minutes, one that asks for nothing, and one that needs a memory controller.
"""


def measure() -> Iterator[Bar]:
    """Run all rows, or those named on the command line; yield the bars of each table."""
    only = _named()
    began = time.monotonic()
    for kind, (table, names) in TABLES.items():
        rows = [row for name, row in table.items() if not only or name in only]
        if only and not rows:
            continue
        yield Bar(kind, len(rows), len(rows) if only else len(names), "higher")
        yield from judged(kind, rows, [play(row, f"{number}/{len(rows)}") for number, row in enumerate(rows, 1)])
        report(f"{kind}: {spent(began)}")


def _named() -> list[str]:
    """Return the names of rows behind `--only`. Ends the program at one that no row has."""
    only = [name for name in option("--only").split(",") if name]
    if unknown := set(only) - {name for table, _ in TABLES.values() for name in table}:
        sys.exit(f"No row is called {' or '.join(sorted(unknown))}.")
    return only


def judged(kind: str, rows: Sequence[RemedyCase], outcomes: Sequence[CaseOutcome]) -> list[Bar]:
    """Return the bars of a table from the result of each row; a reason without a row counts as missing."""
    counts = Counter(map(_state, rows))
    excused, booted, missing = counts["excused"], counts["booted"], counts["not made"]
    here = len(rows) - booted - excused
    shown = [played for row, played in zip(rows, outcomes, strict=True) if played.shown == (row.name,)]
    cured = sum(1 for played in shown if played.cured or played.person)
    return [
        Bar(f"{kind}: shown", len(shown), here, "higher"),
        Bar(f"{kind}: cured, or the person named who can", cured, here, "higher"),
        Bar(f"{kind}: booted", booted, None, "higher"),
        Bar(f"{kind}: excused", excused, EXCUSED_MAX[kind], "lower"),
        Bar(f"{kind}: not made", missing, 0, "lower"),
        Bar(f"{kind}: shown + booted + excused", len(shown) + booted + excused, len(rows), "higher"),
    ]


def _state(row: RemedyCase) -> str:
    if row.excused:
        return "excused"
    if row.played_by:
        return "booted"
    return "not made" if row.play is None else "played here"


def play(row: RemedyCase, number: str) -> CaseOutcome:
    """Play one row in a folder of its own; what fails is reported, and the sweep continues."""
    if row.play is None:
        why = f"excused: {row.excused}" if row.excused else f"played by {row.played_by}" if row.played_by else ""
        report(f"[{number}] {row.name}: {why or 'not made yet'}")
        return CaseOutcome((), cured=False)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="remedies-") as folder:
        try:
            played = row.play(Path(folder))
        except Exception as error:  # noqa: BLE001 - whatever a row ends with is its result
            report(f"[{number}] {row.name}: {type(error).__name__}: {error}")
            return CaseOutcome((), cured=False)
    verdict = "cured" if played.cured else f"named: {played.person}" if played.person else "NOT CURED"
    shown = "shown" if played.shown == (row.name,) else f"SHOWN {' '.join(played.shown) or 'nothing'}"
    report(f"[{number}] {row.name}: {shown}, {verdict} ({time.monotonic() - began:.1f} s)")
    return played


def spent(began: float) -> str:
    """Return the time since `began`, and that of the processor: of daemons and commands that somebody waited for."""
    return f"{(time.monotonic() - began) / 60:.1f} min so far, {sum(os.times()[:4]) / 60:.1f} min of processor"


def report(line: str) -> None:
    """Show progress, apart from the bars."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(measure))
