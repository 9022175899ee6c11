"""How a token classifier's output becomes the personal values of a text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.engine.protocol import EntitySpan
from edge_agent.engine.runtimes.onnx_outputs import (
    PersonalSpans,
    TagColumns,
    WordSpan,
    find_personal,
    grow,
    join_pieces,
)
from edge_agent.formats.calibration_and_gate import RedactionSection

TAGS = ("O", "B-NAME", "I-NAME", "B-CITY", "I-CITY")


def found(text: str, *shares: dict[str, float], cutoff: float = 0.5, labels: tuple[str, ...] = ()) -> PersonalSpans:
    """Decode the words of a text with one set of tag probabilities for each; the remaining probability is O."""
    words, place = [], 0
    for token, word in enumerate(text.split(" ")):
        words.append(WordSpan(token, place, place + len(word)))
        place += len(word) + 1
    table = np.zeros((len(words), len(TAGS)))
    for token, share in enumerate(shares):
        for tag, probability in share.items():
            table[token, TAGS.index(tag)] = probability
    table[:, 0] += 1.0 - table.sum(axis=1)
    section = RedactionSection(cutoff=cutoff, labels=labels)
    return find_personal(text, words, table, TagColumns(TAGS, section), cutoff)


def values(text: str, *shares: dict[str, float], **more: object) -> list[tuple[str, str]]:
    """Return label and text of each found value."""
    return [(each.label, text[each.start : each.end]) for each in found(text, *shares, **more).spans]  # type: ignore[arg-type]


def test_word_is_personal_from_the_cutoff_on() -> None:
    """A word is personal if the probabilities of all types together reach the cut-off."""
    torn = {"B-NAME": 0.2, "B-CITY": 0.15}
    assert [] == values("Jordan waits", torn, {}, cutoff=0.36)
    assert [("NAME", "Jordan")] == values("Jordan waits", torn, {}, cutoff=0.35)


def test_word_after_a_personal_one_needs_a_quarter_of_the_cutoff() -> None:
    """Words that follow a personal word need a quarter of the cut-off; a word on its own, or after one that is not
    personal, needs all of it."""
    sure, near = {"B-NAME": 0.5}, {"I-NAME": 0.125}
    assert [("NAME", "Jo van Dam")] == values("Jo van Dam", sure, near, near)
    assert [("NAME", "Dam")] == values("an old Dam", near, {"I-NAME": 0.12}, sure)
    assert [] == values("van Dam", near, near)


def test_only_configured_labels_are_redacted() -> None:
    """A type that the redaction section leaves out is not replaced, even if its probability is 1."""
    assert [("NAME", "Jo")] == values("Jo Rome", {"B-NAME": 1.0}, {"B-CITY": 1.0}, labels=("NAME",))


def test_bio_constraint_applies_to_values() -> None:
    """I-x continues only a value of type x: after a city, a slightly likelier I-NAME still continues the city."""
    shares = ({"B-CITY": 0.9}, {"I-NAME": 0.5, "I-CITY": 0.45})
    assert [("CITY", "New York")] == values("New York", *shares)
    assert [("NAME", "Jo"), ("NAME", "Al")] == values("Jo Al", {"B-NAME": 0.9}, {"B-NAME": 0.9})


def test_value_that_starts_with_an_inside_tag_is_found() -> None:
    """A run that starts with I-x is a value of type x, so a missing B tag loses nothing."""
    assert [("NAME", "Jo")] == values("ask Jo", {}, {"I-NAME": 0.9})


def test_margin_is_that_of_the_least_certain_word() -> None:
    """The margin is small if any word is near the cut-off or between two types, and 1 for an empty text."""
    assert 0.52 == pytest.approx(found("a b", {"B-NAME": 0.52}, {}).margin)
    assert 0.55 == pytest.approx(found("a", {"B-NAME": 0.55, "B-CITY": 0.45}).margin)
    assert 1.0 == found("", *()).margin


@pytest.mark.parametrize(
    ("text", "span", "expected"),
    [
        ("call 12a Main", (5, 7), "12a"),
        ("José\u0301 left", (0, 4), "José\u0301"),
        ("hi 👩🏽 Anna", (3, 4), "👩🏽"),
        ("Anna\u200dLena", (0, 4), "Anna\u200dLena"),
        ("ask Anna, now", (4, 7), "Anna"),
        ("田中さんは東京", (0, 2), "田中"),
        ("שלום דוד כהן", (5, 7), "דוד"),
    ],
)
def test_value_is_extended_to_whole_words(text: str, span: tuple[int, int], expected: str) -> None:
    """A value is extended so that no letter, digit, mark or part of an emoji of its words is left; in scripts without
    spaces it is not extended."""
    grown = grow(text, EntitySpan("NAME", *span, 1.0))
    assert expected == text[grown.start : grown.end]


def test_pieces_of_one_value_are_joined() -> None:
    """Two pieces of the same type with a hyphen or an apostrophe in between are joined; a space separates them."""
    text = "O'Neil Anna"
    pieces = [EntitySpan("NAME", 0, 1, 0.9), EntitySpan("NAME", 2, 6, 0.8), EntitySpan("NAME", 7, 11, 0.7)]
    assert [("O'Neil", 0.9), ("Anna", 0.7)] == [(text[e.start : e.end], e.score) for e in join_pieces(text, pieces)]


@given(st.text("aé\u0301 -👩🏽\u200d1田\n", max_size=30), st.data())
def test_spans_are_disjoint_in_order_and_never_shrink(text: str, data: st.DataObject) -> None:
    """For any output of the model, every word that it marked as personal is covered by ordered spans inside the text
    that do not overlap."""
    words = [WordSpan(place, place, place + 1) for place, each in enumerate(text) if not each.isspace()]
    firsts = [WordSpan(number, word.start, word.end) for number, word in enumerate(words)]
    flags = data.draw(st.lists(st.booleans(), min_size=len(firsts), max_size=len(firsts)))
    table = np.array([[0.0, 1.0, 0.0, 0.0, 0.0] if each else [1.0, 0, 0, 0, 0] for each in flags]).reshape(-1, 5)
    spans = find_personal(text, firsts, table, TagColumns(TAGS, RedactionSection()), 0.5).spans
    assert all(left.end <= right.start for left, right in itertools.pairwise(spans))
    covered = {place for each in spans for place in range(each.start, each.end)}
    assert {word.start for word, is_personal in zip(firsts, flags, strict=True) if is_personal} <= covered
    assert covered <= set(range(len(text)))
