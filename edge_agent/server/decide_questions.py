"""Which questions a Decide call asks: those of the task, some of them, or questions of the call. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edge_agent.engine.protocol import AskedQuestion, asked_questions
from edge_agent.errors import InvalidRequest, UnknownQuestion
from edge_agent.formats import strict_json
from edge_agent.formats.manifest import OPEN_RUNTIMES, Manifest
from edge_agent.formats.questions import PREDICATE_OUTPUTS, QuestionSpec, duplicates
from edge_agent.server.messages import QUESTION_TYPES
from edge_agent.v1 import inference_pb2, task_pb2

OPEN_QUESTIONS_MAX = 400
"""Most questions of one call."""
_TYPES = {number: name for name, number in QUESTION_TYPES.items()}


class RequestedQuestions(NamedTuple):
    """The questions of a call about each of its inputs."""

    requested: tuple[QuestionSpec, ...]
    """Those to answer, in the order of the answers."""
    computed: tuple[QuestionSpec, ...]
    """Those that the engine computes: all of the bundle's if its runtime cannot compute some of them alone."""
    job: tuple[AskedQuestion, ...] = ()
    """The questions of the job; empty = all of the bundle's."""


def requested_questions(request: inference_pb2.DecideRequest, manifest: Manifest) -> RequestedQuestions:
    """Return the questions of a request.

    Raises:
        UnknownQuestion: the task has no question of a name, or takes no questions from the call.
        InvalidRequest: a question breaks its rule, or the request has none, or both kinds.
    """
    task = manifest.task
    if request.questions and request.open_questions:
        raise InvalidRequest(
            "the request has both 'questions' and 'open_questions'",
            remedy="Name the task's own questions in 'open_questions' by their names alone, or send one of the two.",
        )
    if request.open_questions:
        if not task.open_questions:
            message = f"task {task.name!r} takes no questions from the call; its questions are: {_names(manifest)}"
            remedy = "Name them in 'questions', or leave that empty for all."
            raise UnknownQuestion(message, remedy=remedy, task=task.name)
        if (number := len(request.open_questions)) > OPEN_QUESTIONS_MAX:
            raise InvalidRequest(f"the request has {number} questions; the limit is {OPEN_QUESTIONS_MAX}")
        _check_distinct([question.name for question in request.open_questions])
        own = {question.name: question for question in task.questions}
        called = enumerate(request.open_questions)
        questions = tuple(_resolve(question, index, own.get(question.name)) for index, question in called)
        return RequestedQuestions(questions, questions, asked_questions(manifest, questions))
    if request.questions:
        return _select_questions(request.questions, manifest)
    if not task.questions_asked:
        message = f"task {task.name!r} has no questions of its own, and the request has none"
        raise InvalidRequest(message, remedy="Send at least one question in 'open_questions'.", task=task.name)
    return RequestedQuestions(task.questions_asked, task.questions_asked)


def _select_questions(names: Sequence[str], manifest: Manifest) -> RequestedQuestions:
    _check_distinct(names)
    questions = manifest.task.questions_asked
    known = [question.name for question in questions]
    if unknown := [name[:100] for name in names if name not in known]:
        message = f"task {manifest.task.name!r} has no question {unknown[0]!r}; its questions are: {_names(manifest)}"
        raise UnknownQuestion(message, task=manifest.task.name, question=unknown[0])
    chosen = tuple(each for each in questions if each.name in names)
    if manifest.runtime in OPEN_RUNTIMES and len(chosen) < len(known):
        return RequestedQuestions(chosen, chosen, asked_questions(manifest, chosen))
    return RequestedQuestions(chosen, questions)


def _names(manifest: Manifest) -> str:
    return ", ".join(question.name for question in manifest.task.questions_asked) or "none"


def _check_distinct(names: Sequence[str]) -> None:
    if duplicate_names := duplicates(names):
        raise InvalidRequest(f"the request has duplicate questions: {', '.join(duplicate_names)[:300]}")


def _resolve(question: task_pb2.Question, index: int, own_question: QuestionSpec | None) -> QuestionSpec:
    """Return a question of the call. A name of the bundle's own question means that question, and no other."""
    is_bare = not question.type and not question.instructions and not question.options
    if own_question is not None and is_bare:
        return own_question
    spec = _parse_spec(question, index)
    if own_question is not None and spec != own_question:
        raise InvalidRequest(
            f"question {own_question.name!r} is defined by the task, and the request defines it differently",
            remedy="Send its name alone, or give your question another name.",
            question=own_question.name,
        )
    return spec


def _parse_spec(question: task_pb2.Question, index: int) -> QuestionSpec:
    kind = _TYPES.get(question.type)
    if kind is None:
        raise InvalidRequest(f"open_questions[{index}].type is {question.type}, which this version does not support")
    labels = [option.label for option in question.options]
    descriptions = [option.description for option in question.options]
    if kind == "predicate":
        if labels and tuple(labels) != PREDICATE_OUTPUTS:
            raise InvalidRequest(f"open_questions[{index}] is a predicate, whose options are 'no' and 'yes', or none")
        labels = []
    plain = {
        "name": question.name,
        "type": kind,
        "instructions": question.instructions,
        "labels": labels,
        "descriptions": descriptions if any(descriptions) else [],
    }
    try:
        return strict_json.validate(QuestionSpec, plain)
    except ValueError as error:
        raise InvalidRequest(f"open_questions[{index}] {strict_json.first_problem(error, show=True)}") from None
