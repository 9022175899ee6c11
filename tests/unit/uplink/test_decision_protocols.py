"""The two wire formats for typed questions to a large model: requests and responses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edge_agent.uplink.escalation.decision_protocols import (
    DecisionProtocol,
    TypedAnswer,
    TypedQuestion,
    build_body,
    parse_answers,
)

INTENT = TypedQuestion("intent", "choice", "What is it about?", (("refund", "money back"), ("price", "")))
URGENT = TypedQuestion("urgent", "predicate", "It cannot wait.", (("no", ""), ("yes", "")))
SEVERITY = TypedQuestion("severity", "score", "How bad is it?", (("low", ""), ("high", "someone is hurt")))
ALL = (INTENT, URGENT, SEVERITY)
EXPECTED = (
    TypedAnswer("intent", (("refund", 0.75), ("price", 0.25))),
    TypedAnswer("urgent", (("no", 0.75), ("yes", 0.25))),
    TypedAnswer("severity", (("low", 0.5), ("high", 0.5))),
)
DECISIONS: dict[str, Any] = {
    "model": "big-1",
    "answers": [
        {
            "type": "choice",
            "name": "intent",
            "choice": "refund",
            "probabilities": [{"value": "refund", "probability": 0.75}, {"value": "price", "probability": 0.25}],
        },
        {"type": "predicate", "name": None, "probability": 0.25, "of_its_own": [1]},
        {
            "type": "score",
            "score": 0.5,
            "probabilities": [
                {"value": 0, "label": "low", "probability": 0.5},
                {"value": 1, "label": "high", "probability": 0.5},
            ],
        },
    ],
    "usage": {"input_tokens": 12, "output_tokens": 0},
}
SYSTEM_ONE: dict[str, Any] = {
    "model": "big-1",
    "answers": {
        "intent": {"type": "choice", "choice": "refund", "probabilities": {"refund": 0.75, "price": 0.25}},
        "urgent": {"type": "noul", "noul": 0.25},
        "severity": {"type": "score", "score": 0.5, "legend": {"0": "low"}, "probabilities": {"0": 0.5, "1": 0.5}},
    },
    "usage": {"input_tokens": 12, "output_tokens": 0},
}


@pytest.mark.parametrize(("protocol", "response"), [("decisions", DECISIONS), ("systemone", SYSTEM_ONE)])
def test_both_formats_give_the_same_answers(protocol: DecisionProtocol, response: dict[str, Any]) -> None:
    """Both formats yield 'no' and 'yes' for a predicate and the labels of the levels for a score."""
    found = parse_answers(protocol, json.dumps(response).encode(), ALL)
    assert ("big-1", EXPECTED, 12, 0) == (found.model, found.answers, found.input_tokens, found.output_tokens)


def test_questions_have_the_form_of_each_api() -> None:
    """Descriptions are included if there are any; a level without one is described by its label."""
    decisions = build_body("decisions", "big-1", "hello", ALL)["questions"]
    assert [{"value": "refund", "description": "money back"}, {"value": "price"}] == decisions[0]["choices"]
    assert [{"label": "low"}, {"label": "high", "description": "someone is hurt"}] == decisions[2]["levels"]
    system_one = build_body("systemone", "big-1", "hello", ALL)
    assert "hello" == system_one["state"]
    assert {"refund": "money back", "price": None} == system_one["questions"]["intent"]["criteria"]
    assert {"type": "noul", "instructions": "It cannot wait."} == system_one["questions"]["urgent"]
    assert ["low", "someone is hurt"] == system_one["questions"]["severity"]["criteria"]


@pytest.mark.parametrize("protocol", ["decisions", "systemone"])
def test_a_refusal_is_an_answer_without_probabilities(protocol: DecisionProtocol) -> None:
    """A refusal has no probabilities; in System One an answer may also be absent, as its official client allows."""
    refusal = {"type": "refusal"}
    answers: Any = [refusal] if protocol == "decisions" else {"intent": refusal}
    found = parse_answers(protocol, json.dumps({"answers": answers}).encode(), (INTENT,))
    assert ((TypedAnswer("intent"),), None) == (found.answers, found.input_tokens)
    if protocol == "systemone":
        assert () == parse_answers(protocol, b'{"answers": {}}', (INTENT,)).answers


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (b"<html>", "it is not JSON"),
        (b'{"answers": [{"type": "predicate", "probability": NaN}]}', "it is not JSON, or it holds NaN"),
        (b"[" * 100_000, "it is not JSON"),
        (b"\xff", "it is not JSON"),
        (b'{"answers": []}', "it has 0 answers to 1 questions"),
        (b'{"answers": [{"type": "box"}]}', "it breaks a rule of the API: union_tag_invalid"),
        (b'{"answers": [{"type": "predicate", "probability": 0.5}]}', "of another type than the question"),
        (b'{"answers": [{"type": "choice", "probabilities": "SECRET"}]}', "it breaks a rule of the API: tuple_type"),
        (b'{"answers": {}}', "it breaks a rule of the API: tuple_type"),
    ],
)
def test_invalid_response_is_refused_without_quoting_it(raw: bytes, problem: str) -> None:
    """The error has no text of the server, because it reaches logs."""
    with pytest.raises(ValueError, match="it") as raised:
        parse_answers("decisions", raw, (INTENT,))
    assert problem in str(raised.value)
    assert "SECRET" not in str(raised.value)


def test_unknown_level_is_refused() -> None:
    """A level that the question does not have is refused."""
    raw = json.dumps({"answers": {"severity": {"type": "score", "probabilities": {"0": 0.5, "2": 0.5}}}}).encode()
    with pytest.raises(ValueError, match="has a level that the question does not have"):
        parse_answers("systemone", raw, (SEVERITY,))
