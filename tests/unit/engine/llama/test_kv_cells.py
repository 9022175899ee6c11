"""Allocation of key-value cache cells, and the tree that finds stored prefixes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.kv_cells import KvCells, PrefixTree

COUNT = 40


def test_tokens_get_the_lowest_free_cells() -> None:
    """Tokens get the lowest free cells in ascending order, so freed gaps are filled first."""
    cells = KvCells(10)
    assert [0, 1, 2, 3] == cells.take(4)
    cells.give([1, 2])
    assert (1, 8) == (cells.lowest, cells.free)
    assert [1, 2, 4] == cells.take(3)


def test_full_cache_has_no_free_cells() -> None:
    """A full cache reports no free cells, and the cell behind the last one as the lowest free cell."""
    cells = KvCells(3)
    cells.take(3)
    assert (3, 0) == (cells.lowest, cells.free)


def test_held_cells_are_not_allocated() -> None:
    """Held cells stay taken until all of them are returned together."""
    cells = KvCells(10)
    cells.take(6)
    cells.hold([1, 2])
    cells.hold([4])
    assert (3, 1, 6, 6) == (cells.held, cells.lowest_held, cells.taken, cells.lowest)
    cells.give_held()
    assert (0, 10, 3, 1) == (cells.held, cells.lowest_held, cells.taken, cells.lowest)
    assert [1, 2, 4, 6] == cells.take(4)


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 9)), max_size=60))
def test_allocation_equals_a_linear_search(moves: list[tuple[bool, int]]) -> None:
    """For any sequence of allocations and releases the cells are those that a search from the lowest cell finds."""
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


ROOM = 1000
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=8)


def found(kept: PrefixTree, root: str, *tokens: int) -> tuple[bytes, int]:
    entry, shared = kept.longest(root, tokens)
    return (entry.state if entry else b""), shared


def test_longest_shared_prefix_is_found() -> None:
    """A stored entry serves prompts that continue after it, that end within it and that branch off within it."""
    kept = PrefixTree(ROOM)
    kept.put("r", (1, 2, 3, 4), b"long")
    kept.put("r", (1, 2), b"short")
    assert (b"long", 4) == found(kept, "r", 1, 2, 3, 4, 5)
    assert (b"long", 3) == found(kept, "r", 1, 2, 3)
    assert (b"long", 3) == found(kept, "r", 1, 2, 3, 9)
    assert (b"short", 2) == found(kept, "r", 1, 2)
    assert (b"", 0) == found(kept, "r", 2)


def test_adapters_do_not_share_prefixes() -> None:
    """A prefix that another adapter computed is never returned, and dropping one adapter's prefixes leaves the
    others."""
    kept = PrefixTree(ROOM)
    kept.put("a", (1, 2), b"a")
    kept.put("b", (1, 2), b"b")
    kept.drop("a")
    assert (b"", 0) == found(kept, "a", 1, 2)
    assert (b"b", 2) == found(kept, "b", 1, 2)
    assert (1, 1) == (len(kept), kept.bytes)


def test_least_recently_used_prefix_is_evicted() -> None:
    """The least recently used entry is evicted, and a lookup counts as use; an entry larger than the whole capacity is
    not stored and evicts nothing."""
    kept = PrefixTree(20)
    kept.put("r", (1,), bytes(10))
    kept.put("r", (2,), bytes(10))
    kept.longest("r", (1, 5))
    kept.put("r", (3,), bytes(10))
    kept.put("r", (4,), bytes(21))
    assert [1, 0, 1, 0] == [kept.longest("r", (first,))[1] for first in (1, 2, 3, 4)]
    assert 20 == kept.bytes


def test_same_prompt_is_stored_once() -> None:
    """A newer state of the same prompt replaces the older one."""
    kept = PrefixTree(ROOM)
    kept.put("r", (1, 2), b"old")
    kept.put("r", (1, 2), b"newer")
    assert (b"newer", 2) == found(kept, "r", 1, 2)
    assert (1, 5) == (len(kept), kept.bytes)


def test_clear_removes_all_prefixes() -> None:
    """`clear` removes all entries and their bytes."""
    kept = PrefixTree(ROOM)
    kept.put("r", (1, 2), b"x")
    kept.clear()
    assert (0, 0, (None, 0)) == (len(kept), kept.bytes, kept.longest("r", (1, 2)))


@given(st.lists(st.tuples(prompts, st.integers(1, 9), st.booleans()), max_size=40), st.integers(9, 60))
def test_prefix_tree_equals_a_full_search(moves: list[tuple[list[int], int, bool]], room: int) -> None:
    """After any sequence of insertions and evictions the tree returns an entry with the longest shared prefix, and the
    stored bytes stay within the capacity."""
    kept = PrefixTree(room)
    for tokens, size, asks in moves:
        if asks:
            entry, shared = kept.longest("r", tokens)
            assert shared == max((common(each.tokens, tokens) for each in kept._used), default=0)
            assert entry is None or common(entry.tokens, tokens) == shared
        else:
            kept.put("r", tokens, bytes(size))
        assert kept.bytes == sum(len(each.state) for each in kept._used) <= room


def common(one: tuple[int, ...], other: list[int]) -> int:
    pairs = list(zip(one, other, strict=False))
    return next((at for at, (left, right) in enumerate(pairs) if left != right), len(pairs))
