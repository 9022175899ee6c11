"""Comparing a caller's JSON schema with the schema of a task's records. Pure.

Every record of the task must match the caller's schema, and the caller must not require what the task never writes. A
wider schema matches (no 'maxLength', any string instead of a choice). Generated schemas are supported: '$defs', "any of
a type or null", titles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NODES_MAX = 2000
"""Limit for a caller's schema with references resolved; a task's own has 100 properties at most."""
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
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ValueError(f"it has more than {NODES_MAX} parts, or refers to itself")
        if not isinstance(node, dict):
            raise ValueError("a part of it is not an object")
        if "$ref" in node:
            return self.node(self._referred(node["$ref"]))
        plain = {keyword: value for keyword, value in node.items() if keyword not in _NOTES}
        if "const" in plain:
            plain["enum"] = [plain.pop("const")]
        if "enum" in plain:
            plain["type"] = sorted({_type_of(value) for value in _listed(plain["enum"])})
        if "type" in plain:
            plain["type"] = _types_of(plain["type"])
        return self._inside(plain)

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
