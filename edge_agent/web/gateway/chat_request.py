"""Parsing a chat completion request, and checking it against what a task supports. Pure.

`message_text` reads the user's one message.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from edge_agent.client import GenerateOptions, OnLowConfidence, Task
from edge_agent.web.gateway import message_text, request_json, schema_comparison
from edge_agent.web.gateway.openai_errors import GatewayError
from edge_agent.web.gateway.openai_responses import EXTENSION

MESSAGES = "messages"
STOPS_MAX = 4
STOP_CHARS_MAX = 64
TOP_LOGPROBS_MAX = 5
_UINT32_MAX = 2**32 - 1
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
    "max_tokens": request_json.integer_in(1, _UINT32_MAX),
    "max_completion_tokens": request_json.integer_in(1, _UINT32_MAX),
    "temperature": request_json.number_in(0, 2),
    "seed": request_json.integer_in(0, _UINT32_MAX),
    "stop": lambda value: parse_stops(value),
    "logprobs": request_json.parse_bool,
    "top_logprobs": request_json.integer_in(0, TOP_LOGPROBS_MAX),
}
_EXTRA_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "on_low_confidence": request_json.one_of(*LOW_CONFIDENCE_POLICIES),
    "top_k": request_json.integer_in(0, _UINT32_MAX),
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
            MESSAGES, lambda given: message_text.parse_user_message(given, MESSAGES, message_text.CHAT_PARTS)
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
    other = schema_comparison.difference(requested.schema, json.loads(task.record_schema))
    if other:
        message = f"'{task.name}' writes its own record, and the schema wants another: {other}"
        remedy = "Leave it out, or use the schema of the task: GET /v1/models/TASK has it."
        raise GatewayError(message, param="response_format", remedy=remedy)


def _not_of(name: str, task: Task) -> GatewayError:
    known = ", ".join(sorted(KINDS[task.kind]))
    message = f"'{name}' is nothing that a task of kind {task.kind.lower()} has"
    return GatewayError(message, param=name, remedy=f"Leave it out; '{task.name}' has {known}.")
