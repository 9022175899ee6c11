"""What a caller hands in, checked before anything is sent. Pure.

A slip is a ValueError or TypeError that says how to write it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SCHEMES = ("unix:", "unix-abstract:", "dns:", "ipv4:", "ipv6:", "vsock:")
_TEXTS = "texts must be a list of strings"


def target(address: str) -> str:
    """Return the address of a daemon. Raises ValueError when it is neither unix:/path nor host:port."""
    if address.startswith(_SCHEMES):
        return address
    if not address:
        raise ValueError("the address is empty: write unix:/path/to/inference.sock or host:port")
    if "/" in address or address.endswith(".sock"):
        raise ValueError(f"{address} is a path: write unix:{address}")
    if not re.search(r":\d+$", address):
        raise ValueError(f"{address} has no port: write {address}:PORT, or unix:/path/to/inference.sock")
    return address


def texts(given: Iterable[str]) -> list[str]:
    """Return the texts of a batch. Raises TypeError, ValueError; both name the text."""
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise TypeError(f"{_TEXTS}, not one {type(given).__name__}: write [text]")
    return [text(each, f"texts[{index}]") for index, each in enumerate(given)]


def text(given: str, name: str = "text") -> str:
    """Return one text. Raises TypeError, and ValueError when it cannot be written as UTF-8."""
    if not isinstance(given, str):
        said = f"{name} is a {type(given).__name__}"
        raise TypeError(f"{_TEXTS}; {said}" if name != "text" else f"{said}, not a str")
    try:
        given.encode()
    except UnicodeEncodeError as error:
        found = ascii(given[error.start])
        said = f"{name} cannot be written as UTF-8: character {error.start} is {found}, half of a surrogate pair"
        raise ValueError(f"{said}; decode the text anew from its bytes") from None
    return given


def timeout(seconds: float) -> float:
    """Return the seconds a call may take. Raises ValueError unless they are more than 0, TypeError without a number."""
    if not seconds > 0:
        raise ValueError(f"timeout_seconds is {seconds}: it must be more than 0")
    return seconds


def closed() -> ValueError:
    """Return the error of a call on a client that was closed."""
    return ValueError("this client is closed: make a new one")
