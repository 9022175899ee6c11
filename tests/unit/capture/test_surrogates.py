"""Made-up names in place of real ones: consistent, never in the text already, and put back whole."""

from __future__ import annotations

from edge_agent.capture.redact.model_findings import FoundValue, ModelFindings
from edge_agent.capture.redact.redactor import RedactionSession, Redactor
from edge_agent.capture.redact.surrogates import made_up, unfinished


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
    assert "Maria Fischer" == made_up("Anna Meyer", "NAME", "", (), first)
    assert "" == made_up("Anna 2", "NAME", "", (), first)


def test_an_answer_in_pieces_is_held_back_only_where_it_must_be():
    """What may become a made-up name or a placeholder waits for the next piece."""
    text = "ask Anna"
    made = session(text, ("Anna", "GIVEN_NAME"))
    made.text(text)
    assert ("Dear ", "Mar") == made.split("Dear Mar")
    assert ("Dear ", "Maria") == made.split("Dear Maria")
    assert ("Dear Marianne, see ", "[GIV") == made.split("Dear Marianne, see [GIV")
    assert 0 == unfinished("Dear Bo", ["Maria"])
