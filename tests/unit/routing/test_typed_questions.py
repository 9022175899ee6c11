"""Probabilities of a large model are accepted only as a complete distribution over the options of their question."""

from __future__ import annotations

import math

import pytest

from edge_agent.formats.manifest import TaskSpec
from edge_agent.routing.large_model_questions import (
    LargeModelReply,
    LargeModelTypedQuestion,
    ModelAnswer,
    parse_reply,
    parse_typed_reply,
    read_distribution,
    typed_questions,
)
from tests.support.bundles import QUESTIONS
from tests.unit.routing.test_large_model_questions import LABELS, RECORD, manifest

INTENT = LargeModelTypedQuestion("intent", "choice", "What does the customer want?", ("refund", "price", "hours"))


def answer(*numbers: float, options: tuple[str, ...] = INTENT.options) -> list[ModelAnswer]:
    return [ModelAnswer("intent", tuple(zip(options, numbers, strict=True)))]


def test_distribution_is_normalized_in_the_order_of_the_options() -> None:
    """Probabilities that sum to 1 within 0.001 are accepted, because servers round, and are normalized."""
    found = read_distribution(INTENT, answer(0.2, 0.7, 0.1005, options=("price", "refund", "hours")))
    assert ("refund", "price", "hours") == tuple(option for option, _ in found)
    assert 1.0 == pytest.approx(sum(number for _, number in found), abs=1e-12)
    assert LargeModelReply("refund", probabilities=found) == parse_typed_reply(
        manifest().task, [INTENT], answer(0.2, 0.7, 0.1005, options=("price", "refund", "hours"))
    )


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        (answer(math.nan, 0.5, 0.5), "a probability in its answer to question 'intent' is not a finite number"),
        (answer(math.inf, 0.5, 0.5), "is not a finite number of at least 0"),
        (answer(-0.1, 0.6, 0.5), "is not a finite number of at least 0"),
        (answer(0.3, 0.3, 0.3), "the probabilities in its answer to question 'intent' add up to 0.9 instead of 1"),
        (answer(0.5, 0.5, options=("refund", "price")), "its answer to question 'intent' lacks 1 of 3 options"),
        (answer(0.5, 0.3, 0.1, 0.1, options=(*INTENT.options, "other")), "has an option that is not one, or one twice"),
        (answer(0.5, 0.3, 0.1, 0.1, options=(*INTENT.options, "price")), "has an option that is not one, or one twice"),
        ([ModelAnswer("intent")], "it declined question 'intent'"),
        ([], "it gave 0 answers to question 'intent' instead of 1"),
        ([ModelAnswer("other", (("refund", 1.0),))], "it gave 0 answers to question 'intent'"),
        ([*answer(1.0, 0.0, 0.0), *answer(0.0, 1.0, 0.0)], "it gave 2 answers to question 'intent'"),
    ],
)
def test_invalid_distribution_is_refused(answers: list[ModelAnswer], problem: str) -> None:
    """The problem names the question and the numbers, and nothing that the large model wrote."""
    reply = parse_typed_reply(manifest().task, [INTENT], answers)
    assert ("", ()) == (reply.value, reply.probabilities)
    assert problem in reply.problem


def test_classify_task_has_one_typed_question() -> None:
    """The typed question of a classify task has the task's name, its labels and instructions, which the APIs require;
    an extract task has none."""
    [question] = typed_questions(manifest().task)
    assert ("till", "choice", LABELS) == (question.name, question.type, question.options)
    assert question.instructions
    assert () == typed_questions(RECORD.task)


def test_usable_answers_of_several_questions_are_kept() -> None:
    """The first unusable answer is the problem; usable ones are returned with their probabilities."""
    task = TaskSpec.model_validate({"name": "desk", "kind": "decide", "questions": QUESTIONS})
    asked = typed_questions(task)
    urgent = ModelAnswer("urgent", (("no", 0.25), ("yes", 0.75)))
    reply = parse_typed_reply(task, asked, [urgent, ModelAnswer("severity")])
    assert "it gave 0 answers to question 'intent' instead of 1" == reply.problem
    assert {"urgent": LargeModelReply("yes", probabilities=(("no", 0.25), ("yes", 0.75)))} == reply.answers


def test_chat_reply_answers_several_questions() -> None:
    """An answer that is not among the options of its question is named, and the others are kept."""
    task = TaskSpec.model_validate({"name": "desk", "kind": "decide", "questions": QUESTIONS})
    reply = parse_reply(task, '{"intent": "refund", "urgent": true, "severity": "high"}', typed_questions(task))
    assert "'urgent' must be one of its possible answers" == reply.problem
    assert {"intent": LargeModelReply("refund"), "severity": LargeModelReply("high")} == reply.answers
