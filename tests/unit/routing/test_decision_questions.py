"""Probabilities of a large model are accepted only as a whole distribution over the options of their question."""

from __future__ import annotations

import math

import pytest

from edge_agent.formats.questions import QuestionSpec
from edge_agent.routing.decision_questions import ModelAnswer, read_distribution
from edge_agent.routing.large_model_questions import build_question, parse_typed_reply
from tests.unit.routing.test_large_model_questions import LABELS, RECORD, manifest

OPTIONS = ("refund", "price", "hours")
INTENT = QuestionSpec(name="intent", type="choice", instructions="What does the customer want?", labels=OPTIONS)
URGENT = QuestionSpec(name="urgent", type="predicate", instructions="It cannot wait.")
DECIDE = manifest("decide", questions=(INTENT, URGENT)).task


def answer(*numbers: float, options: tuple[str, ...] = OPTIONS) -> list[ModelAnswer]:
    return [ModelAnswer("intent", tuple(zip(options, numbers, strict=True)))]


def test_a_distribution_is_scaled_to_one_in_the_order_of_the_options() -> None:
    """Servers round, so a sum within 0.001 of 1 counts as 1."""
    found = read_distribution(INTENT, answer(0.2, 0.7, 0.1005, options=("price", "refund", "hours")))
    assert ("refund", "price", "hours") == tuple(option for option, _ in found)
    assert 1.0 == pytest.approx(sum(number for _, number in found), abs=1e-12)
    answers = [*answer(0.2, 0.7, 0.1005, options=("price", "refund", "hours")), ModelAnswer("urgent")]
    reply = parse_typed_reply(DECIDE, (INTENT, URGENT), answers)
    assert ({"intent": "refund"}, {"intent": found}) == (reply.answers, reply.probabilities)
    assert "it declined question 'urgent'" == reply.problem


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        (answer(math.nan, 0.5, 0.5), "a probability in its answer to question 'intent' is not a finite number"),
        (answer(math.inf, 0.5, 0.5), "is not a finite number of at least 0"),
        (answer(-0.1, 0.6, 0.5), "is not a finite number of at least 0"),
        (answer(0.3, 0.3, 0.3), "the probabilities in its answer to question 'intent' add up to 0.9 instead of 1"),
        (answer(0.5, 0.5, options=("refund", "price")), "its answer to question 'intent' lacks 1 of 3 options"),
        (answer(0.5, 0.3, 0.1, 0.1, options=(*OPTIONS, "other")), "has an option that is not one, or one twice"),
        (answer(0.5, 0.3, 0.1, 0.1, options=(*OPTIONS, "price")), "has an option that is not one, or one twice"),
        ([ModelAnswer("intent")], "it declined question 'intent'"),
        ([], "it gave 0 answers to question 'intent' instead of 1"),
        ([ModelAnswer("other", (("refund", 1.0),))], "it gave 0 answers to question 'intent'"),
        ([*answer(1.0, 0.0, 0.0), *answer(0.0, 1.0, 0.0)], "it gave 2 answers to question 'intent'"),
    ],
)
def test_anything_else_is_no_answer_and_named(answers: list[ModelAnswer], problem: str) -> None:
    """The problem names the question and the numbers, and nothing that the large model wrote."""
    reply = parse_typed_reply(DECIDE, (INTENT,), answers)
    assert ({}, {}) == (reply.answers, reply.probabilities)
    assert problem in reply.problem


def test_a_classify_task_asks_one_choice_and_other_kinds_none() -> None:
    """The question has the task's name, its labels, and instructions, which the APIs require."""
    [question] = build_question(manifest(), "hi").questions
    assert ("till", "choice", LABELS) == (question.name, question.type, question.outputs)
    assert question.instructions
    assert () == build_question(RECORD, "hi").questions
