"""Checking a large model's answer by the JSON schema of its task, in bounded time. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import re2
from jsonschema import Draft202012Validator, FormatChecker, ValidationError
from jsonschema.validators import extend

from edge_agent.formats import record_schema

PROBLEM_CHARACTERS_MAX = 300


def broken_rule(schema: Mapping[str, Any], answer: object) -> str:
    """Say which rule of the schema an answer breaks, and where; empty = none."""
    try:
        _Validator(schema, format_checker=_FORMATS).validate(answer)
    except ValidationError as error:
        where = "/".join(str(part) for part in error.absolute_path)
        return f"{where or 'the answer'} breaks the rule {error.validator!r}"[:PROBLEM_CHARACTERS_MAX]
    return ""


def _pattern(_validator: Any, pattern: str, instance: Any, _schema: Any) -> Any:
    """Match in bounded time: the answer is hostile, and the pattern may be of a kind that Python's takes ages for."""
    if isinstance(instance, str) and not re2.search(pattern, instance):
        yield ValidationError(f"{pattern!r} does not match")


_FORMATS = FormatChecker(formats=())
_Validator = extend(Draft202012Validator, {"pattern": _pattern})


def _is_format(name: str) -> Callable[[object], bool]:
    matches = re2.compile(record_schema.FORMATS[name]).search
    return lambda value: not isinstance(value, str) or matches(value) is not None


for _name in record_schema.FORMATS:
    _FORMATS.checks(_name)(_is_format(_name))
