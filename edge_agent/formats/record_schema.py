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

_NOTES = frozenset({"title", "description", "$schema", "$id", "$comment"})
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
_INSTEAD = {
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
    _Check().node(schema, "", 1)


def fields(schema: Schema) -> list[str]:
    """Return the properties of an object in the order in which a model writes them.

    First those of 'required', in its order, then the others by name, because a manifest preserves no other order.
    """
    required: list[str] = list(schema.get("required", ()))
    return required + sorted(set(schema["properties"]) - set(required))


def kind_of(node: Schema) -> str:
    """Return the type of a node that has one, whether or not it may be null as well."""
    given = node["type"]
    types = [given] if isinstance(given, str) else given
    return next((each for each in types if each != "null"), "null")


class _Check:
    """One walk over a schema, with the counts for the whole of it."""

    def __init__(self) -> None:
        self._properties = 0
        self._values = 0
        self._by_kind: dict[str, Callable[[Schema, str, int], None]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._number,
            "number": self._number,
        }

    def node(self, node: Any, at: str, depth: int) -> None:
        _require(isinstance(node, dict), at, "must be a schema: an object with 'type', 'enum', 'const' or 'anyOf'")
        _require(depth <= DEPTH_MAX, at, f"is nested too deep; {DEPTH_MAX} levels are allowed")
        form = next((each for each in ("anyOf", "enum", "const", "type") if each in node), "")
        _require(bool(form), at, "must have 'type', 'enum', 'const' or 'anyOf'")
        kind = _checked_kind(node, at) if form == "type" else ""
        known = _NOTES | {form} | ({"type"} if form == "enum" else set()) | _KEYWORDS.get(kind, frozenset())
        for keyword in node:
            _require(keyword in known, at, _unknown(keyword, known))
        for keyword in _NOTES & node.keys():
            _require(isinstance(node[keyword], str), at, f"'{keyword}' must be text")
        if form == "anyOf":
            self._any_of(node["anyOf"], at, depth)
        elif form != "type":
            self._enum([node["const"]] if form == "const" else node["enum"], at)
        elif kind in self._by_kind:
            self._by_kind[kind](node, at, depth)

    def _any_of(self, branches: Any, at: str, depth: int) -> None:
        _require(isinstance(branches, list) and len(branches) > 0, at, "'anyOf' must be a list of schemas")
        self._count(len(branches), at)
        for index, branch in enumerate(branches):
            self.node(branch, f"{at}anyOf[{index}]", depth + 1)

    def _enum(self, values: Any, at: str) -> None:
        _require(isinstance(values, list) and len(values) > 0, at, "'enum' must be a list of values")
        self._values += len(values)
        _require(self._values <= VALUES_MAX, at, f"brings the values of all enums over {VALUES_MAX}")
        for value in values:
            plain = value is None or isinstance(value, str) or (isinstance(value, int | float) and _is_small(value))
            _require(plain, at, f"each value must be text, null, true, false or a number up to {NUMBER_MAX:.0e}")
            _require(not isinstance(value, str) or len(value) <= NAME_CHARS_MAX, at, _too_long("a value"))

    def _object(self, node: Schema, at: str, depth: int) -> None:
        named = node.get("properties")
        _require(isinstance(named, dict) and len(named) > 0, at, "an object must have 'properties'")
        assert isinstance(named, dict)
        self._count(len(named), at)
        _require(node.get("additionalProperties", False) is False, at, "'additionalProperties' can only be false")
        required = node.get("required", [])
        fit = isinstance(required, list) and all(isinstance(each, str) and each in named for each in required)
        _require(fit and len(set(required)) == len(required), at, "'required' must list properties, each once")
        for name, inner in named.items():
            _require(isinstance(name, str) and 0 < len(name) <= NAME_CHARS_MAX, at, _too_long("a property's name"))
            self.node(inner, f"{at}{'.' if at else ''}{name}", depth + 1)

    def _array(self, node: Schema, at: str, depth: int) -> None:
        _require("items" in node, at, "an array must have 'items'")
        _check_range(node, ("minItems", "maxItems"), ITEMS_MAX, at)
        self.node(node["items"], f"{at}[]", depth + 1)

    def _string(self, node: Schema, at: str, _depth: int) -> None:
        _check_range(node, ("minLength", "maxLength"), STRING_CHARS_MAX, at)
        pattern, form = node.get("pattern", ""), node.get("format", "date")
        fit = isinstance(pattern, str) and len(pattern) <= PATTERN_CHARS_MAX
        _require(fit, at, f"'pattern' must be a regular expression of up to {PATTERN_CHARS_MAX} characters")
        known = isinstance(form, str) and form in FORMATS
        _require(known, at, f"'format' can be {', '.join(FORMATS)}; for anything else use 'pattern'")
        _require(not {"pattern", "format"} <= node.keys(), at, "has both 'pattern' and 'format'; only one is kept")

    def _number(self, node: Schema, at: str, _depth: int) -> None:
        for keyword in _NUMBER & node.keys():
            value = node[keyword]
            plain = isinstance(value, int | float) and not isinstance(value, bool) and _is_small(value)
            _require(plain, at, f"'{keyword}' must be a number from -{NUMBER_MAX:.0e} to {NUMBER_MAX:.0e}")

    def _count(self, properties: int, at: str) -> None:
        self._properties += properties
        _require(self._properties <= PROPERTIES_MAX, at, f"brings the record over {PROPERTIES_MAX} properties")


def _checked_kind(node: Schema, at: str) -> str:
    given = node["type"]
    types = [given] if isinstance(given, str) else given
    fit = isinstance(types, list) and all(isinstance(each, str) and each in _KEYWORDS for each in types)
    _require(fit, at, f"'type' must be one of {', '.join(_KEYWORDS)}")
    one = len(types) == 1 or (len(types) == 2 and len({*types} - {"null"}) == 1)
    _require(one, at, "'type' can be one type, or one type and null; use 'anyOf' for more")
    return kind_of(node)


def _check_range(node: Schema, keywords: tuple[str, str], limit: int, at: str) -> None:
    for keyword in keywords:
        value = node.get(keyword, 0)
        fit = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
        _require(fit, at, f"'{keyword}' must be a whole number from 0 to {limit}")
    least, most = keywords
    _require(node.get(least, 0) <= node.get(most, limit), at, f"'{least}' is over '{most}'")


def _is_small(value: float) -> bool:
    return abs(value) <= NUMBER_MAX  # False for NaN


def _too_long(what: str) -> str:
    return f"{what} must have up to {NAME_CHARS_MAX} characters"


def _unknown(keyword: Any, known: frozenset[str]) -> str:
    shown = ascii(keyword)[:100]
    if keyword in _INSTEAD:
        return f"{shown} cannot be kept. {_INSTEAD[keyword]}"
    near = difflib.get_close_matches(str(keyword)[:100], sorted(known), n=1)
    hint = f"Did you mean '{near[0]}'?" if near else f"What is known here: {', '.join(sorted(known - _NOTES))}."
    return f"{shown} is not known here. {hint}"


def _require(holds: bool, at: str, message: str) -> None:
    if not holds:
        raise ValueError(f"{at[:200]}: {message}" if at else message)
