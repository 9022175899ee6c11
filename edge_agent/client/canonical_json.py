"""A JSON state as the text that a task reads. Pure.

A task answers about one text. Equal values give equal texts, whatever client sends them: members are sorted by name,
a whole number has no fraction (1.0 is 1), and there is no white space. Training rows need the same text, so that a
model meets at a site what it learned from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_EXACT_MAX = 2**53
"""Up to here every whole number is a float of its own."""
STATE_LEVELS_MAX = 32
STATE_VALUES_MAX = 10_000
STATE_BYTES_MAX = 256 * 2**10
"""The limits of OpenAI's `input_json`: levels of objects and lists, values in all, and bytes of the text as UTF-8."""


def render_state(state: Mapping[str, Any] | Sequence[Any]) -> str:
    """Return an object or a list as compact JSON with sorted member names, in UTF-8 without escapes.

    Raises:
        ValueError: it is empty or too large, or holds what JSON cannot: NaN, an infinite number, half of a surrogate
            pair, another type. The message completes a sentence about the state.
    """
    if not state:
        raise ValueError("must not be empty")
    _check_size(state)
    try:
        text = json.dumps(_plain(state), ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is not text") from None
    except TypeError as error:
        raise ValueError(f"is not JSON: {error}") from None
    except ValueError:
        raise ValueError("holds a number that is not finite") from None
    if size > STATE_BYTES_MAX:
        raise ValueError(f"has {size} bytes as compact JSON; the limit is {STATE_BYTES_MAX}")
    return text


def _plain(value: Any) -> Any:
    """Return the value with whole numbers as such; its levels are bounded."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) <= _EXACT_MAX else value


def _check_size(state: Any) -> None:
    """Count levels and values, without recursion. Raises ValueError."""
    level, values = 0, [state]
    count = 1
    while containers := [each for each in values if isinstance(each, Mapping | list | tuple)]:
        level += 1
        if level > STATE_LEVELS_MAX:
            raise ValueError(f"is nested in more than {STATE_LEVELS_MAX} levels of objects and lists")
        values = [one for each in containers for one in (each.values() if isinstance(each, Mapping) else each)]
        count += len(values)
        if count > STATE_VALUES_MAX:
            raise ValueError(f"has more than {STATE_VALUES_MAX} values")
