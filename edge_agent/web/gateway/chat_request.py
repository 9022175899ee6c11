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
_ANNOTATIONS = frozenset(
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
        return _first_difference(_SchemaNormalizer(caller).normalized, _SchemaNormalizer(record).normalized, "")
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "it refers to itself"


class _SchemaNormalizer:
    """Normalizes a schema: references resolved, types as lists, constants as choices."""

    def __init__(self, root: Schema) -> None:
        self._definitions = {prefix: root.get(prefix[2:-1]) for prefix in _REFERENCES}
        self._nodes = 0
        self.normalized = self._normalize(root)

    def _normalize(self, node: Any) -> dict[str, Any]:
        self._count(1)
        if not isinstance(node, dict):
            raise ValueError("a part of it is not an object")
        if "$ref" in node:
            return self._normalize(self._resolve(node["$ref"]))
        schema = {keyword: value for keyword, value in node.items() if keyword not in _ANNOTATIONS}
        if "const" in schema:
            schema["enum"] = [schema.pop("const")]
        if "enum" in schema:
            self._count(len(_require_list(schema["enum"])))
            schema["type"] = sorted({_type_of(value) for value in schema["enum"]})
        if "type" in schema:
            schema["type"] = _types_of(schema["type"])
        return self._normalize_parts(schema)

    def _count(self, parts: int) -> None:
        self._nodes += parts
        if self._nodes > NODES_MAX:
            raise ValueError(f"it has more than {NODES_MAX} parts, or refers to itself")

    def _normalize_parts(self, schema: dict[str, Any]) -> dict[str, Any]:
        if "properties" in schema:
            properties = schema["properties"]
            if not isinstance(properties, dict):
                raise ValueError("'properties' is not an object")
            schema["properties"] = {name: self._normalize(value) for name, value in properties.items()}
        if "items" in schema:
            schema["items"] = self._normalize(schema["items"])
        if "anyOf" in schema:
            return _merge_null(schema, [self._normalize(each) for each in _require_list(schema["anyOf"])])
        return schema

    def _resolve(self, reference: Any) -> Any:
        for prefix, definitions in self._definitions.items():
            if isinstance(reference, str) and reference.startswith(prefix) and isinstance(definitions, dict):
                return definitions.get(reference.removeprefix(prefix))
        raise ValueError(f"it refers to {str(reference)[:80]!r}, which is not in it")


def _merge_null(schema: dict[str, Any], branches: list[dict[str, Any]]) -> dict[str, Any]:
    """Rewrite "any of X or null" as an X that may be null, when X has a type."""
    non_null = [each for each in branches if each != {"type": ["null"]}]
    if len(non_null) != 1 or len(branches) != 2 or "type" not in non_null[0]:
        return {**schema, "anyOf": branches}
    [branch] = non_null
    choice = {"enum": [*branch["enum"], None]} if "enum" in branch else {}
    others = {keyword: value for keyword, value in schema.items() if keyword != "anyOf"}
    return {**others, **branch, **choice, "type": sorted({*branch["type"], "null"})}


def _require_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("'enum' or 'anyOf' is not a list")
    return value


def _types_of(value: Any) -> list[str]:
    types = [value] if isinstance(value, str) else value
    if not isinstance(types, list) or not all(isinstance(each, str) for each in types):
        raise ValueError("a 'type' is neither a string nor a list of strings")
    return sorted(types)


def _type_of(value: Any) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def _first_difference(caller: Schema, record: Schema, path: str) -> str:
    """Return the first difference of two normalized schemas."""
    for keyword in caller:
        difference = ""
        if keyword == "properties":
            difference = _properties_difference(caller[keyword], record.get(keyword, {}), path)
        elif keyword == "items":
            difference = _first_difference(caller[keyword], record.get(keyword, {}), f"{path}[]")
        elif not _COMPARISONS.get(keyword, _is_same)(keyword, caller, record):
            difference = f"'{keyword}' of {path or 'the record'}"
        if difference:
            return difference
    return ""


def _properties_difference(caller: Schema, record: Schema, path: str) -> str:
    for name, schema in caller.items():
        member = f"{path}.{name}" if path else name
        if name not in record:
            return f"'{member}', which is not in it"
        difference = _first_difference(schema, record[name], member)
        if difference:
            return difference
    return ""


def _is_same(keyword: str, caller: Schema, record: Schema) -> bool:
    return bool(caller[keyword] == record.get(keyword))


def _types_match(_keyword: str, caller: Schema, record: Schema) -> bool:
    """Compare types; an integer is a number."""
    accepted = {*caller["type"], *(["integer"] if "number" in caller["type"] else [])}
    return "type" in record and accepted.issuperset(record["type"])


def _values_match(_keyword: str, caller: Schema, record: Schema) -> bool:
    return "enum" in record and all(each in caller["enum"] for each in record["enum"])


def _required_match(_keyword: str, caller: Schema, record: Schema) -> bool:
    names = caller["required"]
    return isinstance(names, list) and all(each in record.get("required", ()) for each in names)


def _additional_properties_match(_keyword: str, caller: Schema, record: Schema) -> bool:
    """Compare 'additionalProperties': a task's record has the properties of its schema only."""
    additional = caller["additionalProperties"]
    return additional is True or (
        additional is False and record.get("properties", {}).keys() <= caller.get("properties", {}).keys()
    )


def _at_most(keyword: str, caller: Schema, record: Schema) -> bool:
    limit = caller[keyword]
    return isinstance(limit, int | float) and keyword in record and bool(record[keyword] <= limit)


def _at_least(keyword: str, caller: Schema, record: Schema) -> bool:
    limit = caller[keyword]
    return isinstance(limit, int | float) and keyword in record and bool(record[keyword] >= limit)


_COMPARISONS: Mapping[str, Callable[[str, Schema, Schema], bool]] = {
    "type": _types_match,
    "enum": _values_match,
    "required": _required_match,
    "additionalProperties": _additional_properties_match,
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
    **dict.fromkeys(("tools", "functions"), "Leave it out: a task answers one text, and calls nothing."),
    **dict.fromkeys(("input", "prompt"), "Write the text as the one user message of 'messages'."),
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
        supported = KINDS.get(task.kind)
        if supported is None:
            remedy = "Use /v1/embeddings." if task.kind == "EMBED" else ""
            message = f"'{task.name}' is of kind {task.kind.lower()}, and completes no chat"
            raise GatewayError(message, param="model", remedy=remedy, reason="TASK_KIND_MISMATCH")
        for name in self.options:
            if name not in supported:
                message = f"a task of kind {task.kind.lower()} does not support '{name}'"
                remedy = f"Leave it out; '{task.name}' supports {', '.join(sorted(supported))}."
                raise GatewayError(message, param=name, remedy=remedy)
        if task.kind == "GENERATE":
            for name in _LIMITS:
                if self.options.get(name, 0) > task.output_tokens_max:
                    message = f"'{name}' is {self.options[name]}; the task's limit is {task.output_tokens_max}"
                    raise GatewayError(message, param=name, remedy="Leave it out for the task's limit.")
        elif self.options.get("temperature"):
            message = f"'{task.name}' always gives the likeliest answer"
            raise GatewayError(message, param="temperature", remedy="Set it to 0.")
        _check_format(self.format, task)

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
    members = request_json.parse_body(raw)
    stream = members.optional("stream", request_json.parse_bool, False)
    usage = members.optional("stream_options", lambda value: _parse_include_usage(value, stream), False)
    request = ChatRequest(
        task=members.required("model", request_json.parse_string),
        text=members.required(
            MESSAGES, lambda value: request_json.parse_user_message(value, MESSAGES, request_json.CHAT_PARTS)
        ),
        stream=stream,
        include_usage=usage,
        format=members.optional("response_format", _parse_format, ResponseFormat()),
        options={**_with_logprobs(members.present(_OPTIONS)), **members.optional(EXTENSION, _parse_extension, {})},
    )
    members.present(IGNORED_MEMBERS)
    members.refuse_rest(_REMEDIES)
    return request


def _with_logprobs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without a 'logprobs' that is false."""
    if options.get("logprobs"):
        return options
    if "top_logprobs" in options:
        raise GatewayError("'top_logprobs' is for 'logprobs'", param="top_logprobs", remedy="Set 'logprobs' to true.")
    return {name: value for name, value in options.items() if name != "logprobs"}


def _parse_include_usage(value: Any, stream: bool) -> bool:
    if not stream:
        raise ValueError("is for a stream: set 'stream' to true, or leave it out")
    options = request_json.parse_members(value, "stream_options")
    options.optional("include_obfuscation", request_json.one_of(False), False)
    include_usage = options.optional("include_usage", request_json.parse_bool, False)
    options.refuse_rest()
    return include_usage


def parse_stops(value: Any) -> list[str]:
    """Parse one stop string, or a list of them."""
    stops = [request_json.parse_string(value)] if isinstance(value, str) else request_json.parse_strings(value)
    if len(stops) > STOPS_MAX or not all(0 < len(stop) <= STOP_CHARS_MAX for stop in stops):
        raise ValueError(f"can be up to {STOPS_MAX} strings of 1 to {STOP_CHARS_MAX} characters")
    return stops


def _parse_extension(value: Any) -> dict[str, Any]:
    options = request_json.parse_members(value, EXTENSION)
    parsed = options.present(_EXTRA_OPTIONS)
    options.refuse_rest()
    return {f"{EXTENSION}.{name}": option for name, option in parsed.items()}


def _parse_format(value: Any) -> ResponseFormat:
    members = request_json.parse_members(value, "response_format")
    kind = members.required("type", request_json.one_of("text", "json_object", "json_schema"))
    schema = members.required("json_schema", _parse_schema) if kind == "json_schema" else None
    members.refuse_rest()
    return ResponseFormat(kind, schema)


def _parse_schema(value: Any) -> dict[str, Any]:
    members = request_json.parse_members(value, "response_format.json_schema")
    for name in ("name", "description"):
        members.optional(name, request_json.parse_string, "")
    members.optional("strict", request_json.parse_bool, False)
    schema = members.required("schema", request_json.parse_object)
    members.refuse_rest()
    return schema


def _check_format(requested: ResponseFormat, task: Task) -> None:
    if requested.kind != "text" and task.kind != "EXTRACT":
        message = f"'{task.name}' answers with {'a label' if task.kind == 'CLASSIFY' else 'text'}, not with JSON"
        raise GatewayError(message, param="response_format", remedy="Leave it out.")
    if requested.schema is None:
        return
    if not task.record_schema:
        message = f"'{task.name}' finds its values in the text, and has no schema"
        raise GatewayError(message, param="response_format", remedy='Use {"type": "json_object"}, or leave it out.')
    mismatch = difference(requested.schema, json.loads(task.record_schema))
    if mismatch:
        message = f"'{task.name}' writes its own record, and the schema requires another: {mismatch}"
        remedy = "Leave it out, or use the schema of the task: GET /v1/models/TASK has it."
        raise GatewayError(message, param="response_format", remedy=remedy)
