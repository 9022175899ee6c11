"""Each reason of the catalogue of errors: it appears where its fault is, alone, and its remedy helps.

The rows are in tests/support/reason_cases; `scripts/bench remedies` plays them, too.
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


def test_every_reason_has_a_row() -> None:
    """A reason that is added to the catalogue needs one."""
    assert set(BY_REASON) | CLIENT_REASONS == set(CASES)


def test_a_row_is_played_or_says_why_not() -> None:
    """In a sentence, and never both."""
    assert [] == [row.name for row in CASES.values() if bool(row.play) == bool(row.excused)]
    assert [] == [row.name for row in CASES.values() if row.excused and len(row.excused.split()) < EXCUSE_WORDS_MIN]


@pytest.mark.parametrize("reason", PLAYED)
def test_the_remedy_of_a_reason_helps(reason: str, tmp_path: Path) -> None:
    """Exactly this reason appears; followed as printed its remedy cures, or names the person who can."""
    row = CASES[reason]
    assert row.play
    played = row.play(tmp_path)
    assert (reason,) == played.shown
    assert played.cured or played.person, f"the remedy of {reason} did not help"
