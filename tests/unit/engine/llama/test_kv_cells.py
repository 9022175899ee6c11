"""edge_agent/engine/runtimes/llama/kv_cells.py"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.kv_cells import KvCells

COUNT = 40


def test_tokens_get_the_lowest_free_cells() -> None:
    """In ascending order, into holes first."""
    cells = KvCells(10)
    assert [0, 1, 2, 3] == cells.take(4)
    cells.give([1, 2])
    assert (1, 8) == (cells.lowest, cells.free)
    assert [1, 2, 4] == cells.take(3)


def test_a_full_buffer_says_so() -> None:
    """The lowest free cell is then the one behind the last."""
    cells = KvCells(3)
    cells.take(3)
    assert (3, 0) == (cells.lowest, cells.free)


def test_held_cells_are_not_given_out() -> None:
    """They stay taken until they are given back together."""
    cells = KvCells(10)
    cells.take(6)
    cells.hold([1, 2])
    cells.hold([4])
    assert (3, 1, 6, 6) == (cells.held, cells.lowest_held, cells.taken, cells.lowest)
    cells.give_held()
    assert (0, 10, 3, 1) == (cells.held, cells.lowest_held, cells.taken, cells.lowest)
    assert [1, 2, 4, 6] == cells.take(4)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_cells_are_those_of_a_search_from_the_bottom(moves: list[tuple[bool, int]]) -> None:
    """Whatever is taken and given back: what a search through all cells finds is what is taken."""
    cells, taken = KvCells(COUNT), list[list[int]]()
    free = set(range(COUNT))
    for take, size in moves:
        if take and size <= len(free):
            expected = sorted(free)[:size]
            assert expected == cells.take(size)
            free -= set(expected)
            taken.append(expected)
        elif taken:
            back = taken.pop(size % len(taken))
            cells.give(back)
            free |= set(back)
        assert (min(free, default=COUNT), len(free)) == (cells.lowest, cells.free)
        assert COUNT - len(free) == cells.taken
