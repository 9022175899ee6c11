"""edge_agent/formats/record_schema.py: which JSON schemas a record may have."""

from __future__ import annotations

import datetime
import random
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.record_schema import FORMATS, check, fields
from tests.support import record_schemas
from tests.support.bundles import RECORD_SCHEMA

FUZZED = 400


def record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def nested(levels: int) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        part = {"type": "array", "items": part}
    return record(a=part)


TEXT = {"type": "string"}
MANY = {f"p{i}": TEXT for i in range(51)}


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({}, "a record is an object"),
        ({"type": "array", "items": TEXT}, "a record is an object"),
        ({"type": ["object", "null"], "properties": {"a": TEXT}}, "a record is an object"),
        ({"type": "object"}, "an object must have 'properties'"),
        (record(a=TEXT) | {"additionalProperties": True}, "'additionalProperties' can only be false"),
        (record(a=TEXT) | {"required": ["b"]}, "'required' must list properties, each once"),
        (record(a=TEXT) | {"required": ["a", "a"]}, "'required' must list properties, each once"),
        (record(a=TEXT) | {"required": [["a"]]}, "'required' must list properties, each once"),
        (record(**{"": TEXT}), "a property's name must have up to 100 characters"),
        (record(**{"x" * 101: TEXT}), "a property's name must have up to 100 characters"),
        (record(a={}), "a: must have 'type', 'enum', 'const' or 'anyOf'"),
        (record(a=True), "a: must be a schema"),
        (record(a={"type": "text"}), "a: 'type' must be one of object, array"),
        (record(a={"type": ["string", "integer"]}), "a: 'type' can be one type, or one type and null"),
        (record(a={"type": []}), "a: 'type' can be one type"),
        (record(a={"type": [{}]}), "a: 'type' must be one of"),
        (record(a={"$ref": "#"}), "a: must have 'type'"),
        (record(a={"type": "object", "$ref": "#"}), "a: '$ref' cannot be kept. Write the part out"),
        (record(a={"anyOf": [TEXT], "oneOf": [TEXT]}), "a: 'oneOf' cannot be kept. Use 'anyOf'."),
        (record(a={"type": "string", "maxlength": 3}), "a: 'maxlength' is not known here. Did you mean 'maxLength'?"),
        (record(a={"type": "boolean", "zzz": 3}), "a: 'zzz' is not known here. What is known here: type."),
        (record(a={"type": "string", "title": {}}), "a: 'title' must be text"),
        (record(a={"type": "string", "maxLength": 1001}), "a: 'maxLength' must be a whole number from 0 to 1000"),
        (record(a={"type": "string", "maxLength": True}), "a: 'maxLength' must be a whole number"),
        (record(a={"type": "string", "minLength": 2, "maxLength": 1}), "a: 'minLength' is over 'maxLength'"),
        (record(a={"type": "string", "pattern": "a" * 201}), "of up to 200 characters"),
        (record(a={"type": "string", "format": "email"}), "a: 'format' can be date, time, date-time, uuid"),
        (record(a={"type": "string", "format": "date", "pattern": "1"}), "a: has both 'pattern' and 'format'"),
        (record(a={"type": "array"}), "a: an array must have 'items'"),
        (record(a={"type": "array", "items": {"type": "array", "items": 1}}), "a[][]: must be a schema"),
        (
            record(a={"type": "array", "items": TEXT, "maxItems": 101}),
            "'maxItems' must be a whole number from 0 to 100",
        ),
        (record(a={"type": "integer", "minimum": "0"}), "a: 'minimum' must be a number"),
        (record(a={"type": "number", "maximum": float("inf")}), "a: 'maximum' must be a number from -1e+15 to 1e+15"),
        (record(a={"type": "number", "maximum": 10**400}), "a: 'maximum' must be a number"),
        (record(a={"enum": []}), "a: 'enum' must be a list of values"),
        (record(a={"enum": [[1]]}), "a: each value must be text, null, true, false or a number"),
        (record(a={"const": 1e16}), "a: each value must be text"),
        (record(a={"enum": ["x" * 101]}), "a: a value must have up to 100 characters"),
        (record(a={"enum": list(range(501))}, b={"enum": list(range(500))}), "b: brings the values of all enums over"),
        (record(a={"anyOf": []}), "a: 'anyOf' must be a list of schemas"),
        (record(a={"anyOf": [TEXT] * 100}), "a: brings the record over 100 properties"),
        (record(a=record(**MANY), b=record(**MANY)), "b: brings the record over 100 properties"),
        (nested(7), "a[][][][][][][]: is nested too deep; 8 levels are allowed"),
        (nested(2000), "is nested too deep"),
        (record(a={"type": "string", "description": "x" * 70_000}), "bytes; the limit is 65536"),
        (record(a={"const": "\ud800"}), "half a character"),
        (record(**{"\ud800": {}}), "half a character"),
    ],
)
def test_unsupported_schema_is_refused(schema: dict[str, Any], said: str):
    """The message has the position and the rule."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check(schema)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "schema",
    [
        RECORD_SCHEMA,
        nested(6),
        record(a={"enum": ["x" * 100, 1, 2.5, None, True]}, b={"const": "y"}, c={"enum": ["z"], "type": "string"}),
        record(a={"type": ["null", "array"], "items": TEXT, "maxItems": 100}, b={"type": ["null"]}),
        record(a={"anyOf": [TEXT, {"type": "null"}], "description": "d"}) | {"$schema": "s", "title": "t"},
    ],
)
def test_supported_schema_is_accepted(schema: dict[str, Any]):
    """A schema up to the limits is no error."""
    check(schema)


def test_fields_are_in_the_order_of_required():
    """Other fields follow by name, because JSON with sorted keys keeps no order."""
    assert ["product", "count", "wish", "day"] == fields(RECORD_SCHEMA)
    assert ["c", "a", "b"] == fields(record(a=TEXT, b=TEXT, c=TEXT) | {"required": ["c"]})


@given(st.dates(), st.times(), st.sampled_from(["Z", "+02:00", "-23:59"]))
def test_every_rfc_3339_date_and_time_matches_its_pattern(day: datetime.date, time: datetime.time, zone: str):
    """What RFC 3339 writes without fractions is what the patterns take."""
    clock = time.isoformat("seconds") + zone
    assert re.search(FORMATS["date"], day.isoformat())
    assert re.search(FORMATS["time"], clock)
    assert re.search(FORMATS["date-time"], f"{day.isoformat()}T{clock}")


@given(st.from_regex(FORMATS["date"], fullmatch=True))
def test_every_date_that_matches_exists(text: str):
    """30 February does not match, and 29 February only in leap years."""
    datetime.date.fromisoformat(text)


@given(st.integers(1, 9999), st.integers(1, 12), st.integers(1, 31))
def test_date_pattern_agrees_with_the_calendar(year: int, month: int, day: int):
    """The pattern and the calendar agree on every combination."""
    text = f"{year:04}-{month:02}-{day:02}"
    try:
        datetime.date.fromisoformat(text)
    except ValueError:
        assert not re.search(FORMATS["date"], text)
    else:
        assert re.search(FORMATS["date"], text)


def test_random_schemas_raise_only_value_error():
    """Anything in place of a schema raises only ValueError; valid schemas are accepted."""
    refused = 0
    for seed in range(FUZZED):
        check(record_schemas.sensible(random.Random(seed)))
        try:
            check(record_schemas.broken(random.Random(seed)))
        except ValueError as error:
            refused += 1
            assert str(error)
    assert FUZZED * 0.9 < refused < FUZZED
