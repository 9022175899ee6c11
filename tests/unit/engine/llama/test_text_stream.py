"""edge_agent/engine/runtimes/llama/token_probabilities.py"""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.runtimes.llama.token_probabilities import TextStream, whole_text


def fed(stops: list[str], *pieces: bytes) -> tuple[list[str], TextStream]:
    """Return what each piece gave, and what `finish` gave."""
    stream = TextStream(stops)
    return [*map(stream.feed, pieces), stream.finish()], stream


def test_plain_text_passes_at_once() -> None:
    """Text that can become no stop string is not held back."""
    texts, stream = fed(["###"], b"one", b" two")
    assert texts == ["one", " two", ""]
    assert not stream.stopped


def test_half_a_character_waits_for_its_rest() -> None:
    """An emoji in three pieces comes out once, whole."""
    coffee = "☕".encode()
    assert fed([], b"a" + coffee[:1], coffee[1:2], coffee[2:] + b"b")[0] == ["a", "", "☕b", ""]


def test_half_a_character_at_the_end_is_dropped() -> None:
    """A generation cut off inside a character ends with the last whole one."""
    assert fed([], b"ok" + "é".encode()[:1])[0] == ["ok", ""]


def test_broken_bytes_become_replacement_characters() -> None:
    """Bytes that are no UTF-8 do not end the stream."""
    assert fed([], b"a\xffb")[0] == ["a\N{REPLACEMENT CHARACTER}b", ""]


def test_stop_across_pieces_is_found() -> None:
    """A stop string that comes in three pieces ends the text before it, and nothing of it is ever given."""
    texts, stream = fed(["\nUser:"], b"Hello\n", b"Us", b"er: more", b"!")
    assert texts == ["Hello", "", "", "", ""]
    assert stream.stopped


def test_false_start_of_a_stop_is_given_later() -> None:
    """What only looked like a stop string comes out when that is clear."""
    assert fed(["\nUser:"], b"a\nUs", b"ual")[0] == ["a", "\nUsual", ""]


def test_start_of_a_stop_at_the_end_is_given_by_finish() -> None:
    """A generation that ends inside a possible stop string keeps that text."""
    assert fed(["END"], b"the EN")[0] == ["the ", "EN"]


def test_earliest_stop_wins() -> None:
    """Of two stop strings in one piece, the first in the text counts."""
    assert fed(["zz", "b"], b"aabzz")[0] == ["aa", ""]


@pytest.mark.parametrize("stops", [[], ["ab"], ["aab", "ba"], ["aaaa", "b"]])
@given(text=st.text(alphabet="abé☕", max_size=30), cuts=st.lists(st.integers(0, 60), max_size=8))
def test_pieces_do_not_matter(stops: list[str], text: str, cuts: list[int]) -> None:
    """However the bytes are cut, nothing of a stop string comes out, and nothing before it is lost."""
    data = text.encode()
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    texts, _ = fed(stops, *(data[start:end] for start, end in itertools.pairwise(edges)))
    # One byte at a time finds the stop that is complete first: the reference for any other cut.
    found = {("".join(fed(stops, data)[0])), "".join(fed(stops, *(bytes([byte]) for byte in data))[0])}
    assert "".join(texts) in found
    assert all(stop not in "".join(texts) for stop in stops)


@given(st.lists(st.binary(min_size=1, max_size=4), max_size=20), st.sampled_from([[], ["###"]]))
def test_text_that_is_known_changes_nothing(pieces: list[bytes], stops: list[str]) -> None:
    """Whatever stood before, and whatever could be held back."""
    told = TextStream(stops)
    assert fed(stops, *pieces)[0] == [*(told.feed(piece, whole_text(piece)) for piece in pieces), told.finish()]
