"""How counts, sizes and time spans read in sentences for people. Pure."""

from __future__ import annotations

import math
import re

_SPANS = ((86_400, "days"), (3600, "h"), (60, "min"))
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))
DIGEST_SHOWN = 12
"""Characters of a digest in a sentence for people."""
_DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 segment", "2 segments"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    """Return the first characters of a digest, and that there are more."""
    return f"{sha256[:DIGEST_SHOWN]}…"


def shorten_digests(text: str) -> str:
    """Return a sentence with each whole SHA-256 digest in it shortened."""
    return _DIGEST.sub(lambda found: shorten_digest(found[0]), text)
