"""The tree of label tokens: how its branches are split into steps."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.step_costs import ROWS_GROUP
from edge_agent.engine.runtimes.llama.token_probabilities import LABEL_TOKENS_MAX, LabelTree, TreeChunk
from edge_agent.errors import ModelLoadFailed

Tokens = tuple[int, ...]

PATHS = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=6).map(tuple), min_size=2, max_size=60, unique=True)
ROWS = st.integers(5, 20)


def tree_of(*paths: Tokens) -> LabelTree:
    """Return a tree whose labels are named after their tokens."""
    return LabelTree([str(path) for path in paths], paths)


def histories(chunk: TreeChunk) -> list[Tokens]:
    """Return the tokens that the batch puts into each of the chunk's sequences, and check that each of them may be put
    there."""
    sequences: list[Tokens] = [()] * chunk.branches
    for token, depth, first, last in zip(chunk.tokens, chunk.depths, chunk.first, chunk.last, strict=True):
        before = set(sequences[first:last])
        assert 1 == len(before), "sequences that share a row have the same history"
        assert depth == len(next(iter(before))), "a row stands right behind its parent"
        sequences[first:last] = [(*sequences[first], token)] * (last - first)
    return sequences


@given(PATHS, ROWS, st.integers(1, 8))
def test_each_branch_is_computed_in_one_sequence(paths: list[Tokens], rows_max: int, branches_max: int) -> None:
    """In chunks of any size every branch is built once, row by row, and no chunk exceeds its rows or sequences."""
    tree = tree_of(*paths)
    chunks = tree.chunks(rows_max, branches_max)
    assert list(tree.branches) == [history for chunk in chunks for history in histories(chunk)]
    assert all(len(chunk.tokens) <= rows_max and chunk.branches <= branches_max for chunk in chunks)


@given(PATHS, ROWS)
def test_logits_of_each_label_prefix_are_requested_once(paths: list[Tokens], rows_max: int) -> None:
    """However the tree is split, the logits of each node are requested once; a row that is computed again is not
    requested again."""
    tree = tree_of(*paths)
    chunks = tree.chunks(rows_max, rows_max)
    wanted = [node for chunk in chunks for node in chunk.nodes]
    beginnings = {path[:end] for path in paths for end in range(1, len(path))}
    assert list(range(1, len(beginnings) + 1)) == wanted
    assert all(len(chunk.tokens) == chunk.known + len(chunk.nodes) for chunk in chunks)


@given(PATHS, st.data())
def test_chunk_fills_the_rows_left_in_a_step(paths: list[Tokens], data: st.DataObject) -> None:
    """A chunk takes as many branches as fit into the rows of a step, except where the rows left without the last branch
    are whole groups of four."""
    tree = tree_of(*paths)
    if not tree.branches:
        return
    branch = data.draw(st.integers(0, len(tree.branches) - 1))
    rows_max = data.draw(st.integers(tree.rows_min(branch), 40))
    chunk = tree.chunk(branch, rows_max, 63)
    assert tree.rows_min(branch) <= len(chunk.tokens) <= rows_max
    if chunk.next == len(tree.branches):
        assert tree.rows(branch) == len(chunk.tokens)
    else:
        longest = max(len(tree.chunk(branch, room, 63).tokens) for room in range(tree.rows_min(branch), rows_max + 1))
        assert longest == len(chunk.tokens) or longest - 3 <= len(chunk.tokens)
        assert longest == len(chunk.tokens) or (rows_max - len(chunk.tokens)) % ROWS_GROUP == 0


def test_labels_share_their_common_prefixes() -> None:
    """The prefixes of "a b c d", "a b e f", "a g h" and "i" take 5 rows in 3 sequences; "a" belongs to all three
    sequences."""
    (chunk,) = tree_of((1, 2, 3, 4), (1, 2, 5, 6), (1, 7, 8), (9,)).chunks(63, 63)
    assert (1, 2, 3, 5, 7) == chunk.tokens
    assert (0, 1, 2, 2, 1) == chunk.depths
    assert (0, 0, 0, 1, 2) == chunk.first
    assert (3, 2, 1, 2, 3) == chunk.last


def test_split_tree_repeats_the_path_to_its_next_branch() -> None:
    """After a split behind "a b c" the next chunk computes "a b" again, and requests the logits of new rows only."""
    first, second, third = tree_of((1, 2, 3, 4), (1, 2, 5, 6), (1, 7, 8)).chunks(3, 63)
    assert ((1, 2, 3), 0, 1) == (first.tokens, first.known, first.next)
    assert ((1, 2, 5), 2, 2) == (second.tokens, second.known, second.next)
    assert ((1, 7), 1, 3) == (third.tokens, third.known, third.next)


def test_labels_that_differ_in_the_last_token_share_a_branch() -> None:
    """Nine labels "a b c", "a b d" and so on take one branch of two tokens; labels of one token take none."""
    assert ((1, 2),) == tree_of(*((1, 2, i) for i in range(9)), (5,)).branches
    assert () == tree_of((1,), (2,)).chunks(63, 63)


def test_label_that_is_a_prefix_of_another_has_no_branch() -> None:
    """The label "a b" is scored within the branch of "a b c d"."""
    assert ((1, 2, 3),) == tree_of((1, 2), (1, 2, 3, 4)).branches


def test_the_longest_label_fits_beside_streams() -> None:
    """A branch of the longest allowed label has LABEL_TOKENS_MAX - 1 rows, fewer than half of a step, so it fits next
    to streams that write text."""
    tree = tree_of(tuple(range(LABEL_TOKENS_MAX)), (1,))
    assert LABEL_TOKENS_MAX - 1 == tree.rows_min(0) == tree.rows(0)


def test_a_thousand_labels_take_a_few_steps() -> None:
    """A thousand labels of three words out of ten are 110 rows; splitting them into steps of 63 rows repeats one
    row."""
    tree = tree_of(*((a, b, c) for a in range(10) for b in range(10, 20) for c in range(10)))
    assert [63, 48] == [len(chunk.tokens) for chunk in tree.chunks(63, 63)]
    assert [110, 0] == [tree.rows(0), tree.rows(len(tree.branches))]


def test_labels_of_the_same_tokens_are_refused() -> None:
    """The error names two labels that are the same tokens, which the model cannot distinguish."""
    with pytest.raises(ModelLoadFailed, match="labels 'a' and 'b' are the same tokens"):
        LabelTree(["a", "b"], [(1, 2), (1, 2)])


@pytest.mark.parametrize("length", [0, LABEL_TOKENS_MAX + 1])
def test_labels_without_tokens_or_with_too_many_are_refused(length: int) -> None:
    """The error for a label without tokens or with too many has the count and the limit."""
    with pytest.raises(ModelLoadFailed, match=f"'long' has {length} tokens; 1 to {LABEL_TOKENS_MAX}"):
        LabelTree(["a", "long"], [(1,), tuple(range(length))])
