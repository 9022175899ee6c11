"""Placeholders and made-up names: typed, consistent, absent from the text, and restored completely."""

from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.capture.redact import RedactionRule
from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redact.redactor import (
    RedactionSession,
    Redactor,
    choose_surrogate,
    count_unfinished,
    name_detector,
)
from edge_agent.errors import ConfigInvalid


def first(_: int) -> int:
    """Draw the first free name."""
    return 0


def session(text: str, *found: tuple[str, str]) -> RedactionSession:
    """Start a redaction with made-up names, for a text in which the model found these values."""
    spans = tuple(FoundValue(text.index(value), text.index(value) + len(value), label) for value, label in found)
    return Redactor().start(findings=ModelFindings({text: spans}), draw=first)


def test_made_up_names_are_restored():
    """A name gets the same made-up name everywhere, in its case, and an answer gets the real ones back."""
    text = "Anna MEYER from York asks. Thank Anna!"
    made = session(text, ("Anna", "GIVEN_NAME"), ("MEYER", "SURNAME"), ("York", "CITY"))
    assert "Maria FISCHER from Marburg asks. Thank Maria!" == made.text(text)
    assert "Dear Anna MEYER, how is York?" == made.restore("Dear Maria FISCHER, how is Marburg?")
    assert "Mariana" == made.restore("Mariana")


def test_numbers_keep_their_placeholders():
    """Numbers, and types without a list of names, keep placeholders, because a reformatted number could not be
    restored."""
    text = "Anna, 020 7946 0958, card 4111 1111 1111 1111, Ltd"
    made = session(text, ("Anna", "GIVEN_NAME"), ("020 7946 0958", "PHONE"), ("Ltd", "COMPANY"))
    assert "Maria, [PHONE_1], card [CARD_1], [COMPANY_1]" == made.text(text)


def test_name_in_the_text_is_not_used_as_a_made_up_name():
    """A made-up name that already occurs in the text is not used."""
    text = "Anna and maria"
    made = session(text, ("Anna", "GIVEN_NAME"))
    assert "Jonas and maria" == made.text(text)
    assert "Anna and Maria" == made.restore("Jonas and Maria")


def test_placeholders_are_used_when_made_up_names_run_out():
    """Where every made-up name is in use, a placeholder stands for the next one."""
    names = [f"Name{chr(97 + number)}" for number in range(26)]
    text = " ".join(names)
    made = session(text, *((name, "GIVEN_NAME") for name in names))
    assert "[GIVEN_NAME_1] [GIVEN_NAME_2]" == " ".join(made.text(text).split()[-2:])
    assert text == made.restore(made.text(text))


def test_full_name_is_replaced_by_a_full_name():
    """A name of two words is replaced by one of two words."""
    assert "Maria Fischer" == choose_surrogate("Anna Meyer", "NAME", "", (), first)
    assert "" == choose_surrogate("Anna 2", "NAME", "", (), first)


def test_stream_is_held_back_only_at_a_possible_placeholder():
    """Only an end that may become a made-up name or placeholder waits for the next piece."""
    text = "ask Anna"
    made = session(text, ("Anna", "GIVEN_NAME"))
    made.text(text)
    assert ("Dear ", "Mar") == made.split("Dear Mar")
    assert ("Dear ", "Maria") == made.split("Dear Maria")
    assert ("Dear Marianne, see ", "[GIV") == made.split("Dear Marianne, see [GIV")
    assert 0 == count_unfinished("Dear Bo", ["Maria"])


NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname")
CARD, OTHER = "4111 1111 1111 1111", "5500 0000 0000 0004"


def test_values_become_typed_numbered_placeholders():
    """Each value gets a number within its type, and a repeated value keeps it."""
    redaction = Redactor().start()
    text = f"{CARD} or {OTHER}, not {CARD}; mail a@example.com"
    assert "[CARD_1] or [CARD_2], not [CARD_1]; mail [EMAIL_1]" == redaction.text(text)
    assert {"card": 3, "email": 1} == redaction.counts


def test_an_answer_shares_the_placeholders_of_its_input():
    """The same card has the same placeholder in input and answer."""
    redaction = Redactor().start()
    redaction.text(f"refund {CARD}")
    assert "[CARD_2] and [CARD_1]" == redaction.text(f"{OTHER} and {CARD}")


def test_value_found_in_one_text_is_replaced_in_the_next():
    """A value that was recognized by the words before it is replaced in later texts as a whole word."""
    redaction = Redactor().start()
    assert "my name is [NAME_1], born [DATE_1]" == redaction.text("my name is Anna, born 14.03.2024")
    assert "for [NAME_1], Annabel, [DATE_1]: 2" == redaction.text("for Anna, Annabel, 14.03.2024: 2")
    assert {"announced_name": 2, "birth_date": 2} == redaction.counts


def test_answer_is_redacted_again_with_later_findings():
    """Strings, numbers and keys are redacted again with values found later; existing placeholders stay."""
    redaction = Redactor().start()
    answer = redaction.value({"Anna": ["for Anna", 87654321], "card": CARD, "paid": True, "open": None})
    assert "Anna" in answer
    redaction.text("my name is Anna, customer number 87654321")
    expected = {"[NAME_1]": ["for [NAME_1]", "[RECORD_1]"], "card": "[CARD_1]", "paid": True, "open": None}
    assert expected == redaction.again(answer) == redaction.again(expected)
    assert {"card": 1, "announced_name": 3, "announced_number": 2} == redaction.counts


def test_placeholders_in_an_answer_are_restored():
    """Placeholders in a large model's answer become the real values; an unknown one stays."""
    redaction = Redactor().start()
    redaction.text(f"refund {CARD} to a@example.com")
    assert f"I refund {CARD}; told a@example.com; [CARD_9]" == redaction.restore(
        "I refund [CARD_1]; told [EMAIL_1]; [CARD_9]"
    )


def test_placeholder_in_the_text_is_not_reused():
    """A device that writes [CARD_1] itself does not get somebody's card number."""
    redaction = Redactor().start()
    redacted = redaction.text(f"is [CARD_1] the same as {CARD}?")
    assert "is [CARD_1] the same as [CARD_2]?" == redacted
    assert f"is [CARD_1] the same as {CARD}?" == redaction.restore(redacted)


def test_marked_fields_of_a_record_are_replaced_in_record_and_input():
    """The value of a marked field is redacted in record and input; other fields stay."""
    redaction = Redactor().start()
    record = redaction.fields(
        {"patient": ["Anna Meyer"], "age": 41, "drug": "ibuprofen", "none": None}, ["patient", "age"]
    )
    assert {"patient": ["[PATIENT_1]"], "age": "[AGE_1]", "drug": "ibuprofen", "none": None} == record
    assert "[PATIENT_1], [AGE_1], takes ibuprofen" == redaction.text("Anna Meyer, 41, takes ibuprofen")
    assert {"schema_field": 4} == redaction.counts


def test_numbers_nested_values_and_keys_are_redacted():
    """JSON numbers, nested values and keys are redacted, with the key as context, and found again in the input."""
    redaction = Redactor().start()
    record = {
        "phone": 491712345678,
        "count": 3,
        "paid": True,
        "cards": [{"no": 4111111111111111}, ["4111111111111111", 2.5, None]],
        "a@example.com": {"home_phone": "030 901820"},
    }
    assert {
        "phone": "[PHONE_1]",
        "count": 3,
        "paid": True,
        "cards": [{"no": "[CARD_1]"}, ["[CARD_1]", 2.5, None]],
        "[EMAIL_1]": {"home_phone": "[PHONE_2]"},
    } == redaction.value(record)
    assert "of [PHONE_1]" == redaction.text("of 491712345678")


def test_site_rule_reads_a_value_with_and_without_its_key():
    """A value is searched alone and after its key; a match that begins in the key ends in the value."""
    rules = [
        RedactionRule("ticket", "TICKET", lambda text: (match.span() for match in re.finditer(r"^T\d{4}$", text))),
        RedactionRule("bed", "BED", lambda text: (match.span() for match in re.finditer(r"bed: \d+", text))),
    ]
    redaction = Redactor(rules).start()
    assert {"no": "[TICKET_1]", "bed": "[BED_1]"} == redaction.value({"no": "T1234", "bed": 12})


def test_a_known_value_inside_a_larger_one_is_named_by_the_larger_one():
    """If a known value is part of a larger match, the larger match gives the placeholder its name."""
    redaction = Redactor().start()
    redaction.fields({"code": "1111"}, ["code"])
    assert "[CODE_1] and [CARD_1]" == redaction.text("1111 and 4111 1111 1111 1111")


@given(st.text(alphabet="0123456789 .-+@[]_/ABCDEabcdecomDE:\u00e9", max_size=200))
def test_restore_undoes_redaction(text):
    """Restoring the redacted text gives any text back."""
    redaction = Redactor().start()
    assert text == redaction.restore(redaction.text(text))


def test_missing_presidio_or_pipeline_is_a_configuration_error(tmp_path: Path):
    """The message says what is missing: the package, or the pipeline."""
    with pytest.raises(ConfigInvalid, match=r"examples\.presidio_pipeline") as caught:
        name_detector(tmp_path / "none")
    assert caught.value.remedy


@pytest.mark.release
@pytest.mark.skipif(not find_spec("presidio_analyzer"), reason="not installed: pip install '.[presidio]', 250 MB")
@pytest.mark.filterwarnings("ignore")
def test_presidio_finds_names_without_a_network(tmp_path: Path):
    """A pipeline from disk finds names without any network access."""
    asked: list[str] = []
    sys.addaudithook(lambda event, _: asked.append(event) if event in NETWORK else None)
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "PERSON", "pattern": "Anna Meyer"}, {"label": "GPE", "pattern": "Berlin"}])
    pipeline.to_disk(tmp_path / "names")
    redaction = Redactor(detector=name_detector(tmp_path / "names")).start()
    assert "[NAME_1] of [NAME_2] paid with [CARD_1]" == redaction.text(f"Anna Meyer of Berlin paid with {CARD}")
    assert [] == asked
    assert "presidio" in Redactor(detector=lambda _: iter(())).rule_names
