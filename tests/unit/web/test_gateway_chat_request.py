"""Chat completion requests: what is parsed, what is refused by name, and when a caller's schema agrees with the
task's."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.responses import JSONResponse

from edge_agent.client import BundleRef, Task
from edge_agent.web.gateway import chat_request
from edge_agent.web.gateway.chat_request import ChatRequest, difference
from edge_agent.web.gateway.openai_responses import GatewayError
from tests.support.bundles import RECORD_SCHEMA

RECORDS: list[dict[str, Any]] = [
    {"product": "lamp", "count": 2, "wish": "refund", "day": "2026-11-03"},
    {"product": "", "count": None, "wish": "other", "day": None},
]
"""Of the task."""


class Record(BaseModel):
    """A record as a program defines it."""

    product: str
    count: int | None
    wish: Literal["refund", "exchange", "price", "other"]
    day: str | None


def but(**properties: Any) -> dict[str, Any]:
    """Return the task's schema with other properties."""
    return {**RECORD_SCHEMA, "properties": {**RECORD_SCHEMA["properties"], **properties}}


def without(*keywords: str) -> dict[str, Any]:
    return {keyword: value for keyword, value in RECORD_SCHEMA.items() if keyword not in keywords}


ALIKE = [
    RECORD_SCHEMA,
    Record.model_json_schema(),
    {},
    {"type": "object"},
    without("required", "additionalProperties"),
    {**RECORD_SCHEMA, "additionalProperties": True, "title": "Record", "description": "what a customer wants"},
    but(product={"type": "string"}),
    but(product={"type": "string", "maxLength": 100}),
    but(count={"type": ["number", "null"], "maximum": 10_000}),
    but(count={"anyOf": [{"type": "integer"}, {"type": "null"}]}),
    but(wish={"type": "string"}),
    but(wish={"enum": ["refund", "exchange", "price", "other", "praise"]}),
    but(wish={"$ref": "#/$defs/wish"}) | {"$defs": {"wish": {"enum": ["refund", "exchange", "price", "other"]}}},
]
OTHER = [
    (but(colour={"type": "string"}), "'colour', which is not in it"),
    (but(product={"type": "integer"}), "'type' of product"),
    (but(product={"type": "string", "maxLength": 10}), "'maxLength' of product"),
    (but(product={"type": "string", "pattern": "^a"}), "'pattern' of product"),
    (but(product={"type": "string", "minLength": 1}), "'minLength' of product"),
    (but(count={"type": "integer"}), "'type' of count"),
    (but(wish={"enum": ["refund"]}), "'enum' of wish"),
    (but(wish={"const": "refund"}), "'enum' of wish"),
    (but(day={"type": "string", "format": "date"}), "'type' of day"),
    ({**RECORD_SCHEMA, "type": "array"}, "'type' of the record"),
    ({**without("properties"), "properties": {"product": {"type": "string"}}}, "'additionalProperties' of the record"),
    ({**RECORD_SCHEMA, "minProperties": 2}, "'minProperties' of the record"),
    ({**RECORD_SCHEMA, "required": "all"}, "'required' of the record"),
    ({**RECORD_SCHEMA, "properties": []}, "'properties' is not an object"),
    (but(product=7), "a part of it is not an object"),
    (but(product={"$ref": "#/$defs/none"}), "which is not in it"),
    (but(product={"$ref": "#/$defs/none"}) | {"$defs": {}}, "a part of it is not an object"),
    (but(product={"$ref": "https://example.com/schema"}), "which is not in it"),
    (but(product={"type": [{}]}), "a 'type' is neither a string"),
    (but(product={"anyOf": 7}), "is not a list"),
    (but(product={"enum": 7}), "is not a list"),
    (but(product={"anyOf": [{"type": "string"}, {"type": "integer"}]}), "'anyOf' of product"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
    ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}] * 9}}}, "refers to itself"),
]


@pytest.mark.parametrize("schema", ALIKE)
def test_equivalent_or_wider_schema_is_accepted(schema: dict[str, Any]) -> None:
    """Every record of the task is valid under a schema that is accepted."""
    assert "" == difference(schema, RECORD_SCHEMA)
    for record in RECORDS:
        jsonschema.validate(record, schema)


@pytest.mark.parametrize(("schema", "where"), OTHER)
def test_different_schema_is_refused_with_the_position(schema: dict[str, Any], where: str) -> None:
    """The error has the position and keyword of the difference, also for an invalid schema."""
    assert where in difference(schema, RECORD_SCHEMA)


def test_schemas_of_lists_are_compared_by_items_and_length() -> None:
    """What their items are, and how many there may be."""
    kept = {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3}
    assert "" == difference({"type": "array", "items": {"type": "string"}, "maxItems": 4, "minItems": 0}, kept)
    assert "'type' of []" == difference({"type": "array", "items": {"type": "integer"}}, kept)
    assert "'minItems' of the record" == difference({"type": "array", "minItems": 2}, kept)


def test_schema_with_too_many_parts_is_refused_at_once() -> None:
    """Each reference counts the values of an enum again, so a body of 4 MiB cannot block the console for minutes."""
    wide = {"enum": ["refund", "exchange", "price", "other", *map(str, range(1_500))]}
    defined = {"$defs": {"wide": wide}}
    assert "" == difference(but(wish={"$ref": "#/$defs/wide"}) | defined, RECORD_SCHEMA)
    twice = {"anyOf": [{"$ref": "#/$defs/wide"}, {"$ref": "#/$defs/wide"}]}
    assert "it has more than 2000 parts" in difference(but(wish=twice) | defined, RECORD_SCHEMA)


HELLO = [{"role": "user", "content": "hello"}]


def task(kind: str, record_schema: dict[str, Any] | None = None) -> Task:
    schema = json.dumps(record_schema) if record_schema else ""
    ref = BundleRef("till", "1.0.0", "ab" * 32)
    return Task(
        name="till",
        kind=kind,
        bundle=ref,
        labels=("refund", "price"),
        input_tokens_max=100,
        output_tokens_max=50,
        inputs_max=4,
        ready=True,
        signed=True,
        threshold=None,
        record_schema=schema,
    )


def read(**more: Any) -> ChatRequest:
    return chat_request.parse_chat_request(json.dumps({"model": "till", "messages": HELLO, **more}).encode())


def refused(**more: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        read(**more)
    return caught.value


def unfit(kind: str, record_schema: dict[str, Any] | None = None, **more: Any) -> GatewayError:
    asked = read(**more)
    with pytest.raises(GatewayError) as caught:
        asked.require_supported(task(kind, record_schema))
    return caught.value


def test_plain_request_has_the_text_of_the_user() -> None:
    """Only model and messages are required; null counts as absent."""
    asked = read(temperature=None, tools=None)
    assert ("till", "hello", False, {}) == (asked.task, asked.text, asked.stream, asked.options)
    nothing = {
        "output_tokens_max": 0,
        "temperature": None,
        "seed": None,
        "stops": (),
        "logprobs": None,
        "escalate": False,
    }
    assert {"request_id": "r-1", **nothing} == asked.generate_options("r-1")


def test_text_parts_of_a_message_are_joined() -> None:
    """The text parts of a message are joined by line breaks."""
    parts = [{"type": "text", "text": "hello"}, {"type": "text", "text": "again"}]
    assert "hello\nagain" == read(messages=[{"role": "user", "content": parts}]).text


def test_generation_options_are_parsed() -> None:
    """OpenAI's names are used; the lower of two limits counts."""
    asked = read(
        temperature=0.5,
        seed=7,
        stop="END",
        max_tokens=20,
        max_completion_tokens=10,
        logprobs=True,
        top_logprobs=2,
        edge_agent={"escalate": True},
    )
    asked.require_supported(task("GENERATE"))
    expected = {"output_tokens_max": 10, "temperature": 0.5, "seed": 7, "stops": ["END"]}
    assert {"request_id": "", **expected, "logprobs": 2, "escalate": True} == asked.generate_options()


def test_default_values_of_clients_are_accepted() -> None:
    """OpenAI's default values and the user's name are accepted."""
    read(user="till-3", n=1, top_p=1.0, presence_penalty=0, logprobs=False, tools=[], tool_choice="auto", store=False)
    read(
        metadata={}, service_tier="auto", parallel_tool_calls=True, stream=True, stream_options={"include_usage": True}
    )


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"messages": []}, "messages", "must be one message of the user; it holds 0: none"),
        ({"messages": [{"role": "system", "content": "x"}, *HELLO]}, "messages", "it holds 2: system, user"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "it holds 1: assistant"),
        ({"messages": "hello"}, "messages", "'messages' must be a list of objects"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "is missing"),
        ({"messages": [{**HELLO[0], "name": "x"}]}, "messages[0].name", "is not supported here"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "must be a string; it is a number"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "must have 1 to 64 parts; it has 0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0].type",
            'can only be "text"; it is "image_url"',
        ),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages[0].content", "half of a surrogate pair"),
        ({"temperature": 3}, "temperature", "must be a number from 0 to 2; it is 3"),
        ({"temperature": True}, "temperature", "must be a number from 0 to 2; it is true"),
        ({"seed": -1}, "seed", "must be a whole number from 0 to 4294967295; it is -1"),
        ({"max_tokens": 0}, "max_tokens", "must be a whole number from 1 to"),
        ({"max_tokens": 1.5}, "max_tokens", "it is 1.5"),
        ({"stop": ["a"] * 5}, "stop", "can be up to 4 strings of 1 to 64 characters"),
        ({"stop": ""}, "stop", "can be up to 4 strings"),
        ({"stop": [1]}, "stop", "must be a list of strings"),
        ({"n": 2}, "n", "can only be 1; it is 2"),
        ({"n": True}, "n", "can only be 1; it is true"),
        ({"tools": [{"type": "function"}]}, "tools", "can only be []; it is a list"),
        ({"top_p": 0.9}, "top_p", "can only be 1; it is 0.9"),
        ({"logprobs": 1}, "logprobs", "must be true or false; it is a number"),
        ({"logprobs": False, "top_logprobs": 1}, "top_logprobs", "is for 'logprobs'"),
        ({"logprobs": True, "top_logprobs": 6}, "top_logprobs", "must be a whole number from 0 to 5; it is 6"),
        ({"stream": "yes"}, "stream", "must be true or false; it is a string"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "is for a stream"),
        ({"stream": True, "stream_options": {"other": 1}}, "stream_options.other", "is not supported here"),
        ({"response_format": {"type": "xml"}}, "response_format.type", 'can only be "text" or'),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "is missing"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, None, "is missing"),
        ({"edge_agent": {"on_low_confidence": "guess"}}, "edge_agent.on_low_confidence", 'can only be "as_mode" or'),
        ({"edge_agent": []}, "edge_agent", "must be an object; it is a list"),
        ({"prompt": "hello"}, "prompt", "is not supported here"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "is not supported here"),
        ({"model": 7}, "model", "must be a string; it is a number"),
    ],
)
def test_unsupported_option_is_refused_by_name(more: dict[str, Any], param: str | None, said: str) -> None:
    """The error has the member and its permitted values."""
    found = refused(**more)
    assert said in found.message
    assert param in (None, found.param)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "the body cannot be read as JSON"),
        (b"{", "the body cannot be read as JSON"),
        (b"\xff\xfe{}", "the body cannot be read as JSON"),
        (b"[]", "must be a JSON object; it is a list"),
        (b"null", "must be a JSON object; it is null"),
        (b'{"temperature": NaN}', "NaN is not a number"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "the body cannot be read as JSON"),
        (b'{"a":' * 100_000, "nested too deep"),
        (b"{}", "'messages' is missing"),
    ],
)
def test_invalid_body_is_refused(raw: bytes, said: str) -> None:
    """Whatever it holds."""
    with pytest.raises(GatewayError) as caught:
        chat_request.parse_chat_request(raw)
    assert said in caught.value.message or "'model' is missing" == caught.value.message


@pytest.mark.parametrize(
    ("kind", "more", "param", "said"),
    [
        ("EMBED", {}, "model", "is of kind embed, and completes no chat"),
        ("CLASSIFY", {"max_tokens": 5}, "max_tokens", "a task of kind classify does not support"),
        ("CLASSIFY", {"logprobs": True}, "logprobs", "a task of kind classify does not support"),
        ("CLASSIFY", {"stop": "x"}, "stop", "a task of kind classify does not support"),
        ("CLASSIFY", {"temperature": 1}, "temperature", "always gives the likeliest answer"),
        ("CLASSIFY", {"edge_agent": {"escalate": True}}, "edge_agent.escalate", "does not support"),
        ("CLASSIFY", {"response_format": {"type": "json_object"}}, "response_format", "answers with a label"),
        ("GENERATE", {"response_format": {"type": "json_object"}}, "response_format", "answers with text"),
        ("GENERATE", {"max_tokens": 51}, "max_tokens", "is 51; the task's limit is 50"),
        ("GENERATE", {"edge_agent": {"top_k": 1}}, "edge_agent.top_k", "a task of kind generate does not support"),
        ("EXTRACT", {"edge_agent": {"top_k": 1}}, "edge_agent.top_k", "a task of kind extract does not support"),
    ],
)
def test_option_that_a_task_kind_ignores_is_refused(kind: str, more: dict[str, Any], param: str, said: str) -> None:
    """An option without effect is refused, because its caller would rely on it."""
    found = unfit(kind, **more)
    assert (param, True) == (found.param, said in found.message)


def test_options_that_a_graded_task_fulfils_are_accepted() -> None:
    """Temperature 0 and a seed are accepted, because a classify or extract task always returns its most probable
    answer."""
    asked = read(temperature=0, seed=3, edge_agent={"on_low_confidence": "abstain", "top_k": 2})
    asked.require_supported(task("CLASSIFY"))
    assert ("abstain", 2) == (asked.on_low_confidence, asked.top_k)
    read(temperature=0, response_format={"type": "json_object"}).require_supported(task("EXTRACT"))


def schema_format(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "record", "strict": True, "schema": schema}}


def test_schema_of_the_task_is_accepted() -> None:
    """A different schema is refused with the position, and any schema for a task that has none."""
    read(response_format=schema_format(RECORD_SCHEMA)).require_supported(task("EXTRACT", RECORD_SCHEMA))
    other = {**RECORD_SCHEMA, "properties": {**RECORD_SCHEMA["properties"], "colour": {"type": "string"}}}
    found = unfit("EXTRACT", RECORD_SCHEMA, response_format=schema_format(other))
    assert ("response_format", True) == (found.param, "'colour', which is not in it" in found.message)
    assert "has no schema" in unfit("EXTRACT", response_format=schema_format(RECORD_SCHEMA)).message


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
WORDS = ("type", "text", "role", "content", "schema", "json_schema", "properties", "anyOf", "enum", "$ref", "$defs")
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner),
    max_leaves=12,
)
SCHEMAS = VALUES.map(schema_format)
NAMES = ("stream", "stream_options", "response_format", "edge_agent", "stop", "temperature", "tools", "n", "messages")


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3), st.none() | SCHEMAS)
def test_any_request_is_parsed_or_refused(more: dict[str, Any], wanted: Any) -> None:
    """No JSON body raises anything but GatewayError, for a task of any kind."""
    body = {"model": "till", "messages": HELLO, **more, **({"response_format": wanted} if wanted else {})}
    for kind in ("CLASSIFY", "EXTRACT", "GENERATE", "EMBED"):
        with contextlib.suppress(GatewayError):
            chat_request.parse_chat_request(json.dumps(body).encode()).require_supported(task(kind, RECORD_SCHEMA))


@pytest.mark.parametrize(
    "change",
    [
        {"\ud83d": 1},
        {"messages": [{"role": "\ud83d"}]},
        {"messages": [{"role": "user", "content": "x", "\ud83d": 1}]},
    ],
)
def test_lone_surrogate_is_refused_with_a_valid_response(change: dict[str, Any]) -> None:
    """An error that quotes half of a surrogate pair is a valid JSON response with status 400."""
    body = {"model": "t", "messages": [{"role": "user", "content": "x"}], **change}
    with pytest.raises(GatewayError) as refused:
        chat_request.parse_chat_request(json.dumps(body).encode())
    response = JSONResponse(refused.value.as_json(), refused.value.status)
    assert (400, True) == (response.status_code, b"ud83d" in response.body)
