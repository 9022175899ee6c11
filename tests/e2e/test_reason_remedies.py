"""Each reason of the error catalogue appears where its fault is, alone, and its remedy works.

The cases are in tests/support/reason_cases; `scripts/bench remedies` runs them, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.errors import BY_REASON
from tests.support.reason_cases import CASES, CLIENT_REASONS

SAMPLE = ("MODEL_FAILED", "RECORD_INVALID", "UNREACHABLE", "UPSTREAM_MISSING")
"""What CI plays; all of them take minutes."""
PLAYED = [
    pytest.param(row.name, marks=pytest.mark.slow if row.name in SAMPLE else pytest.mark.release, id=row.name)
    for row in CASES.values()
    if row.play
]
EXCUSE_WORDS_MIN = 8


def test_every_reason_has_a_case() -> None:
    """Every reason of the error catalogue has a remedy case."""
    assert set(BY_REASON) | CLIENT_REASONS == set(CASES)


def test_each_case_is_run_or_has_an_excuse() -> None:
    """Each remedy case either runs or has a full sentence that explains why it cannot."""
    assert [] == [row.name for row in CASES.values() if bool(row.play) == bool(row.excused)]
    assert [] == [row.name for row in CASES.values() if row.excused and len(row.excused.split()) < EXCUSE_WORDS_MIN]


@pytest.mark.parametrize("reason", PLAYED)
def test_remedy_of_each_reason_works(reason: str, tmp_path: Path) -> None:
    """The fault shows exactly this reason, and its remedy, followed as printed, fixes it or names the person who
    can."""
    row = CASES[reason]
    assert row.play
    played = row.play(tmp_path)
    assert (reason,) == played.shown
    assert played.cured or played.person, f"the remedy of {reason} did not help"
