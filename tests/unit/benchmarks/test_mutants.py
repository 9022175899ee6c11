"""The deliberate faults of scripts/bench mutants fit the current sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import MUTANTS, Mutant, place_of

ROOT = Path(__file__).parents[3]


def test_each_fault_matches_exactly_one_place() -> None:
    """The text of each fault occurs exactly once in the sources; a missing text would end the benchmark after many
    minutes."""
    places = [place_of(mutant, ROOT) for mutant in MUTANTS]
    assert len(MUTANTS) == len(places)
    with pytest.raises(LookupError, match="stands 0 times"):
        place_of(Mutant("gone", "no such " + "text in the sources", ""), ROOT)


def test_filter_that_matches_no_fault_is_an_error() -> None:
    """A filter that matches no fault ends the benchmark with exit code 1 and the list of faults; otherwise none would
    survive and the bar would be met."""
    command = [sys.executable, "-m", "benchmarks.mutants", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("No fault has nonsense in its name; there are: ")
