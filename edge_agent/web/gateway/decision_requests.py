"""Parsing decision requests of two APIs. Pure; `decision_matching` finds what a task answers of them.

`/v1/decisions` is OpenAI's (`openai.resources.decisions`, package openai 3.57), `/v1/systemone` is TypeSafe's
(`typesafe_sdk`, 0.7.5). Both ask typed questions about one input: is it true (predicate), which of these (choice), how
much (score).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from edge_agent.client import OnLowConfidence
from edge_agent.web.gateway import message_text, request_json
from edge_agent.web.gateway.chat_request import AS_MODE, LOW_CONFIDENCE_POLICIES
from edge_agent.web.gateway.openai_errors import GatewayError
from edge_agent.web.gateway.openai_responses import EXTENSION
from edge_agent.web.gateway.request_json import JsonMembers

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
    """Of a level that has no label (System One), its place as text."""
    description: str = ""


@dataclass(frozen=True)
class RequestedQuestion:
    """One typed question."""

    kind: QuestionKind
    name: str | None
    where: str
    """Path of the question in the request, for errors."""
    instructions: str = ""
    """Empty where the API does not require them."""
    options: tuple[RequestedOption, ...] = ()
    """Of a choice or a score in the request's order; of a predicate False and True, where their meaning is given."""
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
    given = request_json.parse_body(raw)
    request = DecisionRequest(
        task=given.required("model", request_json.parse_string),
        text=given.required(INPUT, _input),
        questions=given.required("questions", _questions),
        on_low_confidence=_policy(given, headers),
    )
    given.present(_IGNORED)
    given.present({"prompt_cache_options": request_json.parse_object})
    given.refuse_rest()
    return request


def _policy(given: JsonMembers, headers: Mapping[str, str]) -> OnLowConfidence:
    """Read the policy: of the body, or of the header where a client cannot add a member to the body."""
    try:
        default = _POLICY(headers.get(POLICY_HEADER, AS_MODE))
    except ValueError as error:
        raise GatewayError(f"the header {POLICY_HEADER} {error}", param=POLICY_HEADER) from None
    return given.optional(EXTENSION, lambda value: _extension(value, default), default)


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
    return message_text.parse_user_message(value, INPUT, message_text.DECISION_PARTS)


def _questions(value: Any) -> tuple[RequestedQuestion, ...]:
    listed = request_json.parse_list(value, 1, QUESTIONS_MAX, "question")
    questions = tuple(_question(each, f"questions[{place}]") for place, each in enumerate(listed))
    names = [each.name for each in questions if each.name is not None]
    twice = next((each for each in names if names.count(each) > 1), None)
    if twice is not None:
        raise ValueError(f"must have names of their own; '{twice[: request_json.SHOWN_CHARS_MAX]}' is there twice")
    return questions


def _question(value: Any, where: str) -> RequestedQuestion:
    members = request_json.parse_members(value, where)
    kind: QuestionKind = members.required("type", request_json.one_of("predicate", "choice", "score"))
    name = members.optional("name", request_json.parse_filled, None)
    instructions = members.required("instructions", lambda given: _instructions(given, f"{where}.instructions"))
    options: tuple[RequestedOption, ...] = ()
    if kind == "choice":
        options = members.required("choices", lambda given: _choices(given, f"{where}.choices"))
    elif kind == "score":
        options = members.required("levels", lambda given: _levels(given, f"{where}.levels"))
    members.refuse_rest()
    return RequestedQuestion(kind, name, where, instructions, options)


def _instructions(value: Any, where: str) -> str:
    return request_json.parse_filled(message_text.parse_content(value, where, message_text.DECISION_PARTS))


def _choices(value: Any, where: str) -> tuple[RequestedOption, ...]:
    listed = request_json.parse_list(value, CHOICES_MIN, CHOICES_MAX, "choice")
    options = tuple(_described(each, f"{where}[{place}]", "value") for place, each in enumerate(listed))
    if len({(type(each.value), each.value) for each in options}) < len(options):
        raise ValueError("must be unique values")
    return options


def _levels(value: Any, where: str) -> tuple[RequestedOption, ...]:
    listed = request_json.parse_list(value, LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(_described(each, f"{where}[{place}]", "label") for place, each in enumerate(listed))


def _described(value: Any, where: str, member: str) -> RequestedOption:
    members = request_json.parse_members(value, where)
    given: str | bool = members.required(member, _value if member == "value" else request_json.parse_filled)
    description = members.optional("description", request_json.parse_string, "")
    members.refuse_rest()
    return RequestedOption(given, description)


def _value(value: Any) -> str | bool:
    return value if isinstance(value, bool) else request_json.parse_filled(value)


# --- System One ------------------------------------------------------------------------------------------------------


def parse_system_one(raw: bytes, headers: Mapping[str, str] = NO_HEADERS) -> DecisionRequest:
    """Parse a body of POST /v1/systemone. Raises GatewayError."""
    given = request_json.parse_body(raw)
    request = DecisionRequest(
        task=given.required("model", request_json.parse_string),
        text=given.required(STATE, _state),
        questions=given.required("questions", _named_questions),
        on_low_confidence=_policy(given, headers),
    )
    given.refuse_rest({"assets": "Leave it out: a task reads text, not images."})
    return request


def _state(value: Any) -> str:
    """Return the text, which may be given as JSON."""
    return message_text.parse_json_value(value) if isinstance(value, dict | list) else request_json.parse_string(value)


def _named_questions(value: Any) -> tuple[RequestedQuestion, ...]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object of named questions; it is {request_json.type_name(value)}")
    request_json.check_count(len(value), 1, QUESTIONS_MAX, "question")
    return tuple(
        _named_question(request_json.parse_filled(name), each, f"questions.{name}") for name, each in value.items()
    )


_SYSTEM_ONE_KINDS: Mapping[str, QuestionKind] = {"noul": "predicate", "choice": "choice", "score": "score"}


def _named_question(name: str, value: Any, where: str) -> RequestedQuestion:
    members = request_json.parse_members(value, where)
    kind = _SYSTEM_ONE_KINDS[members.required("type", request_json.one_of(*_SYSTEM_ONE_KINDS))]
    instructions = members.optional("instructions", lambda given: _instructions(given, f"{where}.instructions"), "")
    options: tuple[RequestedOption, ...] = ()
    if kind == "predicate":
        options = members.optional("criteria", lambda given: _outcomes(given, f"{where}.criteria"), options)
        if not instructions and not any(each.description for each in options):
            raise GatewayError(f"'{where}' needs 'instructions', or an outcome described in 'criteria'", param=where)
    elif kind == "choice":
        options = members.required("criteria", _criteria_labels)
    else:
        options = members.required("criteria", _criteria_levels)
    members.refuse_rest()
    return RequestedQuestion(kind, name, where, instructions, options, unlabelled=kind == "score")


def _outcomes(value: Any, where: str) -> tuple[RequestedOption, ...]:
    members = request_json.parse_members(value, where)
    given = {name: members.optional(name, request_json.parse_string, "") for name in ("false", "true")}
    members.refuse_rest()
    return RequestedOption(False, given["false"]), RequestedOption(True, given["true"])


def _criteria_labels(value: Any) -> tuple[RequestedOption, ...]:
    options = tuple(
        RequestedOption(request_json.parse_filled(label), _meaning(told))
        for label, told in request_json.parse_object(value).items()
    )
    request_json.check_count(len(options), CHOICES_MIN, CHOICES_MAX, "choice")
    return options


def _criteria_levels(value: Any) -> tuple[RequestedOption, ...]:
    listed = request_json.parse_list(value, LEVELS_MIN, LEVELS_MAX, "level")
    return tuple(RequestedOption(str(level), _meaning(told)) for level, told in enumerate(listed))


def _meaning(value: Any) -> str:
    return "" if value is None else request_json.parse_string(value)
