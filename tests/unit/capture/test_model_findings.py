"""Findings of a redaction model: the texts that it reads, the windows of a long one, and the union with the rules."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.capture.redact.model_findings import (
    FoundValue,
    ModelFindings,
    join_windows,
    texts_of_value,
    windows,
)
from edge_agent.capture.redact.redactor import RedactionSession, Redactor
from edge_agent.errors import RedactionHeld

CARD = "4111 1111 1111 1111"


def redacted(text: str, *found: tuple[str, str], more: dict[str, tuple[FoundValue, ...]] | None = None) -> str:
    """Redact a text in which the model found these values, each with its type."""
    return session(text, *found, more=more).text(text)


def session(
    text: str, *found: tuple[str, str], more: dict[str, tuple[FoundValue, ...]] | None = None
) -> RedactionSession:
    """Start a session of a text with findings."""
    spans = tuple(FoundValue(text.index(value), text.index(value) + len(value), label) for value, label in found)
    return Redactor().start(findings=ModelFindings({text: spans, **(more or {})}, "pii@1.0.0"))


def test_findings_of_rules_and_model_are_united():
    """Values that either finds are replaced, each counted under its own name."""
    text = f"Anna pays with {CARD}"
    made = session(text, ("Anna", "GIVEN_NAME"))
    assert "[GIVEN_NAME_1] pays with [CARD_1]" == made.text(text)
    assert {"model:given_name": 1, "card": 1} == made.counts


def test_overlapping_findings_are_replaced_completely():
    """If a rule and the model find different parts of a value, no character of either part remains."""
    assert "[CARD_1], thanks" == redacted(f"no {CARD}, thanks", (f"no {CARD[:9]}", "BANK_ACCOUNT"))
    assert "[STREET_NAME_1]" == redacted("mail a@b.example now", ("mail a@b.example now", "STREET_NAME"))


def test_a_label_becomes_a_word_of_a_placeholder():
    """An entity type of any name makes a placeholder that can be restored."""
    made = session("Zoë", ("Zoë", "prénom d'usage"))
    assert "[PR_NOM_D_USAGE_1]" == made.text("Zoë")
    assert "Zoë" == made.restore("[PR_NOM_D_USAGE_1]")


def test_a_value_found_in_one_text_is_replaced_in_the_others():
    """A name that the model found in the input is replaced in the answer, but not inside longer words."""
    made = session("Anna Meyer asks", ("Anna Meyer", "NAME"), more={"Ask Anna Meyer, not Anna Meyers": ()})
    assert "Ask [NAME_1], not Anna Meyers" == made.text("Ask Anna Meyer, not Anna Meyers")


def test_a_short_number_is_replaced_only_where_it_was_found():
    """A house number does not replace the same digits elsewhere in the example."""
    made = session("at 12 it", ("12", "BUILDING_NUMBER"), more={"12 kettles": ()})
    assert "12 kettles" == made.text("12 kettles")


def test_a_text_that_the_model_has_not_read_is_held():
    """A text that the model has not read raises RedactionHeld; a blank one does not."""
    made = session("Anna", ("Anna", "NAME"))
    assert " " == made.text(" ")
    with pytest.raises(RedactionHeld):
        made.text("Berta")


def test_placeholder_in_the_input_is_kept_and_not_reused():
    """A literal [NAME_1] in the input stays even if the model finds it, and the real name gets another number."""
    text = "is [NAME_1] Anna?"
    made = session(text, ("[NAME_1]", "NAME"), ("Anna", "NAME"))
    assert "is [NAME_1] [NAME_2]?" == made.text(text)
    assert text == made.restore("is [NAME_1] [NAME_2]?")


def test_a_record_is_read_key_by_key():
    """The model reads values after their keys, and keys alone; numbers are read as digits."""
    record = {"visit": {"patient_name": ["Anna"], "room": 12, "note": None, "Berta": True}}
    texts = ["visit", "patient_name", "patient name: Anna", "room", "room: 12", "note", "Berta"]
    assert texts == list(texts_of_value(record))
    found = dict.fromkeys(texts, ()) | {
        "patient name: Anna": (FoundValue(14, 18, "NAME"),),
        "Berta": (FoundValue(0, 5, "NAME"),),
        "room: 12": (FoundValue(0, 8, "ROOM"),),
    }
    made = Redactor().start(findings=ModelFindings(found)).value(record)
    expected = {"visit": {"patient_name": ["[NAME_1]"], "room": "[ROOM_1]", "note": None, "[NAME_2]": True}}
    assert json.dumps(expected) == json.dumps(made)


def test_trace_has_the_source_of_each_value():
    """The trace of each replaced value has whether rules, the model or both found it, and the model's probability."""
    text = f"Anna {CARD}"
    found = (FoundValue(0, 4, "NAME", 0.9), FoundValue(5, 9, "BANK", 0.4))
    after, values = Redactor().start(findings=ModelFindings({text: found})).trace(text)
    assert "[NAME_1] [CARD_1]" == after
    sources = [(each.placeholder, each.by_rules, each.by_model, each.score) for each in values]
    assert [("[NAME_1]", False, True, 0.9), ("[CARD_1]", True, True, 0.4)] == sources


@given(st.text("ab \n1é\u0301👩\u200d", max_size=400), st.integers(8, 120))
def test_windows_cover_a_text_and_overlap(text: str, most: int):
    """Every window fits, every character is in one, and a value up to the overlap is complete in one of two
    neighbours."""
    found = windows(text, most)
    assert (0, len(text)) == (found[0][0], found[-1][1])
    assert all(end - start <= most for start, end in found)
    assert all(right[0] <= left[1] - most // 4 for left, right in itertools.pairwise(found))


def test_a_megabyte_has_a_bounded_number_of_windows():
    """1 MB of text without spaces is divided into a bounded number of windows; with spaces it is divided between
    words."""
    assert len(windows("x" * 2**20)) < 2 * 2**20 / (640 // 2)
    words = "seven words or so " * 1000
    assert all(words[start - 1].isspace() for start, _ in windows(words)[1:])


def test_parts_of_a_value_from_two_windows_are_joined():
    """Overlapping findings of two windows are joined; adjacent ones stay separate."""
    halves = [FoundValue(10, 20, "NAME", 0.9), FoundValue(10, 24, "STREET", 0.8), FoundValue(24, 30, "NAME", 0.7)]
    assert (FoundValue(10, 24, "STREET", 0.9), FoundValue(24, 30, "NAME", 0.7)) == join_windows(halves)
