"""Parsing a chat completion request, and checking it and its JSON schema against what a task supports. Pure.

Every record of the task must match the caller's schema, and the caller must not require what the task never writes. A
wider schema matches (no 'maxLength', any string instead of a choice). Generated schemas are supported: '$defs', "any of
a type or null", titles.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from edge_agent.client import GenerateOptions, OnLowConfidence, Task
from edge_agent.web.gateway import request_json
from edge_agent.web.gateway.openai_responses import EXTENSION, GatewayError

NODES_MAX = 2000
"""Limit for a caller's schema with references resolved and values of enums counted; a task's own has 100 properties
and 1,000 values at most."""
_NOTES = frozenset(
    {"title", "description", "$schema", "$id", "$comment", "$defs", "definitions", "default", "examples"}
)
_REFERENCES = ("#/$defs/", "#/definitions/")
_JSON_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (list, "array"),
    (dict, "object"),
)
Schema = Mapping[str, Any]


def difference(caller: Schema, record: Schema) -> str:
    """Return where the caller's schema does not match; empty when it matches."""
    try:
        return _differs(_SchemaNormalizer(caller).node(caller), _SchemaNormalizer(record).node(record), "")
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "it refers to itself"


class _SchemaNormalizer:
    """Normalizes a schema: references resolved, types as lists, constants as choices."""

    def __init__(self, root: Schema) -> None:
        self._defined = {start: root.get(start[2:-1]) for start in _REFERENCES}
        self._nodes = 0

    def node(self, node: Any) -> dict[str, Any]:
        self._count(1)
        if not isinstance(node, dict):
            raise ValueError("a part of it is not an object")
        if "$ref" in node:
            return self.node(self._referred(node["$ref"]))
        plain = {keyword: value for keyword, value in node.items() if keyword not in _NOTES}
        if "const" in plain:
            plain["enum"] = [plain.pop("const")]
        if "enum" in plain:
            self._count(len(_listed(plain["enum"])))
            plain["type"] = sorted({_type_of(value) for value in plain["enum"]})
        if "type" in plain:
            plain["type"] = _types_of(plain["type"])
        return self._inside(plain)

    def _count(self, parts: int) -> None:
        self._nodes += parts
        if self._nodes > NODES_MAX:
            raise ValueError(f"it has more than {NODES_MAX} parts, or refers to itself")

    def _inside(self, plain: dict[str, Any]) -> dict[str, Any]:
        if "properties" in plain:
            named = plain["properties"]
            if not isinstance(named, dict):
                raise ValueError("'properties' is not an object")
            plain["properties"] = {name: self.node(inner) for name, inner in named.items()}
        if "items" in plain:
            plain["items"] = self.node(plain["items"])
        if "anyOf" in plain:
            return _or_null(plain, [self.node(each) for each in _listed(plain["anyOf"])])
        return plain

    def _referred(self, reference: Any) -> Any:
        for start, defined in self._defined.items():
            if isinstance(reference, str) and reference.startswith(start) and isinstance(defined, dict):
                return defined.get(reference.removeprefix(start))
        raise ValueError(f"it refers to {str(reference)[:80]!r}, which is not in it")


def _or_null(plain: dict[str, Any], branches: list[dict[str, Any]]) -> dict[str, Any]:
    """Rewrite "any of X or null" as an X that may be null, when X has a type."""
    others = [each for each in branches if each != {"type": ["null"]}]
    if len(others) != 1 or len(branches) != 2 or "type" not in others[0]:
        return {**plain, "anyOf": branches}
    [one] = others
    choice = {"enum": [*one["enum"], None]} if "enum" in one else {}
    rest = {keyword: value for keyword, value in plain.items() if keyword != "anyOf"}
    return {**rest, **one, **choice, "type": sorted({*one["type"], "null"})}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("'enum' or 'anyOf' is not a list")
    return value


def _types_of(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("a 'type' is neither a string nor a list of strings")
    return sorted(found)


def _type_of(value: Any) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def _differs(caller: Schema, record: Schema, at: str) -> str:
    """Return the first difference of two normalized schemas."""
    for keyword in caller:
        if keyword == "properties":
            other = _properties(caller[keyword], record.get(keyword, {}), at)
        elif keyword == "items":
            other = _differs(caller[keyword], record.get(keyword, {}), f"{at}[]")
        else:
            other = "" if _FITS.get(keyword, _same)(keyword, caller, record) else f"'{keyword}' of {at or 'the record'}"
        if other:
            return other
    return ""


def _properties(caller: Schema, record: Schema, at: str) -> str:
    for name, inner in caller.items():
        place = f"{at}.{name}" if at else name
        if name not in record:
            return f"'{place}', which is not in it"
        other = _differs(inner, record[name], place)
        if other:
            return other
    return ""


def _same(keyword: str, caller: Schema, record: Schema) -> bool:
    return bool(caller[keyword] == record.get(keyword))


def _types(_keyword: str, caller: Schema, record: Schema) -> bool:
    """Compare types; an integer is a number."""
    able = {*caller["type"], *(["integer"] if "number" in caller["type"] else [])}
    return "type" in record and able.issuperset(record["type"])


def _values(_keyword: str, caller: Schema, record: Schema) -> bool:
    return "enum" in record and all(each in caller["enum"] for each in record["enum"])


def _required(_keyword: str, caller: Schema, record: Schema) -> bool:
    named = caller["required"]
    return isinstance(named, list) and all(each in record.get("required", ()) for each in named)


def _closed(_keyword: str, caller: Schema, record: Schema) -> bool:
    """Compare 'additionalProperties': a task's record has the properties of its schema only."""
    more = caller["additionalProperties"]
    return more is True or (
        more is False and record.get("properties", {}).keys() <= caller.get("properties", {}).keys()
    )


def _at_most(keyword: str, caller: Schema, record: Schema) -> bool:
    limit = caller[keyword]
    return isinstance(limit, int | float) and keyword in record and bool(record[keyword] <= limit)


def _at_least(keyword: str, caller: Schema, record: Schema) -> bool:
    limit = caller[keyword]
    return isinstance(limit, int | float) and keyword in record and bool(record[keyword] >= limit)


_FITS: Mapping[str, Callable[[str, Schema, Schema], bool]] = {
    "type": _types,
    "enum": _values,
    "required": _required,
    "additionalProperties": _closed,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), _at_least),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), _at_most),
}


MESSAGES = "messages"
STOPS_MAX = 4
STOP_CHARS_MAX = 64
TOP_LOGPROBS_MAX = 5
LOW_CONFIDENCE_POLICIES: tuple[OnLowConfidence, ...] = get_args(OnLowConfidence)
AS_MODE: OnLowConfidence = "as_mode"

IGNORED_MEMBERS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key"), request_json.parse_string),
    "n": request_json.one_of(1),
    "top_p": request_json.one_of(1),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), request_json.one_of(0)),
    "store": request_json.one_of(False),
    **dict.fromkeys(("logit_bias", "metadata"), request_json.one_of({})),
    **dict.fromkeys(("tools", "functions"), request_json.one_of([])),
    "tool_choice": request_json.one_of("none", "auto"),
    "parallel_tool_calls": request_json.parse_bool,
    "modalities": request_json.one_of(["text"]),
    "service_tier": request_json.one_of("auto", "default"),
}
"""Members that clients send by default, each with the values that request nothing."""
_REMEDIES = {
    "tools": "Leave it out: a task answers one text, and calls nothing.",
    "functions": "Leave it out: a task answers one text, and calls nothing.",
    "input": "Write the text as the one user message of 'messages'.",
    "prompt": "Write the text as the one user message of 'messages'.",
}
_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "max_tokens": request_json.integer_in(1, request_json.UINT32_MAX),
    "max_completion_tokens": request_json.integer_in(1, request_json.UINT32_MAX),
    "temperature": request_json.number_in(0, 2),
    "seed": request_json.integer_in(0, request_json.UINT32_MAX),
    "stop": lambda value: parse_stops(value),
    "logprobs": request_json.parse_bool,
    "top_logprobs": request_json.integer_in(0, TOP_LOGPROBS_MAX),
}
_EXTRA_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "on_low_confidence": request_json.one_of(*LOW_CONFIDENCE_POLICIES),
    "top_k": request_json.integer_in(0, request_json.UINT32_MAX),
    "escalate": request_json.parse_bool,
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_GRADED = {"temperature", "seed", f"{EXTENSION}.on_low_confidence"}
KINDS: Mapping[str, frozenset[str]] = {
    "GENERATE": frozenset({*_OPTIONS, f"{EXTENSION}.escalate"}),
    "CLASSIFY": frozenset({*_GRADED, f"{EXTENSION}.top_k"}),
    "EXTRACT": frozenset(_GRADED),
}
"""The options of each kind of task."""


@dataclass(frozen=True)
class ResponseFormat:
    """The requested format of the answer."""

    kind: str = "text"
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatRequest:
    """A parsed request."""

    task: str
    text: str
    stream: bool
    include_usage: bool
    format: ResponseFormat
    options: Mapping[str, Any]
    """The given options, by the names that callers use."""

    def require_supported(self, task: Task) -> None:
        """Check the request against a task. Raises GatewayError when the task does not support it."""
        known = KINDS.get(task.kind)
        if known is None:
            remedy = "Use /v1/embeddings." if task.kind == "EMBED" else ""
            message = f"'{task.name}' is of kind {task.kind.lower()}, and completes no chat"
            raise GatewayError(message, param="model", remedy=remedy, reason="TASK_KIND_MISMATCH")
        for name in self.options:
            if name not in known:
                raise _not_of(name, task)
        if task.kind == "GENERATE":
            self._check_length(task.output_tokens_max)
        elif self.options.get("temperature"):
            raise GatewayError(
                f"'{task.name}' always gives the likeliest answer", param="temperature", remedy="Set it to 0."
            )
        _check_format(self.format, task)

    def _check_length(self, most: int) -> None:
        for name in _LIMITS:
            if self.options.get(name, 0) > most:
                raise GatewayError(
                    f"'{name}' is {self.options[name]}; the task's limit is {most}",
                    param=name,
                    remedy="Leave it out for the task's limit.",
                )

    def generate_options(self, request_id: str = "") -> GenerateOptions:
        """Return the options of a generation."""
        return {
            "request_id": request_id,
            "output_tokens_max": min((self.options[name] for name in _LIMITS if name in self.options), default=0),
            "temperature": self.options.get("temperature"),
            "seed": self.options.get("seed"),
            "stops": self.options.get("stop", ()),
            "logprobs": self.options.get("top_logprobs", 0) if "logprobs" in self.options else None,
            "escalate": self.options.get(f"{EXTENSION}.escalate", False),
        }

    @property
    def on_low_confidence(self) -> OnLowConfidence:
        """Policy for an answer below the threshold."""
        policy: OnLowConfidence = self.options.get(f"{EXTENSION}.on_low_confidence", AS_MODE)
        return policy

    @property
    def top_k(self) -> int:
        """Number of scores to return; 0 for all."""
        return int(self.options.get(f"{EXTENSION}.top_k", 0))


def parse_chat_request(raw: bytes) -> ChatRequest:
    """Parse a request. Raises GatewayError."""
    asked = request_json.parse_body(raw)
    stream = asked.optional("stream", request_json.parse_bool, False)
    usage = asked.optional("stream_options", lambda value: _include_usage(value, stream), False)
    found = ChatRequest(
        task=asked.required("model", request_json.parse_string),
        text=asked.required(
            MESSAGES, lambda given: request_json.parse_user_message(given, MESSAGES, request_json.CHAT_PARTS)
        ),
        stream=stream,
        include_usage=usage,
        format=asked.optional("response_format", _format, ResponseFormat()),
        options={**_with_logprobs(asked.present(_OPTIONS)), **asked.optional(EXTENSION, _extra, {})},
    )
    asked.present(IGNORED_MEMBERS)
    asked.refuse_rest(_REMEDIES)
    return found


def _with_logprobs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without a 'logprobs' that is false."""
    if options.get("logprobs"):
        return options
    if "top_logprobs" in options:
        raise GatewayError("'top_logprobs' is for 'logprobs'", param="top_logprobs", remedy="Set 'logprobs' to true.")
    return {name: value for name, value in options.items() if name != "logprobs"}


def _include_usage(value: Any, stream: bool) -> bool:
    if not stream:
        raise ValueError("is for a stream: set 'stream' to true, or leave it out")
    options = request_json.parse_members(value, "stream_options")
    options.optional("include_obfuscation", request_json.one_of(False), False)
    requested = options.optional("include_usage", request_json.parse_bool, False)
    options.refuse_rest()
    return requested


def parse_stops(value: Any) -> list[str]:
    """Parse one stop string, or a list of them."""
    found = [request_json.parse_string(value)] if isinstance(value, str) else request_json.parse_strings(value)
    if len(found) > STOPS_MAX or not all(0 < len(each) <= STOP_CHARS_MAX for each in found):
        raise ValueError(f"can be up to {STOPS_MAX} strings of 1 to {STOP_CHARS_MAX} characters")
    return found


def _extra(value: Any) -> dict[str, Any]:
    options = request_json.parse_members(value, EXTENSION)
    found = options.present(_EXTRA_OPTIONS)
    options.refuse_rest()
    return {f"{EXTENSION}.{name}": given for name, given in found.items()}


def _format(value: Any) -> ResponseFormat:
    given = request_json.parse_members(value, "response_format")
    kind = given.required("type", request_json.one_of("text", "json_object", "json_schema"))
    schema = given.required("json_schema", _schema) if kind == "json_schema" else None
    given.refuse_rest()
    return ResponseFormat(kind, schema)


def _schema(value: Any) -> dict[str, Any]:
    given = request_json.parse_members(value, "response_format.json_schema")
    for name in ("name", "description"):
        given.optional(name, request_json.parse_string, "")
    given.optional("strict", request_json.parse_bool, False)
    found = given.required("schema", request_json.parse_object)
    given.refuse_rest()
    return found


def _check_format(requested: ResponseFormat, task: Task) -> None:
    if requested.kind != "text" and task.kind != "EXTRACT":
        message = f"'{task.name}' answers with {'a label' if task.kind == 'CLASSIFY' else 'text'}, not with JSON"
        raise GatewayError(message, param="response_format", remedy="Leave it out.")
    if requested.schema is None:
        return
    if not task.record_schema:
        message = f"'{task.name}' finds its values in the text, and has no schema"
        raise GatewayError(message, param="response_format", remedy='Use {"type": "json_object"}, or leave it out.')
    other = difference(requested.schema, json.loads(task.record_schema))
    if other:
        message = f"'{task.name}' writes its own record, and the schema wants another: {other}"
        remedy = "Leave it out, or use the schema of the task: GET /v1/models/TASK has it."
        raise GatewayError(message, param="response_format", remedy=remedy)


def _not_of(name: str, task: Task) -> GatewayError:
    known = ", ".join(sorted(KINDS[task.kind]))
    message = f"'{name}' is nothing that a task of kind {task.kind.lower()} has"
    return GatewayError(message, param=name, remedy=f"Leave it out; '{task.name}' has {known}.")
