"""The deliberate faults of scripts/bench mutants can be put into the sources as they are now."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.mutants import MUTANTS, Mutant, place_of

ROOT = Path(__file__).parents[3]


def test_every_fault_has_a_place() -> None:
    """Its text stands once in the sources; one that stood nowhere would end the benchmark after many minutes."""
    places = [place_of(mutant, ROOT) for mutant in MUTANTS]
    assert len(MUTANTS) == len(places)
    with pytest.raises(LookupError, match="stands 0 times"):
        place_of(Mutant("gone", "no such " + "text in the sources", ""), ROOT)


def test_a_word_that_no_fault_has_in_its_name_is_an_error() -> None:
    """Without a fault none would survive, and the bar would be met."""
    command = [sys.executable, "-m", "benchmarks.mutants", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (1, "") == (done.returncode, done.stdout)
    assert done.stderr.startswith("No fault has nonsense in its name; there are: ")
