"""Matching the questions of a request with those that a task answers. Pure.

The questions of a task are fixed: its model was trained and calibrated for them, so a request names them with their
type and their possible answers. A task with open questions also answers questions of the call, without a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from edge_agent.client import QuestionOption, Task, TaskQuestion
from edge_agent.web.gateway.decision_requests import DecisionRequest, RequestedQuestion
from edge_agent.web.gateway.openai_errors import GatewayError
from edge_agent.web.gateway.request_json import SHOWN_CHARS_MAX

NAMED_MAX = 5
"""At most so many names are listed in an error."""
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
LABEL_CHARS_MAX = 200
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_FIXED = "GET /v1/models/TASK lists the questions and labels of a task."
_DEFAULT_INSTRUCTIONS = {"choice": "Which option fits the text best?", "score": "Which level fits the text best?"}


@dataclass(frozen=True)
class MatchedQuestion:
    """A question of the request, and how the daemon answers it."""

    asked: RequestedQuestion
    question: TaskQuestion
    """As the daemon is asked: of a task's own question the name alone."""
    labels: tuple[str, ...]
    """The daemon's label for each option of a choice or a score, in the request's order."""
    truth: str = ""
    """Of a predicate, the label that means yes."""


def match_questions(request: DecisionRequest, task: Task) -> tuple[MatchedQuestion, ...]:
    """Return what the daemon is asked for each question. Raises GatewayError when the task does not answer one."""
    if task.kind not in ("CLASSIFY", "DECIDE"):
        message = f"'{task.name}' is of kind {task.kind.lower()}, and answers no questions"
        raise GatewayError(
            message, param="model", remedy="Name a decide or classify task.", reason="TASK_KIND_MISMATCH"
        )
    own = own_questions(task)
    found = [_match(asked, own, task, place) for place, asked in enumerate(request.questions)]
    names: set[str] = set()
    for each in found:
        if each.question.name in names:
            several = f"question '{each.question.name}' is asked twice"
            said = f"the request has {len(request.questions)} questions" if len(own) == 1 else several
            _refuse(said, each.asked, task)
        names.add(each.question.name)
    return tuple(found)


def own_questions(task: Task) -> tuple[TaskQuestion, ...]:
    """Return the questions that a task defines; a classify task is one choice that has the task's name."""
    if task.kind == "CLASSIFY":
        return (TaskQuestion(task.name, "CHOICE", options=tuple(map(QuestionOption, task.labels))),)
    return task.questions


def truth_label(labels: Sequence[str]) -> str | None:
    """Return the label that means yes; None when the labels are not those of a predicate."""
    [*yes] = (each for each in labels if each.lower() in YES)
    [*no] = (each for each in labels if each.lower() in NO)
    return yes[0] if (len(labels), len(yes), len(no)) == (2, 1, 1) else None


def label_of(value: str | bool) -> str:
    """Return the label that a value names: a boolean names 'true' or 'false'."""
    return value if isinstance(value, str) else str(value).lower()


def _match(asked: RequestedQuestion, own: Sequence[TaskQuestion], task: Task, place: int) -> MatchedQuestion:
    if asked.name is None and len(own) == 1 and not task.open_questions:
        return _match_own(asked, own[0], task)
    named = next((each for each in own if each.name == asked.name), None)
    if named is not None:
        return _match_own(asked, named, task)
    if task.open_questions:
        return _match_open(asked, f"q{place}" if len(own) == 0 else f"call-{place}", task)
    said = "a question has no name" if asked.name is None else f"there is no question '{asked.name[:SHOWN_CHARS_MAX]}'"
    return _refuse(said, asked, task, ".name")


def _match_own(asked: RequestedQuestion, question: TaskQuestion, task: Task) -> MatchedQuestion:
    labels = tuple(each.label for each in question.options)
    by_name = TaskQuestion(question.name)
    if asked.kind == "predicate":
        truth = truth_label(labels)
        if truth is None:
            _refuse("a predicate needs a question with two labels, 'yes' and 'no' or 'true' and 'false'", asked, task)
        return MatchedQuestion(asked, by_name, (), truth)
    if asked.kind == "score":
        _check_levels(asked, question, task)
        return MatchedQuestion(asked, by_name, labels)
    if question.type != "CHOICE":
        _refuse(f"question '{question.name}' is a {question.type.lower()}, not a choice", asked, task, ".type")
    return MatchedQuestion(asked, by_name, _check_choices(asked, labels, task))


def _check_choices(asked: RequestedQuestion, labels: Sequence[str], task: Task) -> tuple[str, ...]:
    """Return the labels that the choices name: all of the question's, in the request's order."""
    named = _distinct_labels(asked, task)
    unknown = [each for each in named if each not in labels]
    if unknown:
        _refuse(f"it has no label {_listed(unknown)}", asked, task)
    missing = [each for each in labels if each not in named]
    if missing:
        _refuse(f"the choices lack {_listed(missing)}", asked, task)
    return named


def _check_levels(asked: RequestedQuestion, question: TaskQuestion, task: Task) -> None:
    labels = [each.label for each in question.options]
    if question.type != "SCORE":
        _refuse("the labels of a choice have no order, so it gives no score", asked, task, ".type")
    if len(asked.options) != len(labels):
        _refuse(f"the request has {len(asked.options)} levels, and the question {len(labels)}", asked, task)
    if not asked.unlabelled and list(map(label_of, asked.values)) != labels:
        _refuse(f"the levels must be {_listed(labels)}, in this order", asked, task)


def _match_open(asked: RequestedQuestion, fallback: str, task: Task) -> MatchedQuestion:
    """Return a question of the call; a name that the daemon does not take, or none, is replaced."""
    name = asked.name if asked.name and _NAME.fullmatch(asked.name) else fallback
    if asked.kind == "predicate":
        return _open_predicate(asked, name)
    labels = _level_labels(asked) if asked.unlabelled else _distinct_labels(asked, task)
    options = tuple(
        QuestionOption(label, option.description if option.description != label else "")
        for label, option in zip(labels, asked.options, strict=True)
    )
    instructions = asked.instructions or _DEFAULT_INSTRUCTIONS[asked.kind]
    return MatchedQuestion(asked, TaskQuestion(name, asked.kind.upper(), instructions, options), labels)


def _open_predicate(asked: RequestedQuestion, name: str) -> MatchedQuestion:
    """Return a predicate of the call; without instructions, a described outcome is the statement."""
    meaning = {each.value: each.description for each in asked.options}
    told = tuple(QuestionOption(label, meaning[value]) for label, value in (("no", False), ("yes", True)) if meaning)
    statement = asked.instructions or meaning[True] or f"This is not true: {meaning[False]}"
    return MatchedQuestion(asked, TaskQuestion(name, "PREDICATE", statement, told), (), "yes")


def _level_labels(asked: RequestedQuestion) -> tuple[str, ...]:
    """Return the descriptions of the levels as their labels, where these can be labels; otherwise their places."""
    told = tuple(each.description for each in asked.options)
    fit = all(0 < len(each) <= LABEL_CHARS_MAX for each in told) and len(set(told)) == len(told)
    return told if fit else tuple(map(label_of, asked.values))


def _distinct_labels(asked: RequestedQuestion, task: Task) -> tuple[str, ...]:
    named = tuple(label_of(value) for value in asked.values)
    if len(set(named)) < len(named):
        said = "a boolean and a string name the same label" if asked.kind == "choice" else "two levels have one label"
        _refuse(said, asked, task)
    return named


def _refuse(problem: str, asked: RequestedQuestion, task: Task, member: str = "") -> NoReturn:
    own = own_questions(task)
    if len(own) == 1:
        labels = _listed([each.label for each in own[0].options])
        fixed = f"'{task.name}' answers one question, '{own[0].name}': a {own[0].type.lower()} of {labels}"
    else:
        listed = ", ".join(f"'{each.name}' ({each.type.lower()})" for each in own)
        fixed = f"'{task.name}' answers {len(own)} questions: {listed}"
    raise GatewayError(f"{problem}; {fixed}", param=f"{asked.where}{member}", remedy=_FIXED)


def _listed(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join(f"'{each[:SHOWN_CHARS_MAX]}'" for each in every[:NAMED_MAX])
    return f"{shown} and {len(every) - NAMED_MAX} more" if len(every) > NAMED_MAX else shown
