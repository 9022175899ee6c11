"""What the technician sees: one line for each step that is done."""

from __future__ import annotations

import sys
import time


def say(text: str = "") -> None:
    """Print a line now, also into a pipe."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def done(text: str) -> None:
    """Print a step that is done."""
    say(f"  ok    {text}")


def note(text: str) -> None:
    """Print what the technician should know, though nothing is wrong."""
    say(f"  note  {text}")


def size(count: int) -> str:
    """Write a number of bytes."""
    if count < 1e3:
        return f"{count} bytes"
    if count < 1e6:
        return f"{count / 1e3:.0f} kB"
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        """Start."""
        self._started = time.monotonic()

    def __str__(self) -> str:
        """Write the whole seconds."""
        return f"{time.monotonic() - self._started:.0f} s"
