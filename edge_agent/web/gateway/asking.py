"""A chat completion as a caller asks for it, and what of it a task can do: pure.

The tasks of this agent are narrow and answer one text: instructions, examples and the template are in their bundle,
where they were tuned, measured and signed with the model. So the text is the one message of the user; a system message
or a history could only be put in its place, and is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

from edge_agent.client import GenerateOptions, OnLowConfidence, Task
from edge_agent.web.gateway import reading, schemas
from edge_agent.web.gateway.answers import EXTRA
from edge_agent.web.gateway.reading import Members
from edge_agent.web.gateway.refusals import Refused

PARTS_MAX = 64
STOPS_MAX = 4
STOP_CHARS_MAX = 64
TOP_LOGPROBS_MAX = 5
_UINT32_MAX = 2**32 - 1
WISHES: tuple[OnLowConfidence, ...] = get_args(OnLowConfidence)
AS_MODE: OnLowConfidence = "as_mode"

HARMLESS: Mapping[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("user", "safety_identifier", "prompt_cache_key"), reading.text),
    "n": reading.one_of(1),
    "top_p": reading.one_of(1),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), reading.one_of(0)),
    "store": reading.one_of(False),
    **dict.fromkeys(("logit_bias", "metadata"), reading.one_of({})),
    **dict.fromkeys(("tools", "functions"), reading.one_of([])),
    "tool_choice": reading.one_of("none", "auto"),
    "parallel_tool_calls": reading.flag,
    "modalities": reading.one_of(["text"]),
    "service_tier": reading.one_of("auto", "default"),
}
"""Members that clients send without wanting anything by them: each with the values that want nothing."""
_REMEDIES = {
    "tools": "Leave it out: a task answers one text, and calls nothing.",
    "functions": "Leave it out: a task answers one text, and calls nothing.",
    "input": "Write the text as the one user message of 'messages'.",
    "prompt": "Write the text as the one user message of 'messages'.",
}
_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "max_tokens": reading.whole(1, _UINT32_MAX),
    "max_completion_tokens": reading.whole(1, _UINT32_MAX),
    "temperature": reading.number(0, 2),
    "seed": reading.whole(0, _UINT32_MAX),
    "stop": lambda value: stops(value),
    "logprobs": reading.flag,
    "top_logprobs": reading.whole(0, TOP_LOGPROBS_MAX),
}
_EXTRA_OPTIONS: Mapping[str, Callable[[Any], Any]] = {
    "on_low_confidence": reading.one_of(*WISHES),
    "top_k": reading.whole(0, _UINT32_MAX),
    "escalate": reading.flag,
}
_LIMITS = ("max_tokens", "max_completion_tokens")
_GRADED = {"temperature", "seed", f"{EXTRA}.on_low_confidence"}
KINDS: Mapping[str, frozenset[str]] = {
    "GENERATE": frozenset({*_OPTIONS, f"{EXTRA}.escalate"}),
    "CLASSIFY": frozenset({*_GRADED, f"{EXTRA}.top_k"}),
    "EXTRACT": frozenset(_GRADED),
}
"""The options that a task of a kind has."""


@dataclass(frozen=True)
class Format:
    """What the answer is to look like."""

    kind: str = "text"
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Completion:
    """What a caller asks for."""

    task: str
    text: str
    stream: bool
    include_usage: bool
    format: Format
    options: Mapping[str, Any]
    """Those that were given, by the names that callers know."""

    def check(self, task: Task) -> None:
        """Raise Refused where the task cannot do what is asked."""
        known = KINDS.get(task.kind)
        if known is None:
            remedy = "Use /v1/embeddings." if task.kind == "EMBED" else ""
            said = f"'{task.name}' is of kind {task.kind.lower()}, and completes no chat"
            raise Refused(said, param="model", remedy=remedy, reason="TASK_KIND_MISMATCH")
        for name in self.options:
            if name not in known:
                raise _not_of(name, task)
        if task.kind == "GENERATE":
            self._check_length(task.output_tokens_max)
        elif self.options.get("temperature"):
            raise Refused(
                f"'{task.name}' always gives the likeliest answer", param="temperature", remedy="Set it to 0."
            )
        _check_format(self.format, task)

    def _check_length(self, most: int) -> None:
        for name in _LIMITS:
            if self.options.get(name, 0) > most:
                raise Refused(
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
            "escalate": self.options.get(f"{EXTRA}.escalate", False),
        }

    @property
    def on_low_confidence(self) -> OnLowConfidence:
        """What is to be done with an unsure answer."""
        wish: OnLowConfidence = self.options.get(f"{EXTRA}.on_low_confidence", AS_MODE)
        return wish

    @property
    def top_k(self) -> int:
        """How many scores are wanted; 0 = all."""
        return int(self.options.get(f"{EXTRA}.top_k", 0))


def completion(raw: bytes) -> Completion:
    """Read a request. Raises Refused."""
    asked = reading.body(raw)
    stream = asked.take("stream", reading.flag, False)
    usage = asked.take("stream_options", lambda value: _include_usage(value, stream), False)
    found = Completion(
        task=asked.need("model", reading.text),
        text=asked.need("messages", _text),
        stream=stream,
        include_usage=usage,
        format=asked.take("response_format", _format, Format()),
        options={**_with_logprobs(asked.given(_OPTIONS)), **asked.take(EXTRA, _extra, {})},
    )
    asked.given(HARMLESS)
    asked.end(_REMEDIES)
    return found


def _with_logprobs(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options without a 'logprobs' that wants none."""
    if options.get("logprobs"):
        return options
    if "top_logprobs" in options:
        raise Refused("'top_logprobs' is for 'logprobs'", param="top_logprobs", remedy="Set 'logprobs' to true.")
    return {name: value for name, value in options.items() if name != "logprobs"}


def _text(messages: Any) -> str:
    """Return what the user says."""
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        raise ValueError("must be a list of objects")
    roles = [str(each.get("role"))[:20] for each in messages[:8]]
    if len(messages) != 1 or roles != ["user"]:
        said = f"'messages' must be one message of the user; it holds {len(messages)}: {', '.join(roles) or 'none'}"
        remedy = "Send the user's text alone: the task brings its own prompt, and keeps no conversation."
        raise Refused(said, param="messages", remedy=remedy)
    message = Members(messages[0], "messages[0]")
    message.need("role", reading.text)
    written = message.need("content", _content)
    message.end()
    return written


def _content(content: Any) -> str:
    """Return a text, or its parts, each on a line of its own."""
    if not isinstance(content, list):
        return reading.text(content)
    if not 1 <= len(content) <= PARTS_MAX:
        raise ValueError(f"must have 1 to {PARTS_MAX} parts; it has {len(content)}")
    return "\n".join(_part(each, f"messages[0].content[{at}]") for at, each in enumerate(content))


def _part(value: Any, where: str) -> str:
    part = reading.members(value, where)
    part.need("type", reading.one_of("text"))
    written = part.need("text", reading.text)
    part.end()
    return written


def _include_usage(value: Any, stream: bool) -> bool:
    if not stream:
        raise ValueError("is for a stream: set 'stream' to true, or leave it out")
    options = reading.members(value, "stream_options")
    options.take("include_obfuscation", reading.one_of(False), False)
    wanted = options.take("include_usage", reading.flag, False)
    options.end()
    return wanted


def stops(value: Any) -> list[str]:
    """Read strings that end a text, or one of them."""
    found = [reading.text(value)] if isinstance(value, str) else reading.texts(value)
    if len(found) > STOPS_MAX or not all(0 < len(each) <= STOP_CHARS_MAX for each in found):
        raise ValueError(f"can be up to {STOPS_MAX} strings of 1 to {STOP_CHARS_MAX} characters")
    return found


def _extra(value: Any) -> dict[str, Any]:
    options = reading.members(value, EXTRA)
    found = options.given(_EXTRA_OPTIONS)
    options.end()
    return {f"{EXTRA}.{name}": given for name, given in found.items()}


def _format(value: Any) -> Format:
    given = reading.members(value, "response_format")
    kind = given.need("type", reading.one_of("text", "json_object", "json_schema"))
    schema = given.need("json_schema", _schema) if kind == "json_schema" else None
    given.end()
    return Format(kind, schema)


def _schema(value: Any) -> dict[str, Any]:
    given = reading.members(value, "response_format.json_schema")
    for name in ("name", "description"):
        given.take(name, reading.text, "")
    given.take("strict", reading.flag, False)
    found = given.need("schema", _as_it_is)
    given.end()
    return found


def _as_it_is(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"must be an object; it is {reading.named(value)}")
    return value


def _check_format(wanted: Format, task: Task) -> None:
    if wanted.kind != "text" and task.kind != "EXTRACT":
        said = f"'{task.name}' answers with {'a label' if task.kind == 'CLASSIFY' else 'text'}, not with JSON"
        raise Refused(said, param="response_format", remedy="Leave it out.")
    if wanted.schema is None:
        return
    if not task.record_schema:
        said = f"'{task.name}' finds its values in the text, and has no schema"
        raise Refused(said, param="response_format", remedy='Use {"type": "json_object"}, or leave it out.')
    other = schemas.difference(wanted.schema, json.loads(task.record_schema))
    if other:
        said = f"'{task.name}' writes its own record, and the schema wants another: {other}"
        remedy = "Leave it out, or use the schema of the task: GET /v1/models/TASK has it."
        raise Refused(said, param="response_format", remedy=remedy)


def _not_of(name: str, task: Task) -> Refused:
    known = ", ".join(sorted(KINDS[task.kind]))
    said = f"'{name}' is nothing that a task of kind {task.kind.lower()} has"
    return Refused(said, param=name, remedy=f"Leave it out; '{task.name}' has {known}.")
