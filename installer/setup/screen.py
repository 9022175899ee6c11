"""Output for the technician: one line for each finished step."""

from __future__ import annotations

import sys
import time


def say(text: str = "") -> None:
    """Print a line and flush it, so that a pipe gets it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def done(text: str) -> None:
    """Print a finished step."""
    say(f"  ok    {text}")


def note(text: str) -> None:
    """Print a note that is not an error."""
    say(f"  note  {text}")


def size(count: int) -> str:
    """Format a number of bytes."""
    if count < 1e3:
        return f"{count} bytes"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class Stopwatch:
    """The seconds since its creation."""

    def __init__(self) -> None:
        """Start."""
        self._started = time.monotonic()

    def __str__(self) -> str:
        """Format the whole seconds."""
        return f"{time.monotonic() - self._started:.0f} s"
