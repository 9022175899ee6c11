"""Questions of a Decide call: which are refused, and which the engine computes."""

from __future__ import annotations

from typing import Any

import pytest

from edge_agent.errors import InvalidRequest, UnknownQuestion
from edge_agent.formats.manifest import Manifest
from edge_agent.server.decide_questions import RequestedQuestions, requested_questions
from edge_agent.v1 import task_pb2
from edge_agent.v1.inference_pb2 import DecideRequest
from tests.support.bundles import QUESTIONS

CALIBRATED: dict[str, Any] = {
    **{"policy": "threshold", "temperature": 2.0, "threshold": 0.8, "target_risk": 0.05, "delta": 0.03},
    **{"n": 100, "bound": 0.05, "coverage": 0.9},
}
PREDICATE, CHOICE, SCORE = (
    task_pb2.QUESTION_TYPE_PREDICATE,
    task_pb2.QUESTION_TYPE_CHOICE,
    task_pb2.QUESTION_TYPE_SCORE,
)


def manifest(runtime: str = "echo", **task: Any) -> Manifest:
    sha = {"sha256": "0" * 64, "size_bytes": 1}
    artifacts = [{"role": "weights", "path": "m", **sha}, {"role": "tokenizer", "path": "t", **sha}]
    plain = {
        "schema": "edge-agent/bundle/v1",
        "runtime": runtime,
        "version": "1.0.0",
        "task": {"name": "front-desk", "kind": "decide", "questions": QUESTIONS, **task},
        "artifacts": artifacts if runtime == "onnx" else [],
        "question_confidence": {"urgent": CALIBRATED} if task.get("questions", True) else {},
    }
    return Manifest.model_validate(plain)


def question(name: str = "colour", type_: int = CHOICE, says: str = "Which?", *labels: str, **more: Any) -> Any:
    options = [task_pb2.QuestionOption(label=label, **more) for label in labels]
    return task_pb2.Question(name=name, type=type_, instructions=says, options=options)


def asked(*names: str, of: Manifest | None = None, opened: Any = ()) -> RequestedQuestions:
    request = DecideRequest(task="front-desk", questions=names, open_questions=opened)
    return requested_questions(request, of or manifest())


def refusal(*opened: Any, names: tuple[str, ...] = (), **task: Any) -> str:
    with pytest.raises((InvalidRequest, UnknownQuestion)) as caught:
        asked(*names, of=manifest(**{"open_questions": True, **task}), opened=opened)
    return caught.value.message


def test_without_names_all_questions_are_asked():
    """A call without names gets an answer to each question of the task, and the engine no list."""
    found = asked()
    assert ["intent", "urgent", "severity"] == [each.name for each in found.requested]
    assert (found.requested, ()) == (found.computed, found.job)


def test_named_questions_are_computed_in_the_order_of_the_task():
    """A runtime that answers each question separately computes only the named ones, at their temperatures."""
    found = asked("severity", "urgent")
    assert ["urgent", "severity"] == [each.name for each in found.requested]
    assert [("urgent", 2.0), ("severity", 1.0)] == [(each.name, each.temperature) for each in found.job]


def test_encoder_computes_all_questions_and_returns_the_named_ones():
    """An encoder answers all questions in one run, of which the named ones are returned."""
    found = asked("urgent", of=manifest("onnx"))
    assert (["urgent"], 3, ()) == ([each.name for each in found.requested], len(found.computed), found.job)


def test_unknown_question_is_refused():
    """The error lists the questions of the task."""
    with pytest.raises(UnknownQuestion) as caught:
        asked("colour")
    said = "task 'front-desk' has no question 'colour'; its questions are: intent, urgent, severity"
    assert said == caught.value.message


def test_task_with_fixed_questions_refuses_open_questions():
    """The error lists the task's own questions."""
    with pytest.raises(UnknownQuestion, match="takes no questions from the call; its questions are: intent, urgent"):
        asked(opened=[question("colour", CHOICE, "Which?", "red", "blue")])


def test_open_questions_are_passed_to_the_engine():
    """Open questions are computed in the order of the call; one that names a question of the task is that question,
    with its temperature."""
    mine = question("colour", CHOICE, "Which colour?", "red", "blue", description="A colour.")
    found = asked(of=manifest(open_questions=True), opened=[mine, task_pb2.Question(name="urgent")])
    assert ["colour", "urgent"] == [each.name for each in found.requested]
    assert [(("red", "blue"), 1.0), (("no", "yes"), 2.0)] == [(each.outputs, each.temperature) for each in found.job]
    assert ("A colour.", "A colour.") == found.requested[0].descriptions


def test_a_predicate_may_describe_its_answers():
    """A predicate may describe its answers 'no' and 'yes', in this order."""
    described = question("angry", PREDICATE, "The customer is angry.", "no", "yes", description="So.")
    found = asked(of=manifest(open_questions=True), opened=[described])
    assert (("no", "yes"), ("So.", "So.")) == (found.requested[0].outputs, found.requested[0].descriptions)


OWN = question("urgent", PREDICATE, "Something else.")
MANY = tuple(str(place) for place in range(256))


@pytest.mark.parametrize(
    ("opened", "said"),
    [
        ([question("a", CHOICE, "Which?", "only")], "a choice has 2 to 255 labels, not 1"),
        ([question("a", CHOICE, "Which?", *MANY)], "at most 255 items"),
        ([question("a", SCORE, "How?", *MANY[:11])], "a score has 2 to 10 labels, not 11"),
        ([question("a", CHOICE, "Which?", "x", "x")], "question 'a' has duplicate labels: x"),
        ([question("a", PREDICATE, "")], "open_questions[0] instructions:"),
        ([question("a", PREDICATE, "  ")], "'instructions' of question 'a' have no text"),
        ([question("a", PREDICATE, "So?", "true", "false")], "whose options are 'no' and 'yes', or none"),
        ([question("", PREDICATE)], "open_questions[0] name:"),
        ([question("a", 0)], "open_questions[0].type is 0"),
        ([question("a", 9)], "open_questions[0].type is 9"),
        ([question("a", PREDICATE)] * 2, "the request has duplicate questions: a"),
        ([question(f"q{i}", PREDICATE) for i in range(401)], "the request has 401 questions; the limit is 400"),
        ([OWN], "question 'urgent' is defined by the task, and the request defines it differently"),
    ],
)
def test_invalid_open_question_is_refused(opened: list[Any], said: str):
    """The error has the count and the limit."""
    assert said in refusal(*opened)


def test_names_and_open_questions_together_are_refused():
    """A request with both `questions` and `open_questions` is refused."""
    assert "both 'questions' and 'open_questions'" in refusal(OWN, names=("urgent",))


def test_request_without_any_question_is_refused():
    """A task that has no questions of its own requires one in the request."""
    assert "has no questions of its own, and the request has none" in refusal(questions=[])


def test_duplicate_names_are_refused():
    """A request that names a question twice is refused."""
    assert "the request has duplicate questions: urgent" in refusal(names=("urgent", "urgent"))
