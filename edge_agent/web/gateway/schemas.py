"""Whether the schema that a caller sends says nothing else than the one its task keeps to. Pure.

Every record of the task must be one of the caller's, and the caller may want nothing that the task never gives: then
accepting the schema promises nothing that does not come. Wider is fine (no 'maxLength', any string for a choice).
Schemas as programs make them from their classes are understood: '$defs', any of a type or null, titles.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

NODES_MAX = 2000
"""Of a caller's schema, with what it refers to written out; a task's own has 100 properties at most."""
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


def difference(wanted: Schema, kept: Schema) -> str:
    """Say where a schema wants something else than is kept to; empty = nowhere."""
    try:
        return _differs(_Plain(wanted).node(wanted), _Plain(kept).node(kept), "")
    except ValueError as error:
        return str(error)
    except RecursionError:
        return "it refers to itself"


class _Plain:
    """Writes a schema in one of the several ways that mean the same: references written out, types in lists."""

    def __init__(self, root: Schema) -> None:
        self._defined = {start: root.get(start[2:-1]) for start in _REFERENCES}
        self._nodes = 0

    def node(self, node: Any) -> dict[str, Any]:
        self._nodes += 1
        if self._nodes > NODES_MAX:
            raise ValueError(f"it has more than {NODES_MAX} parts, or refers to itself")
        if not isinstance(node, dict):
            raise ValueError("a part of it is no object")
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
                raise ValueError("'properties' is no object")
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
    """Write 'any of X or null' as an X that may be null, where X has a type."""
    others = [each for each in branches if each != {"type": ["null"]}]
    if len(others) != 1 or len(branches) != 2 or "type" not in others[0]:
        return {**plain, "anyOf": branches}
    [one] = others
    choice = {"enum": [*one["enum"], None]} if "enum" in one else {}
    rest = {keyword: value for keyword, value in plain.items() if keyword != "anyOf"}
    return {**rest, **one, **choice, "type": sorted({*one["type"], "null"})}


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise ValueError("'enum' or 'anyOf' is no list")
    return value


def _types_of(value: Any) -> list[str]:
    found = [value] if isinstance(value, str) else value
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("a 'type' is no word, and no list of words")
    return sorted(found)


def _type_of(value: Any) -> str:
    return next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), "null")


def _differs(wanted: Schema, kept: Schema, at: str) -> str:
    """Compare two that are written plainly; return the first place where they differ."""
    for keyword in wanted:
        if keyword == "properties":
            other = _properties(wanted[keyword], kept.get(keyword, {}), at)
        elif keyword == "items":
            other = _differs(wanted[keyword], kept.get(keyword, {}), f"{at}[]")
        else:
            other = "" if _FITS.get(keyword, _same)(keyword, wanted, kept) else f"'{keyword}' of {at or 'the record'}"
        if other:
            return other
    return ""


def _properties(wanted: Schema, kept: Schema, at: str) -> str:
    for name, inner in wanted.items():
        place = f"{at}.{name}" if at else name
        if name not in kept:
            return f"'{place}', which is not in it"
        other = _differs(inner, kept[name], place)
        if other:
            return other
    return ""


def _same(keyword: str, wanted: Schema, kept: Schema) -> bool:
    return bool(wanted[keyword] == kept.get(keyword))


def _types(_keyword: str, wanted: Schema, kept: Schema) -> bool:
    """Any integer is a number."""
    able = {*wanted["type"], *(["integer"] if "number" in wanted["type"] else [])}
    return "type" in kept and able.issuperset(kept["type"])


def _values(_keyword: str, wanted: Schema, kept: Schema) -> bool:
    return "enum" in kept and all(each in wanted["enum"] for each in kept["enum"])


def _required(_keyword: str, wanted: Schema, kept: Schema) -> bool:
    named = wanted["required"]
    return isinstance(named, list) and all(each in kept.get("required", ()) for each in named)


def _closed(_keyword: str, wanted: Schema, kept: Schema) -> bool:
    """Tell whether what the caller does not name never comes: a task's record has what its schema names, no more."""
    more = wanted["additionalProperties"]
    return more is True or (more is False and kept.get("properties", {}).keys() <= wanted.get("properties", {}).keys())


def _at_most(keyword: str, wanted: Schema, kept: Schema) -> bool:
    limit = wanted[keyword]
    return isinstance(limit, int | float) and keyword in kept and bool(kept[keyword] <= limit)


def _at_least(keyword: str, wanted: Schema, kept: Schema) -> bool:
    limit = wanted[keyword]
    return isinstance(limit, int | float) and keyword in kept and bool(kept[keyword] >= limit)


_FITS: Mapping[str, Callable[[str, Schema, Schema], bool]] = {
    "type": _types,
    "enum": _values,
    "required": _required,
    "additionalProperties": _closed,
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems"), _at_least),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems"), _at_most),
}
