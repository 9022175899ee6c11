"""How states look on a screen, and times read."""

from __future__ import annotations

UPDATE_STYLES = {"DONE": "green", "FAILED": "bold red", "ROLLED_BACK": "bold red", "HELD": "yellow"}
LINK_STYLES = {"ONLINE": "green", "PROBING": "yellow", "OFFLINE": "red", "SILENT": "bold red"}
STATE_STYLES = {"READY": "green", "FAILED": "bold red", "BACKING_OFF": "red"}


def duration(seconds: float) -> str:
    """Write a time in words, rounded down."""
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{max(0, int(seconds))} s"
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} days"
