"""Parsing decision requests of two APIs, and matching their questions with what a task answers. Pure.

`/v1/decisions` is OpenAI's (`openai.resources.decisions`, package openai 3.57), `/v1/systemone` is TypeSafe's
(`typesafe_sdk`, 0.7.5). Both ask typed questions about one input: is it true (predicate), which of these (choice), how
much (score). The questions of a task are fixed: its model was trained and calibrated for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from edge_agent.client import OnLowConfidence, Task
from edge_agent.web.gateway import request_json
from edge_agent.web.gateway.chat_request import AS_MODE, LOW_CONFIDENCE_POLICIES, PARTS_MAX
from edge_agent.web.gateway.openai_errors import GatewayError
from edge_agent.web.gateway.openai_responses import EXTENSION

QUESTIONS_MAX = 400
CHOICES_MIN, CHOICES_MAX = 2, 255
LEVELS_MIN, LEVELS_MAX = 2, 10
"""The limits of OpenAI's API; `/v1/systemone` has the same ones here."""
NAMED_MAX = 5
"""At most so many labels are named in an error."""
YES, NO = frozenset({"yes", "true"}), frozenset({"no", "false"})
INPUT, STATE = "input", "state"
Kind = Literal["predicate", "choice", "score"]
_FIXED = "GET /v1/models/TASK lists the labels of a task."
_IGNORED = dict.fromkeys(("safety_identifier", "prompt_cache_key"), request_json.parse_string)
_ROLES = ("user", "developer", "system", "assistant")


@dataclass(frozen=True)
class Question:
    """One typed question."""

    kind: Kind
    name: str | None
    where: str
    """Path of the question in the request, for errors."""
    values: tuple[str | bool, ...] = ()
    """The values of a choice, in the request's order; of a score the labels of its levels."""


@dataclass(frozen=True)
class DecisionRequest:
    """A parsed request."""

    task: str
    text: str
    questions: tuple[Question, ...]
    on_low_confidence: OnLowConfidence = AS_MODE

    def require_supported(self, task: Task) -> Question:
        """Return the one question that a classify task answers. Raises GatewayError when the request asks another."""
        if task.kind != "CLASSIFY":
            message = f"'{task.name}' is of kind {task.kind.lower()}, and answers no questions"
            raise GatewayError(message, param="model", remedy="Name a classify task.", reason="TASK_KIND_MISMATCH")
        question = self.questions[0]
        for each in self.questions:
            if each.name is not None and each.name != task.name:
                _refuse(f"there is no question '{each.name[: request_json.SHOWN_CHARS_MAX]}'", each, task, ".name")
        if len(self.questions) > 1:
            _refuse(f"the request has {len(self.questions)} questions", self.questions[1], task)
        if question.kind == "score":
            _refuse("the labels of a task have no order, so it gives no score", question, task, ".type")
        if question.kind == "predicate" and truth_label(task.labels) is None:
            _refuse("a predicate needs a task with two labels, 'yes' and 'no' or 'true' and 'false'", question, task)
        if question.kind == "choice":
            _check_values(question, task)
        return question


def truth_label(labels: tuple[str, ...]) -> str | None:
    """Return the label that means yes; None when the labels are not those of a predicate."""
    [*yes] = (each for each in labels if each.lower() in YES)
    [*no] = (each for each in labels if each.lower() in NO)
    return yes[0] if (len(labels), len(yes), len(no)) == (2, 1, 1) else None


def label_of(value: str | bool) -> str:
    """Return the label that a choice's value names: a boolean names 'true' or 'false'."""
    return value if isinstance(value, str) else str(value).lower()


def _check_values(question: Question, task: Task) -> None:
    named = [label_of(value) for value in question.values]
    if len(set(named)) < len(named):
        _refuse("a boolean and a string name the same label", question, task)
    unknown = [each for each in named if each not in task.labels]
    if unknown:
        _refuse(f"it has no label {_listed(unknown)}", question, task)
    missing = [each for each in task.labels if each not in named]
    if missing:
        _refuse(f"the choices lack {_listed(missing)}", question, task)


def _refuse(problem: str, question: Question, task: Task, member: str = "") -> NoReturn:
    fixed = f"'{task.name}' answers one question, '{task.name}': a choice of {_listed(task.labels)}"
    raise GatewayError(f"{problem}; {fixed}", param=f"{question.where}{member}", remedy=_FIXED)


def _listed(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(f"'{each[: request_json.SHOWN_CHARS_MAX]}'" for each in names[:NAMED_MAX])
    return f"{shown} and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else shown


# --- OpenAI ----------------------------------------------------------------------------------------------------------


def parse_decisions(raw: bytes) -> DecisionRequest:
    """Parse a body of POST /v1/decisions. Raises GatewayError."""
    given = request_json.parse_body(raw)
    request = DecisionRequest(
        task=given.required("model", request_json.parse_string),
        text=given.required(INPUT, _input),
        questions=given.required("questions", _questions),
        on_low_confidence=given.optional(EXTENSION, _extension, AS_MODE),
    )
    given.present(_IGNORED)
    given.present({"prompt_cache_options": _object})
    given.refuse_rest()
    return request


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object; it is {request_json.type_name(value)}")
    return value


def _extension(value: Any) -> OnLowConfidence:
    members = request_json.parse_members(value, EXTENSION)
    policy = members.optional("on_low_confidence", request_json.one_of(*LOW_CONFIDENCE_POLICIES), AS_MODE)
    members.refuse_rest()
    return policy


def _input(value: Any) -> str:
    """Return the text, which may be the one message of the user."""
    if isinstance(value, str):
        return request_json.parse_string(value)
    if not isinstance(value, list):
        raise ValueError(f"must be a string or a list of messages; it is {request_json.type_name(value)}")
    if len(value) != 1:
        raise ValueError(f"must be one message of the user; it holds {len(value)}: a task reads one text")
    message = request_json.parse_members(value[0], f"{INPUT}[0]")
    message.optional("type", request_json.one_of("message"), "message")
    if message.required("role", request_json.one_of(*_ROLES)) != "user":
        raise ValueError("must be a message of the user: the task brings its own instructions")
    text = message.required("content", _content)
    message.refuse_rest()
    return text


def _content(value: Any) -> str:
    if not isinstance(value, list):
        return request_json.parse_string(value)
    if not 1 <= len(value) <= PARTS_MAX:
        raise ValueError(f"must have 1 to {PARTS_MAX} parts; it has {len(value)}")
    return "\n".join(_text_part(each, f"{INPUT}[0].content[{place}]") for place, each in enumerate(value))


def _text_part(value: Any, where: str) -> str:
    part = request_json.parse_members(value, where)
    part.required("type", request_json.one_of("input_text"))
    text = part.required("text", request_json.parse_string)
    part.refuse_rest()
    return text


def _questions(value: Any) -> tuple[Question, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list of questions; it is {request_json.type_name(value)}")
    _check_count(len(value), 1, QUESTIONS_MAX, "question")
    questions = tuple(_question(each, f"questions[{place}]") for place, each in enumerate(value))
    names = [each.name for each in questions if each.name is not None]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"must have names of their own; '{twice[: request_json.SHOWN_CHARS_MAX]}' is there twice")
    return questions


def _question(value: Any, where: str) -> Question:
    members = request_json.parse_members(value, where)
    kind: Kind = members.required("type", request_json.one_of("predicate", "choice", "score"))
    name = members.optional("name", _filled, None)
    members.required("instructions", _instructions)
    values: tuple[str | bool, ...] = ()
    if kind == "choice":
        values = members.required("choices", lambda given: _choices(given, f"{where}.choices"))
    elif kind == "score":
        values = members.required("levels", lambda given: _levels(given, f"{where}.levels"))
    members.refuse_rest()
    return Question(kind, name, where, values)


def _instructions(value: Any) -> Any:
    """Check the instructions. They are not used: a task was trained for its question, whatever a caller calls it."""
    if isinstance(value, list) and value:
        return value
    return _filled(value)


def _choices(value: Any, where: str) -> tuple[str | bool, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list; it is {request_json.type_name(value)}")
    _check_count(len(value), CHOICES_MIN, CHOICES_MAX, "choice")
    values = tuple(_described(each, f"{where}[{place}]", "value") for place, each in enumerate(value))
    if len({(type(each), each) for each in values}) < len(values):
        raise ValueError("must be unique values")
    return values


def _levels(value: Any, where: str) -> tuple[str | bool, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list; it is {request_json.type_name(value)}")
    _check_count(len(value), LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(_described(each, f"{where}[{place}]", "label") for place, each in enumerate(value))


def _described(value: Any, where: str, member: str) -> str | bool:
    members = request_json.parse_members(value, where)
    given: str | bool = members.required(member, _value if member == "value" else _filled)
    members.optional("description", request_json.parse_string, "")
    members.refuse_rest()
    return given


def _value(value: Any) -> str | bool:
    return value if isinstance(value, bool) else _filled(value)


def _filled(value: Any) -> str:
    text = request_json.parse_string(value)
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def _check_count(count: int, least: int, most: int, noun: str) -> None:
    if not least <= count <= most:
        raise ValueError(f"must have {least} to {most} {noun}s; it has {count}")


# --- System One ------------------------------------------------------------------------------------------------------


def parse_system_one(raw: bytes) -> DecisionRequest:
    """Parse a body of POST /v1/systemone. Raises GatewayError."""
    given = request_json.parse_body(raw)
    request = DecisionRequest(
        task=given.required("model", request_json.parse_string),
        text=given.required(STATE, _state),
        questions=given.required("questions", _named_questions),
        on_low_confidence=given.optional(EXTENSION, _extension, AS_MODE),
    )
    given.refuse_rest({"assets": "Leave it out: a task reads text, not images."})
    return request


def _state(value: Any) -> str:
    if isinstance(value, list | dict):
        raise ValueError(f"must be a string; it is {request_json.type_name(value)}. A task reads text, as in training")
    return request_json.parse_string(value)


def _named_questions(value: Any) -> tuple[Question, ...]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object of named questions; it is {request_json.type_name(value)}")
    _check_count(len(value), 1, QUESTIONS_MAX, "question")
    return tuple(_named_question(_filled(name), each, f"questions.{name}") for name, each in value.items())


_SYSTEM_ONE_KINDS: Mapping[str, Kind] = {"noul": "predicate", "choice": "choice", "score": "score"}


def _named_question(name: str, value: Any, where: str) -> Question:
    members = request_json.parse_members(value, where)
    kind = _SYSTEM_ONE_KINDS[members.required("type", request_json.one_of(*_SYSTEM_ONE_KINDS))]
    instructions = members.optional("instructions", _instructions, "")
    if kind == "predicate":
        outcomes = members.present({"criteria": _object})
        if not instructions and not any(each for given in outcomes.values() for each in given.values()):
            raise GatewayError(f"'{where}' needs 'instructions', or an outcome described in 'criteria'", param=where)
        values: tuple[str | bool, ...] = ()
    elif kind == "choice":
        values = members.required("criteria", _criteria_labels)
    else:
        values = members.required("criteria", _criteria_levels)
    members.refuse_rest()
    return Question(kind, name, where, values)


def _criteria_labels(value: Any) -> tuple[str | bool, ...]:
    labels = tuple(_filled(each) for each in _object(value))
    _check_count(len(labels), CHOICES_MIN, CHOICES_MAX, "choice")
    return labels


def _criteria_levels(value: Any) -> tuple[str | bool, ...]:
    if not isinstance(value, list):
        raise ValueError(f"must be a list, one description a level; it is {request_json.type_name(value)}")
    _check_count(len(value), LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(str(level) for level in range(len(value)))
