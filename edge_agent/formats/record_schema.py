"""The schema of an extract task's records: a part of JSON Schema (2020-12), with a limit on everything. Pure.

It has only those keywords that an engine can enforce while a model writes. Other keywords are refused, and so is every
kind of recursion ('$ref'): nothing here can grow without bound. docs/task-yaml.md lists the keywords.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Any

BYTES_MAX = 64 * 1024  # of the whole schema as JSON
DEPTH_MAX = 8
PROPERTIES_MAX = 100  # of all objects together, so also branches of 'anyOf'
VALUES_MAX = 1000  # of all enums together
NAME_CHARS_MAX = 100  # of a property, and of a value of an enum
PATTERN_CHARS_MAX = 200
STRING_CHARS_MAX = 1000
STRING_CHARS_DEFAULT = 200
ITEMS_MAX = 100
ITEMS_DEFAULT = 16
NUMBER_MAX = 10**15

_MONTH_DAYS = "(0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8])"
_YEAR = "000[1-9]|00[1-9][0-9]|0[1-9][0-9]{2}|[1-9][0-9]{3}"
_LEAP_YEAR = "[0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00"
_DATE = f"(({_YEAR})-({_MONTH_DAYS})|({_LEAP_YEAR})-02-29)"
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {
    "date": f"^{_DATE}$",
    "time": f"^{_TIME}$",
    "date-time": f"^{_DATE}T{_TIME}$",
    "uuid": "^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$",
}
"""The values of `format`, with their patterns: RFC 3339, days that exist, no fractions of a second."""

_ANNOTATIONS = frozenset({"title", "description", "$schema", "$id", "$comment"})
_NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
_KEYWORDS = {
    "object": frozenset({"properties", "required", "additionalProperties"}),
    "array": frozenset({"items", "minItems", "maxItems"}),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": _NUMBER,
    "number": _NUMBER,
    "boolean": frozenset[str](),
    "null": frozenset[str](),
}
_REPLACEMENTS = {
    "$ref": "Write the part out where it is used; a record cannot contain itself.",
    "oneOf": "Use 'anyOf'.",
    "allOf": "Write the parts into one.",
    "patternProperties": "Name each property.",
}

Schema = Mapping[str, Any]


def check(schema: Schema) -> None:
    """Raise ValueError, naming the place and the rule, unless an engine can enforce the schema."""
    try:  # first, because a text that cannot be encoded cannot appear in an error either
        size = len(json.dumps(schema, ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise ValueError("the schema holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise ValueError(f"the schema is nested too deep; {DEPTH_MAX} levels are allowed") from None
    if size > BYTES_MAX:
        raise ValueError(f"the schema has {size} bytes; the limit is {BYTES_MAX}")
    if schema.get("type") != "object":
        raise ValueError("a record is an object: the schema must have 'type: object'")
    _SchemaChecker().check_node(schema, "", 1)


def fields(schema: Schema) -> list[str]:
    """Return the properties of an object in the order in which a model writes them.

    First those of 'required', in its order, then the others by name, because a manifest preserves no other order.
    """
    required: list[str] = list(schema.get("required", ()))
    return required + sorted(set(schema["properties"]) - set(required))


def kind_of(node: Schema) -> str:
    """Return the type of a node that has one, whether or not it may be null as well."""
    declared = node["type"]
    types = [declared] if isinstance(declared, str) else declared
    return next((kind for kind in types if kind != "null"), "null")


class _SchemaChecker:
    """One walk over a schema, with the counts for the whole of it."""

    def __init__(self) -> None:
        self._properties = 0
        self._values = 0
        self._by_kind: dict[str, Callable[[Schema, str, int], None]] = {
            "object": self._check_object,
            "array": self._check_array,
            "string": self._check_string,
            "integer": self._check_number,
            "number": self._check_number,
        }

    def check_node(self, node: Any, path: str, depth: int) -> None:
        _require(isinstance(node, dict), path, "must be a schema: an object with 'type', 'enum', 'const' or 'anyOf'")
        _require(depth <= DEPTH_MAX, path, f"is nested too deep; {DEPTH_MAX} levels are allowed")
        form = next((name for name in ("anyOf", "enum", "const", "type") if name in node), "")
        _require(bool(form), path, "must have 'type', 'enum', 'const' or 'anyOf'")
        kind = _check_kind(node, path) if form == "type" else ""
        known = _ANNOTATIONS | {form} | ({"type"} if form == "enum" else set()) | _KEYWORDS.get(kind, frozenset())
        for keyword in node:
            _require(keyword in known, path, _unknown_keyword(keyword, known))
        for keyword in _ANNOTATIONS & node.keys():
            _require(isinstance(node[keyword], str), path, f"'{keyword}' must be text")
        if form == "anyOf":
            self._check_any_of(node["anyOf"], path, depth)
        elif form != "type":
            self._check_enum([node["const"]] if form == "const" else node["enum"], path)
        elif kind in self._by_kind:
            self._by_kind[kind](node, path, depth)

    def _check_any_of(self, branches: Any, path: str, depth: int) -> None:
        _require(isinstance(branches, list) and len(branches) > 0, path, "'anyOf' must be a list of schemas")
        self._add_properties(len(branches), path)
        for index, branch in enumerate(branches):
            self.check_node(branch, f"{path}anyOf[{index}]", depth + 1)

    def _check_enum(self, values: Any, path: str) -> None:
        _require(isinstance(values, list) and len(values) > 0, path, "'enum' must be a list of values")
        self._values += len(values)
        _require(self._values <= VALUES_MAX, path, f"brings the values of all enums over {VALUES_MAX}")
        for value in values:
            allowed = value is None or isinstance(value, str) or (isinstance(value, int | float) and _is_small(value))
            _require(allowed, path, f"each value must be text, null, true, false or a number up to {NUMBER_MAX:.0e}")
            _require(not isinstance(value, str) or len(value) <= NAME_CHARS_MAX, path, _too_long("a value"))

    def _check_object(self, node: Schema, path: str, depth: int) -> None:
        properties = node.get("properties")
        _require(isinstance(properties, dict) and len(properties) > 0, path, "an object must have 'properties'")
        assert isinstance(properties, dict)
        self._add_properties(len(properties), path)
        _require(node.get("additionalProperties", False) is False, path, "'additionalProperties' can only be false")
        required = node.get("required", [])
        valid = isinstance(required, list) and all(isinstance(each, str) and each in properties for each in required)
        _require(valid and len(set(required)) == len(required), path, "'required' must list properties, each once")
        for name, inner in properties.items():
            _require(isinstance(name, str) and 0 < len(name) <= NAME_CHARS_MAX, path, _too_long("a property's name"))
            self.check_node(inner, f"{path}{'.' if path else ''}{name}", depth + 1)

    def _check_array(self, node: Schema, path: str, depth: int) -> None:
        _require("items" in node, path, "an array must have 'items'")
        _check_range(node, ("minItems", "maxItems"), ITEMS_MAX, path)
        self.check_node(node["items"], f"{path}[]", depth + 1)

    def _check_string(self, node: Schema, path: str, _depth: int) -> None:
        _check_range(node, ("minLength", "maxLength"), STRING_CHARS_MAX, path)
        pattern, form = node.get("pattern", ""), node.get("format", "date")
        valid = isinstance(pattern, str) and len(pattern) <= PATTERN_CHARS_MAX
        _require(valid, path, f"'pattern' must be a regular expression of up to {PATTERN_CHARS_MAX} characters")
        known = isinstance(form, str) and form in FORMATS
        _require(known, path, f"'format' can be {', '.join(FORMATS)}; for anything else use 'pattern'")
        _require(not {"pattern", "format"} <= node.keys(), path, "has both 'pattern' and 'format'; only one is kept")

    def _check_number(self, node: Schema, path: str, _depth: int) -> None:
        for keyword in _NUMBER & node.keys():
            value = node[keyword]
            allowed = isinstance(value, int | float) and not isinstance(value, bool) and _is_small(value)
            _require(allowed, path, f"'{keyword}' must be a number from -{NUMBER_MAX:.0e} to {NUMBER_MAX:.0e}")

    def _add_properties(self, properties: int, path: str) -> None:
        self._properties += properties
        _require(self._properties <= PROPERTIES_MAX, path, f"brings the record over {PROPERTIES_MAX} properties")


def _check_kind(node: Schema, path: str) -> str:
    declared = node["type"]
    types = [declared] if isinstance(declared, str) else declared
    valid = isinstance(types, list) and all(isinstance(kind, str) and kind in _KEYWORDS for kind in types)
    _require(valid, path, f"'type' must be one of {', '.join(_KEYWORDS)}")
    single = len(types) == 1 or (len(types) == 2 and len({*types} - {"null"}) == 1)
    _require(single, path, "'type' can be one type, or one type and null; use 'anyOf' for more")
    return kind_of(node)


def _check_range(node: Schema, keywords: tuple[str, str], limit: int, path: str) -> None:
    for keyword in keywords:
        value = node.get(keyword, 0)
        valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
        _require(valid, path, f"'{keyword}' must be a whole number from 0 to {limit}")
    least, most = keywords
    _require(node.get(least, 0) <= node.get(most, limit), path, f"'{least}' is over '{most}'")


def _is_small(value: float) -> bool:
    return abs(value) <= NUMBER_MAX  # False for NaN


def _too_long(what: str) -> str:
    return f"{what} must have up to {NAME_CHARS_MAX} characters"


def _unknown_keyword(keyword: Any, known: frozenset[str]) -> str:
    shown = ascii(keyword)[:100]
    if keyword in _REPLACEMENTS:
        return f"{shown} cannot be kept. {_REPLACEMENTS[keyword]}"
    close_matches = difflib.get_close_matches(str(keyword)[:100], sorted(known), n=1)
    hint = (
        f"Did you mean '{close_matches[0]}'?"
        if close_matches
        else f"What is known here: {', '.join(sorted(known - _ANNOTATIONS))}."
    )
    return f"{shown} is not known here. {hint}"


def _require(holds: bool, path: str, message: str) -> None:
    if not holds:
        raise ValueError(f"{path[:200]}: {message}" if path else message)
