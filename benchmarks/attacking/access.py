"""Every call of the daemon by every kind of caller, held against the documented table."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.bars import Bar
from tests.support.access_matrix import AccessMatrix

CELLS_MIN = 299
"""23 calls by 13 callers; what the protocol gains comes on top."""


def measure() -> list[Bar]:
    """Make them; cells that differ are named on standard error."""
    with tempfile.TemporaryDirectory() as folder, AccessMatrix(Path(folder)) as matrix:
        cells = list(matrix.cells())
        effects = int(matrix.drained())
    wrong = [str(cell) for cell in cells if cell.wrong]
    print(*wrong, sep="\n", end="\n" if wrong else "", file=sys.stderr)  # noqa: T201
    tried = {(cell.caller, cell.method) for cell in cells}
    return [
        Bar("access: cells of the matrix tried", len(tried), CELLS_MIN, "higher"),
        Bar("access: cells that differ from the table", len(wrong), 0, "lower"),
        Bar("access: calls that were refused and done all the same", effects, 0, "lower"),
    ]
