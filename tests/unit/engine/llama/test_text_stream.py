"""Streaming of generated text: split characters and stop strings across pieces."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.token_probabilities import TextStream, whole_text


def fed(stops: list[str], *pieces: bytes) -> tuple[list[str], TextStream]:
    """Return the text of each piece and of `finish`."""
    stream = TextStream(stops)
    return [*map(stream.feed, pieces), stream.finish()], stream


def test_plain_text_passes_at_once() -> None:
    """Text that cannot become a stop string is not held back."""
    texts, stream = fed(["###"], b"one", b" two")
    assert texts == ["one", " two", ""]
    assert not stream.stopped


def test_partial_character_waits_for_its_rest() -> None:
    """A character that arrives in three pieces is output once, complete."""
    coffee = "☕".encode()
    assert fed([], b"a" + coffee[:1], coffee[1:2], coffee[2:] + b"b")[0] == ["a", "", "☕b", ""]


def test_partial_character_at_the_end_is_dropped() -> None:
    """A generation that is cut off within a character ends with the last complete one."""
    assert fed([], b"ok" + "é".encode()[:1])[0] == ["ok", ""]


def test_broken_bytes_become_replacement_characters() -> None:
    """Bytes that are not UTF-8 become replacement characters and do not end the stream."""
    assert fed([], b"a\xffb")[0] == ["a\N{REPLACEMENT CHARACTER}b", ""]


def test_stop_across_pieces_is_found() -> None:
    """A stop string that arrives in three pieces ends the text before it, and no part of it is output."""
    texts, stream = fed(["\nUser:"], b"Hello\n", b"Us", b"er: more", b"!")
    assert texts == ["Hello", "", "", "", ""]
    assert stream.stopped


def test_false_start_of_a_stop_is_output_later() -> None:
    """Text that only looked like the start of a stop string is output as soon as that is clear."""
    assert fed(["\nUser:"], b"a\nUs", b"ual")[0] == ["a", "\nUsual", ""]


def test_start_of_a_stop_at_the_end_is_output_by_finish() -> None:
    """A generation that ends within a possible stop string keeps that text."""
    assert fed(["END"], b"the EN")[0] == ["the ", "EN"]


def test_earliest_stop_wins() -> None:
    """Of two stop strings in one piece, the first one in the text counts."""
    assert fed(["zz", "b"], b"aabzz")[0] == ["aa", ""]


@pytest.mark.parametrize("stops", [[], ["ab"], ["aab", "ba"], ["aaaa", "b"]])
@given(text=st.text(alphabet="abé☕", max_size=30), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_output_does_not_depend_on_the_pieces(stops: list[str], text: str, cuts: list[int]) -> None:
    """However the bytes are split, no part of a stop string is output and no text before it is lost."""
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    texts, _ = fed(stops, *(data[start:end] for start, end in itertools.pairwise(edges)))
    # One byte at a time finds the stop that is complete first: the reference for any other cut.
    found = {("".join(fed(stops, data)[0])), "".join(fed(stops, *(bytes([byte]) for byte in data))[0])}
    assert "".join(texts) in found
    assert all(stop not in "".join(texts) for stop in stops)


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=20), st.sampled_from([[], ["###"]]))
def test_already_decoded_text_gives_the_same_output(pieces: list[bytes], stops: list[str]) -> None:
    """Passing the decoded text of a piece along with its bytes gives the same output as the bytes alone."""
    told = TextStream(stops)
    assert fed(stops, *pieces)[0] == [*(told.feed(piece, whole_text(piece)) for piece in pieces), told.finish()]
