"""Rows without the values that the rules of redaction find: consistent in a row, with spans in their places."""

from __future__ import annotations

from convert.data.data_row import ChatMessage, DataRow, TextSpan
from convert.dataset.row_redaction import RowRedactor

CARD = "4111 1111 1111 1111"
MAIL = "anna.mueller@praxis-nord.de"


def redacted(row: DataRow) -> DataRow:
    """Redact one row that can be redacted."""
    found = RowRedactor().redact(row)
    assert found is not None
    return found.row


def test_a_value_is_replaced_by_another_one_of_its_type():
    """Neither the card nor the address is left; what is not personal stays, and the counts name the rules."""
    redactor = RowRedactor()
    found = redactor.redact(DataRow(f"charge {CARD} and write to {MAIL}", "refund"))
    assert found is not None
    assert found.row.text.startswith("charge ")
    assert " and write to " in found.row.text
    assert not {CARD, MAIL} & {found.row.text[7:26], found.row.text.split()[-1]}
    assert {"card": 1, "email": 1} == dict(found.counts)
    assert (1, 1, 2) == (redactor.counts.rows, redactor.counts.replaced_rows, sum(redactor.counts.rules.values()))


def test_a_row_without_values_is_unchanged():
    """The same object comes back."""
    row = DataRow("two kettles, article 4711", "price")
    assert row is redacted(row)


def test_an_answer_repeats_the_surrogate_of_the_text():
    """Also where the answer alone would not tell what the value is."""
    row = redacted(DataRow(f"mail {MAIL}", completion=f'{{"to": "{MAIL}"}}'))
    assert f'{{"to": "{row.text.removeprefix("mail ")}"}}' == row.completion
    turns = (ChatMessage("user", f"mail {MAIL}"), ChatMessage("assistant", MAIL))
    talk = redacted(DataRow(turns[0].content, completion=MAIL, messages=turns))
    assert [talk.text, talk.completion] == [turn.content for turn in talk.messages]
    assert MAIL not in talk.text + talk.completion


def test_spans_move_with_their_text():
    """A span of a replaced value names the surrogate, and one behind it names the same words as before."""
    text = f"mail {MAIL} about the kettle"
    at = text.index("kettle")
    row = redacted(DataRow(text, spans=(TextSpan(5, 5 + len(MAIL), "to"), TextSpan(at, at + 6, "item"))))
    first, second = (row.text[span.start : span.end] for span in row.spans)
    assert (row.text.split()[1], "kettle") == (first, second)
    assert MAIL != first


def test_a_span_that_ends_inside_a_value_makes_the_row_unusable():
    """The row is left out and counted: nobody knows what the span names then."""
    redactor = RowRedactor()
    assert None is redactor.redact(DataRow(f"mail {MAIL}", spans=(TextSpan(0, 8, "to"),)))
    assert 1 == redactor.counts.unusable


def test_the_same_row_gets_the_same_surrogates():
    """A bundle that is made again is the same bundle."""
    row = DataRow(f"charge {CARD}")
    assert redacted(row) == redacted(row)
