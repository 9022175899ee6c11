"""The review form of an answer, and the verdict that it sends."""

from datetime import UTC, datetime

import pytest

from edge_agent.client import BundleRef, Feedback, Prediction
from edge_agent.web.review_page import (
    ReviewerJudgement,
    ReviewFormInvalid,
    make_review_form,
    parse_judgement,
    readable_output,
)

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
REF = BundleRef("pos", "1.0.0", "ab" * 32)
CERTIFICATES = {"certificate_file": "a.crt", "key_file": "a.key", "client_ca_file": "ca.crt"}


def prediction(**changed: object) -> Prediction:
    plain = {
        "prediction_id": "p-1",
        "bundle": REF,
        "kind": "CLASSIFY",
        "input": "I want my money back",
        "output": "refund",
        "confidence": 0.7,
        "threshold": 0.8,
        "below_threshold": True,
        "route": "LOCAL",
        "answer_time": NOW,
        "labels": ("refund", "price", "hours"),
        "scores": (("refund", 0.7), ("price", 0.2)),
        "feedback": (),
        "reviewed": False,
    }
    return Prediction(**{**plain, **changed})  # type: ignore[arg-type]


def test_form_shows_the_local_answer_next_to_the_large_models():
    """If the large model answered, the form shows its name and answer beside the local answer."""
    item = make_review_form(prediction(teacher_answer="refund", teacher_model="large-1", local_answer="price"))
    assert ("refund", "large-1", "price") == (item.output, item.teacher_model, item.local_answer)
    alone = make_review_form(prediction(local_answer="refund"))
    assert ("", "") == (alone.teacher_model, alone.local_answer)


def test_each_label_has_a_key():
    """Labels have the keys 1 to 9 and a to z in the order of the task; further labels are typed."""
    labels = tuple(f"label-{number}" for number in range(40))
    laid = make_review_form(prediction(labels=labels, output="label-2"))
    assert "123456789abcdefghijklmnopqrstuvwxyz" == "".join(choice.key for choice in laid.choices)
    assert ["label-2"] == [choice.label for choice in laid.choices if choice.is_answer]
    assert (True, "below threshold", "") == (laid.has_more_labels, laid.confidence_label, laid.edited_format)
    few = make_review_form(prediction())
    assert [0.7, 0.2, None] == [choice.score for choice in few.choices]
    assert not few.has_more_labels


def test_records_and_texts_are_edited():
    """A record is shown with one field a line and a text unchanged; neither has label keys, and invalid JSON is shown
    as it is."""
    record = make_review_form(prediction(kind="EXTRACT", output='{"a":1,"b":"ä"}', labels=("x",), confidence=None))
    assert ('{\n  "a": 1,\n  "b": "ä"\n}', (), "") == (record.output, record.choices, record.confidence_label)
    assert "the right JSON object" == record.edited_format
    assert "{broken" == readable_output("EXTRACT", "{broken")
    assert "the right text" == make_review_form(prediction(kind="GENERATE")).edited_format


def test_form_shows_earlier_feedback():
    """Whoever corrects a correction sees it."""
    before = (Feedback("f", "anna", NOW, "corrected", "price"), Feedback("g", "ben", NOW, "accept", ""))
    assert "anna: corrected price; ben: accept" == make_review_form(prediction(feedback=before)).earlier_feedback
    assert "no threshold" == make_review_form(prediction(threshold=None)).confidence_label
    assert "confident" == make_review_form(prediction(below_threshold=False)).confidence_label


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ({"say": "accept"}, ReviewerJudgement("accept")),
        ({"label": "price", "answer": "refund"}, ReviewerJudgement("correct", "price")),
        ({"label": "refund", "answer": "refund"}, ReviewerJudgement("accept")),
        ({"text": "a\r\nb", "answer": "a\nb"}, ReviewerJudgement("accept")),
        ({"text": "new", "answer": "old"}, ReviewerJudgement("correct", "new")),
        ({"say": "reject", "reason": " off topic "}, ReviewerJudgement("reject", "off topic")),
        ({"say": "reject"}, ReviewerJudgement("reject", "no reason given")),
    ],
)
def test_form_yields_one_verdict(form, expected):
    """Submitting the shown answer accepts it; a reason is optional."""
    assert expected == parse_judgement(form)


@pytest.mark.parametrize("form", [{}, {"say": "maybe"}, {"label": " ", "answer": "x"}, {"text": "", "answer": "x"}])
def test_form_without_a_verdict_is_refused(form):
    """A form without a verdict, or with an empty answer, is refused and nothing is stored."""
    with pytest.raises(ReviewFormInvalid):
        parse_judgement(form)


def test_verdict_is_shown_in_one_line():
    """What was said stands in the list in a line."""
    assert "right" == ReviewerJudgement("accept").summary
    assert "wrong: why" == ReviewerJudgement("reject", "why").summary
    assert ("x" * 79 + "…") == ReviewerJudgement("correct", "x" * 200).summary


@pytest.mark.parametrize(("probability", "number"), [(0.3, "3.33"), (0.01, "100"), (0.0004, "2\u202f500")])
def test_audit_form_shows_the_sampling_rate(probability, number):
    """The number of answers per drawn one is a plain number, also above a thousand."""
    form = make_review_form(prediction(sampling_probability=probability))
    assert f"random audit, one of {number} answers: please skip none" == form.stream_reason
