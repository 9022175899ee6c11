"""Parsing decision requests of two APIs, and matching their questions with those that a task answers. Pure.

`/v1/decisions` is OpenAI's (`openai.resources.decisions`, package openai 3.57), `/v1/systemone` is TypeSafe's
(`typesafe_sdk`, 0.7.5). Both ask typed questions about one input: is it true (predicate), which of these (choice), how
much (score).

The questions of a task are fixed: its model was trained and calibrated for them, so a request names them with their
type and their possible answers. A task with open questions also answers questions of the call, without a threshold.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn

from edge_agent.client import OnLowConfidence, QuestionOption, Task, TaskQuestion
from edge_agent.web.gateway import request_json
from edge_agent.web.gateway.chat_request import AS_MODE, LOW_CONFIDENCE_POLICIES
from edge_agent.web.gateway.openai_responses import EXTENSION, GatewayError
from edge_agent.web.gateway.request_json import SHOWN_CHARS_MAX, JsonMembers

QUESTIONS_MAX = 400
CHOICES_MIN, CHOICES_MAX = 2, 255
LEVELS_MIN, LEVELS_MAX = 2, 10
"""The limits of OpenAI's API; `/v1/systemone` has the same ones here."""
INPUT, STATE = "input", "state"
POLICY_HEADER = "x-edge-agent-on-low-confidence"
NO_HEADERS: Mapping[str, str] = {}
_POLICY = request_json.one_of(*LOW_CONFIDENCE_POLICIES)
QuestionKind = Literal["predicate", "choice", "score"]
_IGNORED = dict.fromkeys(("safety_identifier", "prompt_cache_key"), request_json.parse_string)


class RequestedOption(NamedTuple):
    """A possible answer, as the request writes it."""

    value: str | bool
    """For a level without a label (System One), its index as text."""
    description: str = ""


@dataclass(frozen=True)
class RequestedQuestion:
    """One typed question."""

    kind: QuestionKind
    name: str | None
    path: str
    """Path of the question in the request, for errors."""
    instructions: str = ""
    """Empty where the API does not require them."""
    options: tuple[RequestedOption, ...] = ()
    """Of a choice or a score, in the request's order; of a predicate, False and True if their meanings are given."""
    unlabelled: bool = False
    """A score whose levels have descriptions alone."""

    @property
    def values(self) -> tuple[str | bool, ...]:
        """The values of the options."""
        return tuple(each.value for each in self.options)


@dataclass(frozen=True)
class DecisionRequest:
    """A parsed request."""

    task: str
    text: str
    questions: tuple[RequestedQuestion, ...]
    on_low_confidence: OnLowConfidence = AS_MODE


# --- OpenAI ----------------------------------------------------------------------------------------------------------


def parse_decisions(raw: bytes, headers: Mapping[str, str] = NO_HEADERS) -> DecisionRequest:
    """Parse a body of POST /v1/decisions. Raises GatewayError."""
    members = request_json.parse_body(raw)
    request = DecisionRequest(
        task=members.required("model", request_json.parse_string),
        text=members.required(INPUT, _input),
        questions=members.required("questions", _questions),
        on_low_confidence=_policy(members, headers),
    )
    members.present(_IGNORED)
    members.present({"prompt_cache_options": request_json.parse_object})
    members.refuse_rest()
    return request


def _policy(members: JsonMembers, headers: Mapping[str, str]) -> OnLowConfidence:
    """Read the policy: of the body, or of the header where a client cannot add a member to the body."""
    try:
        default = _POLICY(headers.get(POLICY_HEADER, AS_MODE))
    except ValueError as error:
        raise GatewayError(f"the header {POLICY_HEADER} {error}", param=POLICY_HEADER) from None
    return members.optional(EXTENSION, lambda value: _extension(value, default), default)


def _extension(value: Any, default: OnLowConfidence) -> OnLowConfidence:
    members = request_json.parse_members(value, EXTENSION)
    policy = members.optional("on_low_confidence", _POLICY, default)
    members.refuse_rest()
    return policy


def _input(value: Any) -> str:
    """Return the text, which may be the one message of the user."""
    if isinstance(value, str):
        return request_json.parse_string(value)
    if not isinstance(value, list):
        raise ValueError(f"must be a string or a list of messages; it is {request_json.type_name(value)}")
    return request_json.parse_user_message(value, INPUT, request_json.DECISION_PARTS)


def _questions(value: Any) -> tuple[RequestedQuestion, ...]:
    items = request_json.parse_list(value, 1, QUESTIONS_MAX, "question")
    questions = tuple(_question(each, f"questions[{index}]") for index, each in enumerate(items))
    names = [each.name for each in questions if each.name is not None]
    duplicate = next((each for each in names if names.count(each) > 1), None)
    if duplicate is not None:
        raise ValueError(f"must have names of their own; '{duplicate[: request_json.SHOWN_CHARS_MAX]}' is there twice")
    return questions


def _question(value: Any, path: str) -> RequestedQuestion:
    members = request_json.parse_members(value, path)
    kind: QuestionKind = members.required("type", request_json.one_of("predicate", "choice", "score"))
    name = members.optional("name", request_json.parse_filled, None)
    instructions = members.required("instructions", lambda member: _instructions(member, f"{path}.instructions"))
    options: tuple[RequestedOption, ...] = ()
    if kind == "choice":
        options = members.required("choices", lambda member: _choices(member, f"{path}.choices"))
    elif kind == "score":
        options = members.required("levels", lambda member: _levels(member, f"{path}.levels"))
    members.refuse_rest()
    return RequestedQuestion(kind, name, path, instructions, options)


def _instructions(value: Any, path: str) -> str:
    return request_json.parse_filled(request_json.parse_content(value, path, request_json.DECISION_PARTS))


def _choices(value: Any, path: str) -> tuple[RequestedOption, ...]:
    items = request_json.parse_list(value, CHOICES_MIN, CHOICES_MAX, "choice")
    options = tuple(_option(each, f"{path}[{index}]", "value") for index, each in enumerate(items))
    if len({(type(each.value), each.value) for each in options}) < len(options):
        raise ValueError("must be unique values")
    return options


def _levels(value: Any, path: str) -> tuple[RequestedOption, ...]:
    items = request_json.parse_list(value, LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(_option(each, f"{path}[{index}]", "label") for index, each in enumerate(items))


def _option(value: Any, path: str, member: str) -> RequestedOption:
    members = request_json.parse_members(value, path)
    parse = _option_value if member == "value" else request_json.parse_filled
    option_value: str | bool = members.required(member, parse)
    description = members.optional("description", request_json.parse_string, "")
    members.refuse_rest()
    return RequestedOption(option_value, description)


def _option_value(value: Any) -> str | bool:
    return value if isinstance(value, bool) else request_json.parse_filled(value)


# --- System One ------------------------------------------------------------------------------------------------------


def parse_system_one(raw: bytes, headers: Mapping[str, str] = NO_HEADERS) -> DecisionRequest:
    """Parse a body of POST /v1/systemone. Raises GatewayError."""
    members = request_json.parse_body(raw)
    request = DecisionRequest(
        task=members.required("model", request_json.parse_string),
        text=members.required(STATE, _state),
        questions=members.required("questions", _named_questions),
        on_low_confidence=_policy(members, headers),
    )
    members.refuse_rest({"assets": "Leave it out: a task reads text, not images."})
    return request


def _state(value: Any) -> str:
    """Return the text, which may be given as JSON."""
    return request_json.parse_json_value(value) if isinstance(value, dict | list) else request_json.parse_string(value)


def _named_questions(value: Any) -> tuple[RequestedQuestion, ...]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object of named questions; it is {request_json.type_name(value)}")
    request_json.check_count(len(value), 1, QUESTIONS_MAX, "question")
    return tuple(
        _named_question(request_json.parse_filled(name), each, f"questions.{name}") for name, each in value.items()
    )


_SYSTEM_ONE_KINDS: Mapping[str, QuestionKind] = {"noul": "predicate", "choice": "choice", "score": "score"}


def _named_question(name: str, value: Any, path: str) -> RequestedQuestion:
    members = request_json.parse_members(value, path)
    kind = _SYSTEM_ONE_KINDS[members.required("type", request_json.one_of(*_SYSTEM_ONE_KINDS))]
    instructions = members.optional("instructions", lambda member: _instructions(member, f"{path}.instructions"), "")
    options: tuple[RequestedOption, ...] = ()
    if kind == "predicate":
        options = members.optional("criteria", lambda member: _outcomes(member, f"{path}.criteria"), options)
        if not instructions and not any(each.description for each in options):
            raise GatewayError(f"'{path}' needs 'instructions', or an outcome described in 'criteria'", param=path)
    elif kind == "choice":
        options = members.required("criteria", _criteria_labels)
    else:
        options = members.required("criteria", _criteria_levels)
    members.refuse_rest()
    return RequestedQuestion(kind, name, path, instructions, options, unlabelled=kind == "score")


def _outcomes(value: Any, path: str) -> tuple[RequestedOption, ...]:
    members = request_json.parse_members(value, path)
    descriptions = {name: members.optional(name, request_json.parse_string, "") for name in ("false", "true")}
    members.refuse_rest()
    return RequestedOption(False, descriptions["false"]), RequestedOption(True, descriptions["true"])


def _criteria_labels(value: Any) -> tuple[RequestedOption, ...]:
    options = tuple(
        RequestedOption(request_json.parse_filled(label), _meaning(meaning))
        for label, meaning in request_json.parse_object(value).items()
    )
    request_json.check_count(len(options), CHOICES_MIN, CHOICES_MAX, "choice")
    return options


def _criteria_levels(value: Any) -> tuple[RequestedOption, ...]:
    items = request_json.parse_list(value, LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(RequestedOption(str(level), _meaning(meaning)) for level, meaning in enumerate(items))


def _meaning(value: Any) -> str:
    return "" if value is None else request_json.parse_string(value)


NAMED_MAX = 5
"""Maximum number of names listed in an error."""
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
LABEL_CHARS_MAX = 200
_NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?")
_FIXED = "GET /v1/models/TASK lists the questions and labels of a task."
_DEFAULT_INSTRUCTIONS = {"choice": "Which option fits the text best?", "score": "Which level fits the text best?"}


@dataclass(frozen=True)
class MatchedQuestion:
    """A question of the request, and how the daemon answers it."""

    requested: RequestedQuestion
    question: TaskQuestion
    """The question for the daemon; for a question of the task, only its name."""
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
    fallback_names = _names_for_unnamed(request, own)
    matches = [
        _match(requested, own, task, name) for requested, name in zip(request.questions, fallback_names, strict=True)
    ]
    names: set[str] = set()
    for match in matches:
        name = match.question.name
        if name in names:
            several = f"the request has {len(request.questions)} questions"
            problem = several if len(own) == 1 else f"question '{name}' is asked twice"
            _refuse(problem, match.requested, task)
        names.add(name)
    return tuple(matches)


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


def _names_for_unnamed(request: DecisionRequest, own: Sequence[TaskQuestion]) -> list[str]:
    """Return a unique fallback name for each question whose name is missing or not accepted by the daemon."""
    used_names = {each.name for each in own} | {each.name for each in request.questions}
    prefix, indices = "call-" if own else "q", range(len(request.questions))
    while used_names.intersection(f"{prefix}{index}" for index in indices):
        prefix += "-"
    return [f"{prefix}{index}" for index in indices]


def _match(requested: RequestedQuestion, own: Sequence[TaskQuestion], task: Task, fallback: str) -> MatchedQuestion:
    name = requested.name
    if name is None and len(own) == 1 and not task.open_questions:
        return _match_own(requested, own[0], task)
    question = next((each for each in own if each.name == name), None)
    if question is not None:
        return _match_own(requested, question, task)
    if task.open_questions:
        return _match_open(requested, fallback, task)
    problem = "a question has no name" if name is None else f"there is no question '{name[:SHOWN_CHARS_MAX]}'"
    return _refuse(problem, requested, task, ".name")


def _match_own(requested: RequestedQuestion, question: TaskQuestion, task: Task) -> MatchedQuestion:
    labels = tuple(each.label for each in question.options)
    by_name = TaskQuestion(question.name)
    if requested.kind == "predicate":
        truth = truth_label(labels)
        if truth is None:
            problem = "a predicate needs a question with two labels, 'yes' and 'no' or 'true' and 'false'"
            _refuse(problem, requested, task)
        return MatchedQuestion(requested, by_name, (), truth)
    if requested.kind == "score":
        _check_levels(requested, question, task)
        return MatchedQuestion(requested, by_name, labels)
    if question.type != "CHOICE":
        _refuse(f"question '{question.name}' is a {question.type.lower()}, not a choice", requested, task, ".type")
    return MatchedQuestion(requested, by_name, _check_choices(requested, labels, task))


def _check_choices(requested: RequestedQuestion, labels: Sequence[str], task: Task) -> tuple[str, ...]:
    """Return the labels that the choices name: all of the question's, in the request's order."""
    chosen_labels = _distinct_labels(requested, task)
    unknown = [each for each in chosen_labels if each not in labels]
    if unknown:
        _refuse(f"it has no label {_quoted(unknown)}", requested, task)
    missing = [each for each in labels if each not in chosen_labels]
    if missing:
        _refuse(f"the choices lack {_quoted(missing)}", requested, task)
    return chosen_labels


def _check_levels(requested: RequestedQuestion, question: TaskQuestion, task: Task) -> None:
    labels = [each.label for each in question.options]
    if question.type != "SCORE":
        _refuse("the labels of a choice have no order, so it gives no score", requested, task, ".type")
    if len(requested.options) != len(labels):
        _refuse(f"the request has {len(requested.options)} levels, and the question {len(labels)}", requested, task)
    if not requested.unlabelled and list(map(label_of, requested.values)) != labels:
        _refuse(f"the levels must be {_quoted(labels)}, in this order", requested, task)


def _match_open(requested: RequestedQuestion, fallback: str, task: Task) -> MatchedQuestion:
    """Return a question of the call; a name that the daemon does not take, or none, is replaced."""
    name = requested.name if requested.name and _NAME.fullmatch(requested.name) else fallback
    if requested.kind == "predicate":
        return _open_predicate(requested, name)
    labels = _level_labels(requested) if requested.unlabelled else _distinct_labels(requested, task)
    options = tuple(
        QuestionOption(label, option.description if option.description != label else "")
        for label, option in zip(labels, requested.options, strict=True)
    )
    instructions = requested.instructions or _DEFAULT_INSTRUCTIONS[requested.kind]
    return MatchedQuestion(requested, TaskQuestion(name, requested.kind.upper(), instructions, options), labels)


def _open_predicate(requested: RequestedQuestion, name: str) -> MatchedQuestion:
    """Return a predicate of the call; without instructions, a described outcome is the statement."""
    meaning = {each.value: each.description for each in requested.options}
    options = tuple(QuestionOption(label, meaning[value]) for label, value in (("no", False), ("yes", True)) if meaning)
    statement = requested.instructions or meaning[True] or f"This is not true: {meaning[False]}"
    return MatchedQuestion(requested, TaskQuestion(name, "PREDICATE", statement, options), (), "yes")


def _level_labels(requested: RequestedQuestion) -> tuple[str, ...]:
    """Return the descriptions of the levels as labels if possible, otherwise their indices."""
    descriptions = tuple(each.description for each in requested.options)
    are_unique = len(set(descriptions)) == len(descriptions)
    if are_unique and all(0 < len(each) <= LABEL_CHARS_MAX for each in descriptions):
        return descriptions
    return tuple(map(label_of, requested.values))


def _distinct_labels(requested: RequestedQuestion, task: Task) -> tuple[str, ...]:
    labels = tuple(label_of(value) for value in requested.values)
    if len(set(labels)) < len(labels):
        message = (
            "a boolean and a string name the same label" if requested.kind == "choice" else "two levels have one label"
        )
        _refuse(message, requested, task)
    return labels


def _refuse(problem: str, requested: RequestedQuestion, task: Task, member: str = "") -> NoReturn:
    own = own_questions(task)
    if len(own) == 1:
        labels = _quoted([each.label for each in own[0].options])
        task_questions = f"'{task.name}' answers one question, '{own[0].name}': a {own[0].type.lower()} of {labels}"
    else:
        names = ", ".join(f"'{each.name}' ({each.type.lower()})" for each in own)
        task_questions = f"'{task.name}' answers {len(own)} questions: {names}"
    raise GatewayError(f"{problem}; {task_questions}", param=f"{requested.path}{member}", remedy=_FIXED)


def _quoted(names: Iterable[str]) -> str:
    all_names = list(names)
    shown = ", ".join(f"'{each[:SHOWN_CHARS_MAX]}'" for each in all_names[:NAMED_MAX])
    return f"{shown} and {len(all_names) - NAMED_MAX} more" if len(all_names) > NAMED_MAX else shown
