"""How sizes in bytes are written for people: "12.3 MB", in powers of ten. Pure."""

from __future__ import annotations

_UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def format_bytes(size: float) -> str:
    """Return a size in the largest unit that fits, with one digit after the point; below 1000 as "999 bytes"."""
    for factor, unit in _UNITS:
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return "1 byte" if size == 1 else f"{size:.0f} bytes"
