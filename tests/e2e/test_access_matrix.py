"""The access matrix: every call by every kind of caller, over each socket and over TCP with every kind of
certificate."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.server.roles import METHODS as TABLE
from tests.support.access_matrix import AccessMatrix, Cell
from tests.support.rpcs import METHODS, path_of

CALLERS = 13


@pytest.mark.slow
def test_every_caller_gets_exactly_the_documented_access(tmp_path: Path) -> None:
    """The daemon refuses every call that the access matrix does not document: without a certificate, with an expired,
    foreign or server certificate, with another role, or on the wrong socket."""
    with AccessMatrix(tmp_path) as matrix:
        cells = list(matrix.cells())
        assert not matrix.drained()
    assert [] == [str(cell) for cell in cells if cell.wrong]
    assert len(METHODS) * CALLERS == len({(cell.caller, cell.method) for cell in cells})


def test_matrix_cell_shows_expected_and_actual_result() -> None:
    """A cell of the access matrix whose result differs from the documentation is wrong and shows both results."""
    cell = Cell("nobody", "Drain", "denied", "let in")
    assert (True, "nobody calls Drain: let in; documented: denied") == (cell.wrong, str(cell))


def test_permission_table_has_every_protocol_call() -> None:
    """Every call of the protocol is in the daemon's permission table; a new call that the table lacks would be denied
    to everybody."""
    assert sorted(map(path_of, METHODS)) == sorted(TABLE)
