"""Every call by every kind of caller: over each socket, and over TCP with every kind of certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.server.roles import METHODS as TABLE
from tests.support.access_matrix import AccessMatrix, Cell
from tests.support.rpcs import METHODS, path_of

CALLERS = 13


@pytest.mark.slow
def test_every_caller_gets_what_is_documented_and_nothing_else(tmp_path: Path) -> None:
    """No certificate, one that is expired, foreign, the server's or of another role, and the wrong socket: refused."""
    with AccessMatrix(tmp_path) as matrix:
        cells = list(matrix.cells())
        assert not matrix.drained()
    assert [] == [str(cell) for cell in cells if cell.wrong]
    assert len(METHODS) * CALLERS == len({(cell.caller, cell.method) for cell in cells})


def test_a_cell_that_differs_is_found() -> None:
    """The matrix shows the expected and the actual result."""
    cell = Cell("nobody", "Drain", "denied", "let in")
    assert (True, "nobody calls Drain: let in; documented: denied") == (cell.wrong, str(cell))


def test_the_daemons_table_has_every_call() -> None:
    """A call that the protocol gains, and the table does not, may be made by nobody; this says so first."""
    assert sorted(map(path_of, METHODS)) == sorted(TABLE)
