"""How sizes, times and words of the API read on a page. Pure."""

from __future__ import annotations

from datetime import datetime

_SPANS = ((86_400, "days"), (3600, "h"), (60, "min"))


def lasting(since: datetime, now: datetime) -> str:
    """Return how long ago something was, as people say it; a clock that went back makes it 0 s."""
    seconds = (now - since).total_seconds()
    for size, name in _SPANS:
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {name}"
    return f"{max(0.0, seconds):.0f} s"


def word(of_the_api: str) -> str:
    """Return an enumeration's word as one reads it: ROLLED_BACK is "rolled back"."""
    return of_the_api.lower().replace("_", " ")
