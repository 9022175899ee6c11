"""The counts of the benchmark that carries out the remedies of all reasons and findings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.remedies import judged
from tests.support.reason_cases import CaseOutcome, RemedyCase

NOT_PLAYED = CaseOutcome((), cured=False)


def never(_: object) -> CaseOutcome:
    """Replace a case's player; the test supplies the outcome."""
    return NOT_PLAYED


def test_each_remedy_case_counts_exactly_once():
    """Each remedy case counts once, as shown, played on a booted machine or excused; a case that is not implemented
    misses the bars."""
    rows = [
        RemedyCase("cured", "technician", never),
        RemedyCase("named", "technician", never),
        RemedyCase("booted", "technician", played_by="tests/e2e/test_booted_doctor.py::test"),
        RemedyCase("excused", "technician", excused="the kernel is the subject"),
    ]
    outcomes = [CaseOutcome(("cured",), cured=True), CaseOutcome(("named",), cured=False, person="the central team")]
    bars = judged("findings", rows, [*outcomes, NOT_PLAYED, NOT_PLAYED])
    assert [2.0, 2.0, 1.0, 1.0, 0.0, 4.0] == [bar.value for bar in bars]
    assert all(bar.ok for bar in bars)
    without = judged("findings", [*rows, RemedyCase("new", "technician")], [*outcomes, *[NOT_PLAYED] * 3])
    missed = ["findings: shown", "findings: cured, or the person named who can", "findings: not made"]
    assert [*missed, "findings: shown + booted + excused"] == [bar.bar for bar in without if not bar.ok]


@pytest.mark.slow
def test_unknown_remedy_case_is_an_error() -> None:
    """`--only` with an unknown name ends the benchmark with exit code 1 and names the case, because an empty run is not
    a success."""
    command = [sys.executable, "-m", "benchmarks.remedies", "--only", "NO_SUCH_REASON"]
    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=False)
    assert (1, "No row is called NO_SUCH_REASON.\n") == (done.returncode, done.stderr)
