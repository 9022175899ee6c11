"""Hostile files of every kind that serve reads, read by its own code: each is read or refused with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.fuzzed_daemon import FuzzResults
from tests.support.hostile_carried import formats as carried_formats
from tests.support.hostile_files import Format, ReaderHung, formats, fuzz_file, outcome
from tests.support.hostile_state import formats as state_formats

QUICK, ALL = 12, 1000
BEGIN = 20  # the bench begins at 0: these are others


@pytest.mark.parametrize("cases", [QUICK, pytest.param(ALL, marks=pytest.mark.release)])
def test_hostile_files_are_read_or_refused(tmp_path: Path, cases: int) -> None:
    """Hostile files of twenty kinds cause no crash, no hang and no error without a reason."""
    found = FuzzResults()
    kinds = [*formats(tmp_path), *state_formats(tmp_path), *carried_formats(tmp_path)]
    for kind in kinds:
        fuzz_file(kind, 1 + cases * kind.share // 8, BEGIN, found)
    assert [] == found.defects
    assert {kind.name for kind in kinds} == {ended.rpartition(" ")[0] for ended in found.ended}


@pytest.mark.parametrize(
    ("raised", "said"), [(KeyError("a"), "KeyError"), (BaseException("panic"), "panic"), (SystemExit(1), "SystemExit")]
)
def test_unexpected_exception_is_a_defect(raised: BaseException, said: str) -> None:
    """The fuzzer counts every exception that is not one of the project's errors as a defect."""

    def read(_: object) -> None:
        raise raised

    _, defect = outcome(read, b"")
    assert said in defect


def test_hanging_reader_is_a_defect() -> None:
    """The fuzzer stops a reader that does not return in time and counts it as a defect."""

    def read(seconds: float) -> None:
        while seconds:
            pass

    how, defect = outcome(read, 1.0, seconds_max=0.1)
    assert (ReaderHung.__name__, True) == (how, "not read within" in defect)


@pytest.mark.release
def test_some_cases_of_each_kind_are_readable(tmp_path: Path) -> None:
    """Of each kind of file some fuzzed cases are read to the end, so the cases are not all invalid at the first
    byte."""
    found = FuzzResults()
    kinds: list[Format] = list(formats(tmp_path))
    for kind in kinds:
        fuzz_file(kind, 60, BEGIN, found)
    assert [] == [kind.name for kind in kinds if not found.ended[f"{kind.name} read"]]
