"""Schemas of records by seed: usual ones, hostile ones, and documents that are not schemas."""

from __future__ import annotations

import random
import string
from typing import Any

from edge_agent.formats.record_schema import FORMATS

_PATTERNS = (r"^[A-Z]{2}-\d{1,5}$", "[aeiou]", r"^(left|right|up)$", r"^\w+ \w+$", "^.{3,9}$", '^[^"\\\\]*$')
# Each asks for too much in its own way: states, steps, depth, or the impossible.
_HOSTILE = (
    "^.*a.{199}$",
    "(a|b)*a(a|b){99}c",
    "^(((a|b){0,99}c){0,99}d){0,99}$",
    "(" * 90 + "a" + ")" * 90,
    "((a?){50}){50}",
    "^(.*,){60}x$",
    r"[\x{10000}-\x{10ffff}]{100}",
    "(?i)\u017f{99}",
    "^(?=a)b",
    r"^(a)\1$",
    "a{99999}",
    "a{9,1}",
    "[z-a]",
    "(",
    "\\",
    "(?P<x>a)(?P<x>b)",
    "^[^\\x00-\\x{10ffff}]$",
    "\x00\n\u2028",
)
_JUNK: tuple[Any, ...] = (None, True, 0, -1, 2.5, 1e400, 10**30, "", "string", "\ud800", [], ["null"], {}, {"type": 7})


def sensible(dice: random.Random, depth: int = 1) -> dict[str, Any]:
    """Return a record's schema within the limits that has a record."""
    names = dice.sample(("name", "Größe", "count", 'a "b"', "when", "x y", "items", "\\"), dice.randrange(1, 5))
    properties = {name: _part(dice, depth + 1) for name in names}
    required = [name for name in names if dice.random() < 0.8]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def hostile(dice: random.Random) -> dict[str, Any]:
    """Return a schema that is allowed or nearly so, with something in it that costs too much or does not exist."""
    return dice.choice((_costly, _wide, _deep, _impossible))(dice)


def broken(dice: random.Random) -> Any:
    """Return a sensible schema with junk in some place."""
    schema: Any = sensible(dice)
    node = schema
    while dice.random() < 0.7 and (inner := [each for each in node.values() if isinstance(each, dict) and each]):
        node = dice.choice(inner)
    key = dice.choice((*node, "type", "properties", "required", "items", "pattern", "$ref", "minimum", "enum", "anyOf"))
    node[key] = dice.choice(_JUNK)
    return schema


def _part(dice: random.Random, depth: int) -> dict[str, Any]:
    makers = (_text, _number, _choice, _date, _flag, *((sensible, _list, _either) if depth < 4 else ()))
    maker: Any = dice.choice(makers)
    part: dict[str, Any] = maker(dice, depth) if maker in (sensible, _list, _either) else maker(dice)
    if isinstance(part.get("type"), str) and part["type"] != "null" and dice.random() < 0.3:
        part["type"] = [part["type"], "null"]
    return part


def _text(dice: random.Random) -> dict[str, Any]:
    if dice.random() < 0.4:
        return {"type": "string", "pattern": dice.choice(_PATTERNS)}
    least = dice.randrange(4)
    return {"type": "string", "minLength": least, "maxLength": least + dice.randrange(40)}


def _number(dice: random.Random) -> dict[str, Any]:
    low = dice.randrange(-50, 50)
    bounds = {"minimum": low, dice.choice(("maximum", "exclusiveMaximum")): low + dice.randrange(1, 200)}
    return {"type": dice.choice(("integer", "number")), **(bounds if dice.random() < 0.7 else {})}


def _choice(dice: random.Random) -> dict[str, Any]:
    values = ["on", "off", "on hold", "ö", 'say "no"', 1, -2.5, None, True, "", "a\nb"]
    return (
        {"enum": dice.sample(values, dice.randrange(1, 6))} if dice.random() < 0.8 else {"const": dice.choice(values)}
    )


def _date(dice: random.Random) -> dict[str, Any]:
    return {"type": "string", "format": dice.choice([*FORMATS])}


def _flag(_dice: random.Random) -> dict[str, Any]:
    return {"type": "boolean"}


def _list(dice: random.Random, depth: int) -> dict[str, Any]:
    least = dice.randrange(3)
    return {"type": "array", "items": _part(dice, depth + 1), "minItems": least, "maxItems": least + dice.randrange(4)}


def _either(dice: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_part(dice, depth + 1) for _ in range(dice.randrange(1, 4))]}


def _record(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": [*properties]}


def _costly(dice: random.Random) -> dict[str, Any]:
    text: dict[str, Any] = {"type": "string", "pattern": dice.choice(_HOSTILE)}
    if dice.random() < 0.5:
        text |= {"minLength": dice.randrange(200), "maxLength": 1000}
    return _record(a=text, b={"type": "array", "items": text, "maxItems": 100})


def _wide(dice: random.Random) -> dict[str, Any]:
    if dice.random() < 0.5:
        words = ["".join(dice.choices("ab", k=99)) for _ in range(999)]
        return _record(a={"enum": words}, b={"type": "string", "maxLength": 1000})
    ends = [{"type": "string", "pattern": f"^[ab]*{'[ab]' * i}c$"} for i in range(24)]
    return _record(a={"anyOf": ends}, **{letter: {"type": "string"} for letter in string.ascii_letters[1:]})


def _deep(dice: random.Random) -> dict[str, Any]:
    part: dict[str, Any] = {"type": "string", "maxLength": 1000}
    for _ in range(dice.randrange(4, 7)):
        branch: dict[str, Any] = {"type": "array", "items": part, "minItems": dice.choice((0, 1, 100)), "maxItems": 100}
        part = branch if dice.random() < 0.6 else {"anyOf": [part, branch]}
    return _record(a=part)


def _impossible(dice: random.Random) -> dict[str, Any]:
    return _record(
        a=dice.choice(
            (
                {"type": "integer", "minimum": 5, "maximum": 4},
                {"type": "integer", "exclusiveMinimum": 1, "exclusiveMaximum": 2},
                {"type": "string", "pattern": "^a$", "minLength": 5},
                {"type": "string", "format": "date", "maxLength": 3},
                {"enum": ["a"], "type": "integer"},
                {"type": "number", "minimum": 1e15, "exclusiveMaximum": 1e15},
                {"type": "number", "minimum": 1e-300, "maximum": 2e-300},
            )
        )
    )
