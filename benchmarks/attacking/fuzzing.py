"""Hostile requests to every call of a daemon, and hostile files of every kind to the code with which serve reads them.

Half of the cases each. A crash, a hang, UNKNOWN, INTERNAL and an error without a documented reason are all defects.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.attacking.held import held
from benchmarks.bars import Bar
from tests.support import hostile_carried, hostile_files, hostile_state
from tests.support.fuzzed_daemon import FuzzedDaemon, FuzzResults, fuzz, fuzzed, methods
from tests.support.fuzzing import AT_ONCE
from tests.support.hostile_files import Format, fuzz_file

CASES = 50_000
DEFECTS_SHOWN = 20
GROWTH_BYTES_MAX = 32 * 2**20
"""After the first tenth: allocators keep what they once had; a leak of a kilobyte a case would be 25 MB."""


def measure(cases: int = CASES) -> list[Bar]:
    """Fuzz; print the findings on standard error."""
    calls, files = FuzzResults(), FuzzResults()
    with tempfile.TemporaryDirectory() as path, fuzzed(Path(path)) as at:
        daemon_growth, well = _calls(at, cases // 2, calls)
    with tempfile.TemporaryDirectory() as path:
        reader_growth = _files(Path(path), cases - calls.cases, files)
    _tell((*calls.defects, *files.defects, *well))
    return [
        Bar("fuzzing: hostile requests and files", calls.cases + files.cases, cases, "higher"),
        Bar("fuzzing: calls that were reached", len(_names(calls)), len(methods()), "higher"),
        Bar("fuzzing: requests that showed a defect", len(calls.defects), 0, "lower"),
        Bar("fuzzing: files that showed a defect", len(files.defects), 0, "lower"),
        Bar("fuzzing: other callers disturbed", len(well), 0, "lower"),
        Bar("fuzzing: growth of the daemon, MB", daemon_growth / 2**20, GROWTH_BYTES_MAX / 2**20, "lower"),
        Bar("fuzzing: growth of the readers, MB", reader_growth / 2**20, GROWTH_BYTES_MAX / 2**20, "lower"),
    ]


def _calls(at: FuzzedDaemon, cases: int, found: FuzzResults) -> tuple[int, list[str]]:
    """Return the growth of the daemon's resources from a tenth of the run to its end, and the failures."""
    *first, last = methods()
    each = -(-cases // (len(first) + 1))
    for method in first:
        fuzz(at, method, each // 10, 0, found)
    before = at.resident_bytes()
    for method in first:
        fuzz(at, method, each - each // 10, AT_ONCE, found)
    after = at.resident_bytes()
    well = [at.well()]
    fuzz(at, last, each, 0, found)
    return after - before, [each for each in well if each]


def _files(folder: Path, cases: int, found: FuzzResults) -> int:
    kinds = [each for kind in (hostile_files, hostile_state, hostile_carried) for each in kind.formats(folder)]
    shares = sum(kind.share for kind in kinds)
    _each(kinds, cases / shares / 10, 0, found)
    before = _in_use()
    _each(kinds, cases / shares * 0.9, AT_ONCE, found)
    return _in_use() - before


def _in_use() -> int:
    """Return what this process holds, in bytes, less what malloc keeps for later: the daemon gives that back, too."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return held(os.getpid()).resident_bytes


def _each(kinds: Sequence[Format], cases_a_share: float, begin: int, found: FuzzResults) -> None:
    for kind in kinds:
        fuzz_file(kind, round(cases_a_share * kind.share + 0.5), begin, found)


def _names(found: FuzzResults) -> set[str]:
    return {ended.split()[0] for ended in found.ended}


def _tell(defects: Iterable[str]) -> None:
    """Name defects, alike ones once."""
    alike = {defect.partition("; case")[0]: defect for defect in defects}
    for defect in list(alike.values())[:DEFECTS_SHOWN]:
        print(defect, file=sys.stderr)  # noqa: T201
