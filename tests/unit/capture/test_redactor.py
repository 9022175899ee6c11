"""Made-up names in place of real ones: consistent, never in the text already, and put back whole.

Placeholders: typed, numbered, the same for the same value, and never confused with what stood in the text.
"""

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
    """Draw the first that is free."""
    return 0


def session(text: str, *found: tuple[str, str]) -> RedactionSession:
    """Start to redact a text in which the model found these values, with made-up names."""
    spans = tuple(FoundValue(text.index(value), text.index(value) + len(value), label) for value, label in found)
    return Redactor().start(findings=ModelFindings({text: spans}), draw=first)


def test_names_and_places_are_made_up_and_put_back():
    """The same name gets the same made-up one, in the case of the real one; an answer has the real ones again."""
    text = "Anna MEYER from York asks. Thank Anna!"
    made = session(text, ("Anna", "GIVEN_NAME"), ("MEYER", "SURNAME"), ("York", "CITY"))
    assert "Maria FISCHER from Marburg asks. Thank Maria!" == made.text(text)
    assert "Dear Anna MEYER, how is York?" == made.restore("Dear Maria FISCHER, how is Marburg?")
    assert "Mariana" == made.restore("Mariana")


def test_numbers_keep_their_placeholders():
    """A number that is reformatted would come back made up, so none is; nor is a type that no list has."""
    text = "Anna, 020 7946 0958, card 4111 1111 1111 1111, Ltd"
    made = session(text, ("Anna", "GIVEN_NAME"), ("020 7946 0958", "PHONE"), ("Ltd", "COMPANY"))
    assert "Maria, [PHONE_1], card [CARD_1], [COMPANY_1]" == made.text(text)


def test_a_name_that_the_text_has_is_not_made_up():
    """A text that imitates a made-up name gets nobody's real name put there."""
    text = "Anna and maria"
    made = session(text, ("Anna", "GIVEN_NAME"))
    assert "Jonas and maria" == made.text(text)
    assert "Anna and Maria" == made.restore("Jonas and Maria")


def test_more_names_than_there_are_keep_placeholders():
    """Where every made-up name is in use, a placeholder stands for the next one."""
    names = [f"Name{chr(97 + number)}" for number in range(26)]
    text = " ".join(names)
    made = session(text, *((name, "GIVEN_NAME") for name in names))
    assert "[GIVEN_NAME_1] [GIVEN_NAME_2]" == " ".join(made.text(text).split()[-2:])
    assert text == made.restore(made.text(text))


def test_a_full_name_stays_one():
    """A name of two words is replaced by one of two words."""
    assert "Maria Fischer" == choose_surrogate("Anna Meyer", "NAME", "", (), first)
    assert "" == choose_surrogate("Anna 2", "NAME", "", (), first)


def test_an_answer_in_pieces_is_held_back_only_where_it_must_be():
    """What may become a made-up name or a placeholder waits for the next piece."""
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
    """Each value has a number within its type, and a repeated one keeps it."""
    redaction = Redactor().start()
    text = f"{CARD} or {OTHER}, not {CARD}; mail a@example.com"
    assert "[CARD_1] or [CARD_2], not [CARD_1]; mail [EMAIL_1]" == redaction.text(text)
    assert {"card": 3, "email": 1} == redaction.counts


def test_an_answer_shares_the_placeholders_of_its_input():
    """The texts of one example speak of the same card by the same name."""
    redaction = Redactor().start()
    redaction.text(f"refund {CARD}")
    assert "[CARD_2] and [CARD_1]" == redaction.text(f"{OTHER} and {CARD}")


def test_what_one_text_tells_is_replaced_in_the_next():
    """A value that needs words before it to be found is found without them in a later text, as a whole word."""
    redaction = Redactor().start()
    assert "my name is [NAME_1], born [DATE_1]" == redaction.text("my name is Anna, born 14.03.2024")
    assert "for [NAME_1], Annabel, [DATE_1]: 2" == redaction.text("for Anna, Annabel, 14.03.2024: 2")
    assert {"announced_name": 2, "birth_date": 2} == redaction.counts


def test_a_redacted_answer_is_read_again_when_its_input_has_told_more():
    """Strings, numbers and keys, and no placeholder that is there already; what was replaced is counted once more."""
    redaction = Redactor().start()
    answer = redaction.value({"Anna": ["for Anna", 87654321], "card": CARD, "paid": True, "open": None})
    assert "Anna" in answer
    redaction.text("my name is Anna, customer number 87654321")
    expected = {"[NAME_1]": ["for [NAME_1]", "[RECORD_1]"], "card": "[CARD_1]", "paid": True, "open": None}
    assert expected == redaction.again(answer) == redaction.again(expected)
    assert {"card": 1, "announced_name": 3, "announced_number": 2} == redaction.counts


def test_an_answer_that_comes_back_is_restored():
    """What a large model says about placeholders becomes the real values, in memory."""
    redaction = Redactor().start()
    redaction.text(f"refund {CARD} to a@example.com")
    assert f"I refund {CARD}; told a@example.com; [CARD_9]" == redaction.restore(
        "I refund [CARD_1]; told [EMAIL_1]; [CARD_9]"
    )


def test_a_placeholder_in_the_text_is_not_given_again():
    """A device that writes [CARD_1] itself does not get somebody's card number put there."""
    redaction = Redactor().start()
    redacted = redaction.text(f"is [CARD_1] the same as {CARD}?")
    assert "is [CARD_1] the same as [CARD_2]?" == redacted
    assert f"is [CARD_1] the same as {CARD}?" == redaction.restore(redacted)


def test_marked_fields_of_a_record_are_replaced_in_record_and_input():
    """A field that the schema marks as personal is hidden wherever its value stands; others stay."""
    redaction = Redactor().start()
    record = redaction.fields(
        {"patient": ["Anna Meyer"], "age": 41, "drug": "ibuprofen", "none": None}, ["patient", "age"]
    )
    assert {"patient": ["[PATIENT_1]"], "age": "[AGE_1]", "drug": "ibuprofen", "none": None} == record
    assert "[PATIENT_1], [AGE_1], takes ibuprofen" == redaction.text("Anna Meyer, 41, takes ibuprofen")
    assert {"schema_field": 4} == redaction.counts


def test_numbers_nested_values_and_keys_of_a_record_run_through_the_rules():
    """A number becomes a placeholder, a key tells what its digits are, and what was found so is found in the input."""
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


def test_a_site_rule_that_reads_the_whole_text_reads_a_value_alone():
    """The key before it takes nothing from what is found without it, and what begins in the key ends in the value."""
    rules = [
        RedactionRule("ticket", "TICKET", lambda text: (match.span() for match in re.finditer(r"^T\d{4}$", text))),
        RedactionRule("bed", "BED", lambda text: (match.span() for match in re.finditer(r"bed: \d+", text))),
    ]
    redaction = Redactor(rules).start()
    assert {"no": "[TICKET_1]", "bed": "[BED_1]"} == redaction.value({"no": "T1234", "bed": 12})


def test_a_known_value_inside_a_larger_one_is_named_by_the_larger_one():
    """What a field holds is found again in the text; more around it is a rule's."""
    redaction = Redactor().start()
    redaction.fields({"code": "1111"}, ["code"])
    assert "[CODE_1] and [CARD_1]" == redaction.text("1111 and 4111 1111 1111 1111")


@given(st.text(alphabet="0123456789 .-+@[]_/ABCDEabcdecomDE:\u00e9", max_size=200))
def test_redaction_can_be_undone_and_repeated(text):
    """Whatever the text, restoring gives it back."""
    redaction = Redactor().start()
    assert text == redaction.restore(redaction.text(text))


def test_presidio_that_is_not_there_is_an_error_of_the_configuration(tmp_path: Path):
    """The message says what is missing: the package, or the pipeline."""
    with pytest.raises(ConfigInvalid, match=r"examples\.presidio_pipeline") as caught:
        name_detector(tmp_path / "none")
    assert caught.value.remedy


@pytest.mark.release
@pytest.mark.skipif(not find_spec("presidio_analyzer"), reason="not installed: pip install '.[presidio]', 250 MB")
@pytest.mark.filterwarnings("ignore")
def test_presidio_finds_names_without_a_network(tmp_path: Path):
    """A pipeline from disk, here one that knows a list of names; no address is resolved, nothing is connected to."""
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
