"""Hostile files of every kind that serve reads, read by its own code: each is read, or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzzed_daemon import Found
from tests.support.hostile_carried import formats as carried_formats
from tests.support.hostile_files import Format, formats, fuzz_file, outcome
from tests.support.hostile_state import formats as state_formats

QUICK, ALL = 12, 1000
BEGIN = 20  # the bench begins at 0: these are others


@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.release)])
def test_no_file_is_more_than_refused(tmp_path: Path, cases: int) -> None:
    """Hostile files of twenty kinds: no crash, no hang, and no error without a name."""
    found = Found()
    kinds = [*formats(tmp_path), *state_formats(tmp_path), *carried_formats(tmp_path)]
    for kind in kinds:
        fuzz_file(kind, 1 + cases * kind.share // 8, BEGIN, found)
    assert [] == found.defects
    assert {kind.name for kind in kinds} == {ended.rpartition(" ")[0] for ended in found.ended}


@pytest.mark.parametrize(
    ("raised", "said"), [(KeyError("a"), "KeyError"), (BaseException("panic"), "panic"), (SystemExit(1), "SystemExit")]
)
def test_an_error_without_a_name_is_found(raised: BaseException, said: str) -> None:
    """The judge of the cases calls everything a defect that is not an error of the tree."""

    def read(_: object) -> None:
        raise raised

    _, defect = outcome(read, b"")
    assert said in defect


def test_a_reader_that_does_not_end_is_found() -> None:
    """It is ended, and called a defect."""

    def read(seconds: float) -> None:
        while seconds:
            pass

    how, defect = outcome(read, 1.0, seconds_max=0.1)
    assert ("Hung", True) == (how, "not read within" in defect)


@pytest.mark.release
def test_a_kind_of_file_has_cases_that_are_read(tmp_path: Path) -> None:
    """The cases are not all nonsense at the first byte: of each kind some are read to the end."""
    found = Found()
    kinds: list[Format] = list(formats(tmp_path))
    for kind in kinds:
        fuzz_file(kind, 60, BEGIN, found)
    assert [] == [kind.name for kind in kinds if not found.ended[f"{kind.name} read"]]
