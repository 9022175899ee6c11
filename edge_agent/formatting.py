"""Format counts, shares, amounts, sizes and time spans for people. Pure."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edge_agent.statistics import CountedShare


_SPANS = ((86_400, "days"), (3600, "h"), (60, "min"))
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
DIGEST_SHOWN = 12
"""Characters of a digest in a sentence for people."""
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 segment", "2 segments", "3 families"."""
    plural = f"{noun[:-1]}ies" if re.search("[^aeiou]y$", noun) else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def format_duration(seconds: float) -> str:
    """Return a time span in the largest unit of which it has at least two; a negative span is "0 s"."""
    for size, unit in _SPANS:
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def format_bytes(size: float) -> str:
    """Return a size in the largest unit that fits, with one digit after the point; below 1000 as "999 bytes"."""
    for factor, unit in _SIZES:
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return "1 byte" if size == 1 else f"{size:.0f} bytes"


def megabytes_to_free(size: int) -> str:
    """Return an amount of disk space that has to be freed, rounded up: "210 MB"."""
    return f"{max(1, math.ceil(size / 10**6)):,} MB"


def shorten_digest(sha256: str) -> str:
    """Return the first characters of a digest, and an ellipsis."""
    return f"{sha256[:DIGEST_SHOWN]}…"


def shorten_digests(text: str) -> str:
    """Return a sentence with each whole SHA-256 digest in it shortened."""
    return _DIGEST.sub(lambda match: shorten_digest(match[0]), text)


UNKNOWN = "-"
MICROS = 1_000_000
_NARROW_SPACE = "\u202f"


def count(number: float) -> str:
    """Return a whole number with its thousands separated by a narrow space."""
    return f"{number:,.0f}".replace(",", _NARROW_SPACE)


def count_of(number: int, noun: str) -> str:
    """Return "1 example", "2 examples"."""
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def percent(value: float | None) -> str:
    """Return a share in percent, UNKNOWN for None; only 0 and 1 become "0%" and "100%"."""
    if value is None:
        return UNKNOWN
    if not 0.1 <= value <= 0.994 and 0 < value < 1:
        return f"{min(max(100 * value, 0.1), 99.9):.1f}".removesuffix(".0") + "%"
    return f"{100 * value:.0f}%"


def interval(share: CountedShare) -> str:
    """Return a share with its interval."""
    if share.value is None:
        return UNKNOWN
    return f"{percent(share.value)} ({percent(share.low)} to {percent(share.high)})"


def amount(micros: float | None, currency: str = "") -> str:
    """Return an amount of money with two decimals, or two significant digits below 0.1; UNKNOWN for None."""
    if micros is None:
        return UNKNOWN
    value = micros / MICROS
    decimals = 2 if not 0 < value < 0.1 else 1 - math.floor(math.log10(value))
    text = f"{value:,.{decimals}f}".replace(",", _NARROW_SPACE)
    return f"{text} {currency}".strip()


def milliseconds(value: float) -> str:
    """Return a time given in milliseconds, as "1.2 s", "35 ms" or "3.5 ms"; UNKNOWN for 0."""
    if not value:
        return UNKNOWN
    return f"{value / 1000:.1f} s" if value >= 1000 else f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def in_days(days: int | None) -> str:
    """Return a phrase for the days that something takes at the present pace; None = it does not advance."""
    if days is None:
        return "nothing comes in at present"
    if days <= 1:
        return "about a day at the present pace"
    return f"about {count_of(days, 'day')} at the present pace"
