"""Reading what a caller wrote: JSON whose members are taken one by one, and none is passed over. Pure.

A parameter that does nothing would have its caller believe in something that does not happen: what nobody takes is
refused by its name. null is as good as left out, as with OpenAI.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, TypeVar

from edge_agent.web.gateway.refusals import Refused

SHOWN_CHARS_MAX = 80
_T = TypeVar("_T")
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (str, "a string"),
    (int, "a number"),
    (float, "a number"),
    (list, "a list"),
    (dict, "an object"),
)


class Members:
    """The members of one object that are still to be read."""

    def __init__(self, given: Mapping[str, Any], where: str = "") -> None:
        """Read the members of an object, which is the member `where` of another; empty = of none."""
        self._left = {name: value for name, value in given.items() if value is not None}
        self._where = where

    def take(self, name: str, read: Callable[[Any], _T], default: _T) -> _T:
        """Read a member, or return the default where it is left out. `read` raises ValueError, to follow the name."""
        if name not in self._left:
            return default
        try:
            return read(self._left.pop(name))
        except ValueError as error:
            raise Refused(f"'{self._at(name)}' {error}", param=self._at(name)) from None

    def need(self, name: str, read: Callable[[Any], _T]) -> _T:
        """Read a member that must be there."""
        if name not in self._left:
            raise Refused(f"'{self._at(name)}' is missing", param=self._at(name))
        return self.take(name, read, None)  # type: ignore[return-value] # it is there

    def given(self, names: Mapping[str, Callable[[Any], Any]]) -> dict[str, Any]:
        """Read those of these members that are there."""
        return {name: self.take(name, read, None) for name, read in names.items() if name in self._left}

    def end(self, remedies: Mapping[str, str] | None = None) -> None:
        """Refuse what is left. `remedies` say what to do instead of members that others know."""
        for name in self._left:
            remedy = (remedies or {}).get(name, "Leave it out, or correct its name; docs/gateway.md has them all.")
            shown = self._at(name)[:SHOWN_CHARS_MAX]
            raise Refused(f"'{shown}' is not supported here", param=shown, remedy=remedy)

    def _at(self, name: str) -> str:
        return f"{self._where}.{name}" if self._where else name


def body(raw: bytes) -> Members:
    """Read the body of a request. Raises Refused."""
    try:
        given = json.loads(raw.decode(), parse_constant=_no_number)
    except RecursionError:
        raise Refused("the body is nested too deep") from None
    except ValueError as error:  # no UTF-8, no JSON, a number of thousands of digits
        raise Refused(f"the body is no JSON: {str(error)[:SHOWN_CHARS_MAX]}") from None
    if not isinstance(given, dict):
        raise Refused(f"the body must be a JSON object; it is {named(given)}")
    return Members(given)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number")


def named(value: Any) -> str:
    """Name the type of a value of JSON."""
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "null")


def text(value: Any) -> str:
    """Read a string."""
    if not isinstance(value, str):
        raise ValueError(f"must be a string; it is {named(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text") from None
    return value


def texts(value: Any) -> list[str]:
    """Read a list of strings."""
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a list of strings")
    return [text(each) for each in value]


def flag(value: Any) -> bool:
    """Read true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false; it is {named(value)}")
    return value


def whole(least: int, most: int) -> Callable[[Any], int]:
    """Return what reads a whole number between the two."""

    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}{_shown(value)}")
        return value

    return read


def number(least: float, most: float) -> Callable[[Any], float]:
    """Return what reads a number between the two."""

    def read(value: Any) -> float:
        if type(value) not in (int, float) or not least <= value <= most:
            raise ValueError(f"must be a number from {least:g} to {most:g}{_shown(value)}")
        return float(value)

    return read


def one_of(*words: _T) -> Callable[[Any], _T]:
    """Return what reads one of these values; true is not 1."""

    def read(value: Any) -> _T:
        for word in words:
            if isinstance(value, bool) == isinstance(word, bool) and value == word:
                return word
        known = " or ".join(json.dumps(word) for word in words)
        raise ValueError(f"can only be {known}{_shown(value)}")

    return read


def members(value: Any, where: str) -> Members:
    """Read an object inside of another."""
    if not isinstance(value, dict):
        raise ValueError(f"must be an object; it is {named(value)}")
    return Members(value, where)


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):
        return f"; it is {named(value)}"
    return f"; it is {json.dumps(value)[:SHOWN_CHARS_MAX]}"
