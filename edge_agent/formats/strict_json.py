"""JSON from outside: one reader, one kind of model, and one check against it that converts nothing.

`decode` accepts JSON of RFC 8259 in UTF-8, and refuses what two readers may read differently: a key that occurs twice
in an object, NaN and Infinity, a number out of range. `validate` accepts a value only in the type of the model: `true`,
`"64"` and `1e3` are not whole numbers. A whole number is accepted as a fraction. A `StrictModel` refuses unknown keys.

Both raise a ValueError; `first_problem` turns that of `validate` into a sentence.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

DIGITS_MAX = 40
"""Of a whole number; the largest that any field takes has 19."""
TOO_DEEP = "it is nested too deep"
_SHOWN_MAX = 60

Model = TypeVar("Model", bound=BaseModel)
Value = TypeVar("Value")

# What a value must be, by pydantic's name of the rule.
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
}
_WITHOUT_VALUE = {"missing", "extra_forbidden", "value_error", "json_invalid", "union_tag_not_found"}


class StrictModel(BaseModel):
    """A part of a document: immutable, without unknown keys; it may cache values computed from it."""

    # Compiled with the document where that is first read, not by itself.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with other values; pydantic alone would also copy values cached from the old ones."""
        copy = super().model_copy(update=update, deep=deep)
        for name, value in vars(type(self)).items():
            if isinstance(value, cached_property):
                copy.__dict__.pop(name, None)
        return copy


def decode(raw: bytes | str, *, fractions: bool = True) -> Any:
    """Read a JSON text; without `fractions` only whole numbers are numbers.

    Raises:
        ValueError: not JSON, or it may be read in two ways; the message ends a sentence such as "FILE is not valid
            JSON: …".
    """
    text = raw if isinstance(raw, str) else raw.decode("utf-8")
    try:
        return json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_fraction if fractions else _no_fraction,
            parse_constant=_no_constant,
        )
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def encode(plain: Any) -> bytes:
    """Write what `decode` returned. Raises ValueError for half a character, which JSON's escapes can hold."""
    try:
        return json.dumps(plain, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("a text holds half a character (a lone surrogate)") from None
    except RecursionError:
        raise ValueError(TOO_DEEP) from None


def validate(model: type[Model], plain: Any) -> Model:
    """Check what `decode` returned against a model. Raises ValidationError, or ValueError for half a character."""
    return model.model_validate_json(encode(plain), strict=True)


def validate_as(adapter: TypeAdapter[Value], plain: Any) -> Value:
    """Check what `decode` returned against a type. Raises as `validate`."""
    return adapter.validate_json(encode(plain), strict=True)


def first_problem(error: ValueError, *, show: bool = False) -> str:
    """Return the first broken rule and its field as a sentence.

    Args:
        error: what `validate` raised.
        show: quote the start of the value; not for values that may be private.
    """
    if not isinstance(error, ValidationError):
        return str(error)[:300]
    problem = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in problem["loc"])[:200] or "the whole"
    kind, value = problem["type"], problem["input"]
    if kind in _TYPES:
        return f"{field}: {shown(value)} is not {_TYPES[kind]}" if show else f"{field}: must be {_TYPES[kind]}"
    rule = f"{field}: {problem['msg'].removeprefix('Value error, ')[:300]}"
    return f"{rule}; it is {shown(value)}" if show and kind not in _WITHOUT_VALUE else rule


def shown(value: object) -> str:
    """Return the start of a value as JSON, in ASCII."""
    text = json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) != len(pairs):
        (repeated_key, _), *_ = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(repeated_key)} occurs twice in one object")
    return mapping


def _whole_number(text: str) -> int:
    if len(text) > DIGITS_MAX:
        raise ValueError(f"a number has {len(text)} digits; the limit is {DIGITS_MAX}")
    return int(text)


def _fraction(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:20]} is out of range")
    return number


def _no_fraction(text: str) -> float:
    raise ValueError(f"a signed document holds no numbers like {text[:20]}")


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number in JSON")
