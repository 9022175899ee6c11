"""Parsing JSON requests strictly: every member is read, or refused by its name; and the one text of a request. Pure.

An ignored parameter would mislead its caller. null means left out, as in OpenAI's API. Errors name the member, what it
can be, and what it is; pydantic's errors do not, and would need a translation longer than this module.

A task reads one text. Its instructions, examples and template are in the signed bundle, where they were measured with
the model. So a system message, a history or a function call is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from edge_agent.client.task_description import render_state
from edge_agent.formats import strict_json
from edge_agent.web.gateway.openai_responses import GatewayError

SHOWN_CHARS_MAX = 80
PROBLEM_CHARS_MAX = 120
UINT32_MAX = 2**32 - 1  # of a number in a call to the daemon
_T = TypeVar("_T")
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "a string"),
    (int, "a number"),
    (float, "a number"),
    (list, "a list"),
    (dict, "an object"),
)


class JsonMembers:
    """The unread members of an object."""

    def __init__(self, members: Mapping[str, Any], path: str = "") -> None:
        """Take an object's members; `path` is its path in the request, empty for the request itself."""
        self._unread = {name: value for name, value in members.items() if value is not None}
        self._path = path

    def optional(self, name: str, read: Callable[[Any], _T], default: _T) -> _T:
        """Read an optional member. `read` raises ValueError, whose text follows the name. Raises GatewayError."""
        if name not in self._unread:
            return default
        try:
            return read(self._unread.pop(name))
        except ValueError as error:
            raise GatewayError(f"'{self._path_of(name)}' {error}", param=self._path_of(name)) from None

    def required(self, name: str, read: Callable[[Any], _T]) -> _T:
        """Read a required member. Raises GatewayError."""
        if name not in self._unread:
            raise GatewayError(f"'{self._path_of(name)}' is missing", param=self._path_of(name))
        return self.optional(name, read, None)  # type: ignore[return-value] # it is there

    def present(self, names: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """Read those of these members that the request has. Raises GatewayError."""
        return {name: self.optional(name, read, None) for name, read in names.items() if name in self._unread}

    def refuse_rest(self, remedies: Mapping[str, str] | None = None) -> None:
        """Refuse unread members. `remedies` has advice for members of OpenAI's API. Raises GatewayError."""
        for name in self._unread:
            remedy = (remedies or {}).get(name, "Leave it out, or correct its name; docs/gateway.md lists all members.")
            shown = self._path_of(name)[:SHOWN_CHARS_MAX]
            raise GatewayError(f"'{shown}' is not supported here", param=shown, remedy=remedy)

    def _path_of(self, name: str) -> str:
        return f"{self._path}.{name}" if self._path else name


def parse_body(raw: bytes) -> JsonMembers:
    """Parse the body of a request. Raises GatewayError."""
    try:
        body = strict_json.decode(raw)
    except ValueError as error:
        raise GatewayError(f"the body cannot be read as JSON: {str(error)[:PROBLEM_CHARS_MAX]}") from None
    if not isinstance(body, dict):
        raise GatewayError(f"the body must be a JSON object; it is {type_name(body)}")
    return JsonMembers(body)


def type_name(value: Any) -> str:
    """Return the name of a JSON value's type."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "null")


def parse_string(value: Any) -> str:
    """Return a string. Raises ValueError."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string; it is {type_name(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    return value


def parse_strings(value: Any) -> list[str]:
    """Return a list of strings. Raises ValueError."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of strings")
    return [parse_string(each) for each in value]


def parse_filled(value: Any) -> str:
    """Return a string that is not only white space. Raises ValueError."""
    text = parse_string(value)
    if not text.strip():
        raise ValueError("must not be empty")
    return text


def parse_list(value: Any, minimum: int, maximum: int, noun: str) -> list[Any]:
    """Return a list of `minimum` to `maximum` items; `noun` names these in errors. Raises ValueError."""
    if not isinstance(value, list):
        raise ValueError(f"must be a list of {noun}s; it is {type_name(value)}")
    check_count(len(value), minimum, maximum, noun)
    return value


def check_count(count: int, minimum: int, maximum: int, noun: str) -> None:
    """Raise ValueError unless `count` is between `minimum` and `maximum`."""
    if not minimum <= count <= maximum:
        raise ValueError(f"must have {minimum} to {maximum} {noun}s; it has {count}")


def parse_object(value: Any) -> dict[str, Any]:
    """Return an object. Raises ValueError."""
    if not isinstance(value, dict):
        raise ValueError(f"must be an object; it is {type_name(value)}")
    return value


def parse_bool(value: Any) -> bool:
    """Return true or false. Raises ValueError."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false; it is {type_name(value)}")
    return value


def integer_in(minimum: int, maximum: int) -> Callable[[Any], int]:
    """Return a parser of whole numbers in a range."""

    def read(value: Any) -> int:
        if type(value) is not int or not minimum <= value <= maximum:
            raise ValueError(f"must be a whole number from {minimum} to {maximum}{_value_suffix(value)}")
        return value

    return read


def number_in(minimum: float, maximum: float) -> Callable[[Any], float]:
    """Return a parser of numbers in a range."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not minimum <= value <= maximum:
            raise ValueError(f"must be a number from {minimum:g} to {maximum:g}{_value_suffix(value)}")
        return float(value)

    return read


def one_of(*values: _T) -> Callable[[Any], _T]:
    """Return a parser that accepts these values only; true is not 1."""

    def read(value: Any) -> _T:
        for candidate in values:
            if isinstance(value, bool) == isinstance(candidate, bool) and value == candidate:
                return candidate
        choices = " or ".join(json.dumps(candidate) for candidate in values)
        raise ValueError(f"can only be {choices}{_value_suffix(value)}")

    return read


def parse_members(value: Any, path: str) -> JsonMembers:
    """Return the members of a nested object. Raises ValueError."""
    return JsonMembers(parse_object(value), path)


def _value_suffix(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"; it is {type_name(value)}"
    return f"; it is {json.dumps(value)[:SHOWN_CHARS_MAX]}"


PARTS_MAX = 64
_CACHE_HINTS = {"prompt_cache_breakpoint": parse_object}
"""Members without effect here, because nothing is cached between calls."""
_ROLES_SHOWN_MAX = 8
_ALONE = "Send the user's text alone: the task brings its own prompt, and keeps no conversation."


def _read_text(part: JsonMembers) -> str:
    return part.required("text", parse_string)


def _read_cached_text(part: JsonMembers) -> str:
    part.present(_CACHE_HINTS)
    return _read_text(part)


def _read_json(part: JsonMembers) -> str:
    return part.required("data", parse_json_value)


CHAT_PARTS = {"text": _read_text}
DECISION_PARTS = {"input_text": _read_cached_text, "input_json": _read_json}
"""The reader of each type of part."""
PartTypes = Mapping[str, Any]


def parse_user_message(value: Any, path: str, parts: PartTypes) -> str:
    """Return the text of a list of messages, which must be one of the user. Raises ValueError, GatewayError."""
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("must be a list of objects")
    roles = [str(each.get("role") or each.get("type"))[:20] for each in value[:_ROLES_SHOWN_MAX]]
    if len(value) != 1 or value[0].get("role") != "user":
        problem = f"'{path}' must be one message of the user; it holds {len(value)}: {', '.join(roles) or 'none'}"
        raise GatewayError(problem, param=path, remedy=_ALONE)
    message = JsonMembers(value[0], f"{path}[0]")
    message.required("role", parse_string)
    message.optional("type", one_of("message"), "message")
    text = message.required("content", lambda content: parse_content(content, f"{path}[0].content", parts))
    message.refuse_rest()
    return text


def parse_content(value: Any, path: str, parts: PartTypes) -> str:
    """Return a text, or parts joined by line breaks. Raises ValueError, GatewayError."""
    if not isinstance(value, list):
        return parse_string(value)
    check_count(len(value), 1, PARTS_MAX, "part")
    return "\n".join(_part(each, f"{path}[{index}]", parts) for index, each in enumerate(value))


def _part(value: Any, path: str, parts: PartTypes) -> str:
    part = parse_members(value, path)
    text: str = parts[part.required("type", one_of(*parts))](part)
    part.refuse_rest()
    return text


def parse_json_value(value: Any) -> str:
    """Return an object or a list as text. Raises ValueError."""
    if not isinstance(value, dict | list):
        raise ValueError(f"must be an object or a list; it is {type_name(value)}")
    return render_state(value)
