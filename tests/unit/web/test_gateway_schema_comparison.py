"""A caller's schema beside the one of the task: what says nothing else is told from what does."""

from __future__ import annotations

from typing import Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel

from edge_agent.web.gateway.schema_comparison import difference
from tests.support.bundles import RECORD_SCHEMA

RECORDS: list[dict[str, Any]] = [
    {"product": "lamp", "count": 2, "wish": "refund", "day": "2026-11-03"},
    {"product": "", "count": None, "wish": "other", "day": None},
]
"""Of the task."""


class Record(BaseModel):
    """As a program has it."""

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
def test_a_schema_that_says_nothing_else_is_found_alike(schema: dict[str, Any]) -> None:
    """Wider is fine, and every record of the task keeps to it."""
    assert "" == difference(schema, RECORD_SCHEMA)
    for record in RECORDS:
        jsonschema.validate(record, schema)


@pytest.mark.parametrize(("schema", "where"), OTHER)
def test_a_schema_that_says_something_else_is_told_where(schema: dict[str, Any], where: str) -> None:
    """By the place and the word; also one that is none, however it is made."""
    assert where in difference(schema, RECORD_SCHEMA)


def test_lists_are_compared_inside() -> None:
    """What their items are, and how many there may be."""
    kept = {"type": "array", "items": {"type": "string", "maxLength": 5}, "minItems": 1, "maxItems": 3}
    assert "" == difference({"type": "array", "items": {"type": "string"}, "maxItems": 4, "minItems": 0}, kept)
    assert "'type' of []" == difference({"type": "array", "items": {"type": "integer"}}, kept)
    assert "'minItems' of the record" == difference({"type": "array", "minItems": 2}, kept)
