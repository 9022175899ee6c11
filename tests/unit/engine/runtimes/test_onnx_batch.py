"""Which inputs an encoder computes together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.onnx_batch import ROWS_MAX, TOKENS_MAX, chosen, padded


def test_oldest_alone():
    """One waiting input is computed at once."""
    assert [0] == chosen([5], ROWS_MAX)


def test_nearest_in_length_first():
    """Of many waiting inputs those whose length is nearest to the oldest's go with it, older ones first."""
    assert [0, 3, 1, 5] == chosen([10, 12, 40, 10, 60, 8], 4)


def test_padding_bounds_the_batch():
    """An input that would stretch the batch over the token limit waits; shorter ones still go."""
    assert [0, 2] == chosen([200, TOKENS_MAX // 2 + 1, 190, 180], ROWS_MAX)


def test_long_input_goes_alone():
    """An input longer than the token limit is computed, and nothing with it."""
    assert [0] == chosen([TOKENS_MAX + 1, 1, 1], ROWS_MAX)


@given(st.lists(st.integers(1, 600), min_size=1, max_size=40), st.integers(1, ROWS_MAX))
def test_batches_keep_their_limits_and_starve_nobody(lengths, rows_max):
    """Whatever waits: the oldest is in, no input twice, and rows and padded tokens stay within their limits."""
    batch = chosen(lengths, rows_max)
    assert batch[0] == 0
    assert len(set(batch)) == len(batch) <= rows_max
    assert len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= TOKENS_MAX


def test_padding_is_zeros_behind():
    """Ids, mask and type ids keep their beginning and are filled up with zeros; the mask says what is filling."""
    ids, mask, types = padded([([7, 8, 9], [0, 0, 1]), ([5], [2])]).tolist()
    assert ([[7, 8, 9], [5, 0, 0]], [[1, 1, 1], [1, 0, 0]], [[0, 0, 1], [2, 0, 0]]) == (ids, mask, types)


def test_one_row_needs_no_padding():
    """One input is computed as it is, and all of it counts."""
    assert [[[7, 8]], [[1, 1]], [[0, 1]]] == padded([([7, 8], [0, 1])]).tolist()
