"""What a person sees of the build: its steps, how far the present one is, and what went wrong."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

LINES_SHOWN = 20
SECONDS_BETWEEN_LINES = 30.0
"""In a log; a terminal shows one line that is drawn again every second."""
_NO_NETWORK = re.compile(
    r"(?:Temporary failure in )?name resolution|Name or service not known|dns error|Network is unreachable"
    r"|No route to host|Connection (?:refused|reset by peer|timed out)|Read timed out|error sending request",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|ENOSPC", re.IGNORECASE)
KEPT = "What was fetched and compiled is kept: run scripts/build-installer again, and it continues."


class BuildFailed(Exception):
    """The installer cannot be made: a sentence, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        """Say it."""
        super().__init__(message)
        self.message, self.remedy = message, remedy


class StepConsole:
    """Prints each step: on a terminal one line that moves, in a log a line every 30 s."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `out`."""
        self._out, self._clock, self._terminal = out, clock, out.isatty()
        self._title, self._started, self._shown = "", clock(), clock()

    def say(self, text: str) -> None:
        """Print a line now."""
        self._write(f"{text}\n")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show that a step runs; print it with its duration once it is done."""
        self._title, self._started, self._shown = title, self._clock(), self._clock()
        self.tick()
        try:
            yield
        except BaseException:
            self._write("")
            raise
        self.say(f"  ok   {title}  {self.elapsed():.0f} s")

    def elapsed(self) -> float:
        """Return how many seconds the step has taken so far."""
        return self._clock() - self._started

    def tick(self, detail: str = "") -> None:
        """Show how far the step is; call it about every second."""
        line = f"  ...  {self._title}  {detail}{'  ' if detail else ''}{self.elapsed():.0f} s"
        if self._terminal:
            self._write(line[: shutil.get_terminal_size().columns - 1])
        elif self._clock() - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = self._clock()
            self._write(f"{line}\n")

    def _write(self, text: str) -> None:
        self._out.write(f"\r\033[K{text}" if self._terminal else text)
        self._out.flush()


def failure(name: str, status: int, output: str, log: Path) -> BuildFailed:
    """Return what to say when a tool failed: the cause where its output shows one, otherwise its last lines."""
    lines = output.strip().splitlines()
    if found := next((line for line in lines if _DISK_FULL.search(line)), None):
        free = shutil.disk_usage(log.parent).free / 1e9
        remedy = f"{log.parent} has {free:.1f} GB free. Free some space. {KEPT}"
        return BuildFailed(f"the disk is full: {found.strip()}", remedy)
    if reason := _NO_NETWORK.search(output):
        remedy = f"Check the network, and the index and proxy that pip uses: python3 -m pip config list. {KEPT}"
        return BuildFailed(f"no package index can be reached: {reason[0]} (all lines are in {log})", remedy)
    said = "\n    ".join([f"{name} ended with {status}:", *lines[-LINES_SHOWN:]])
    return BuildFailed(said, f"The whole output is in {log}. {KEPT}")


def need(tools: Sequence[tuple[str, str]]) -> None:
    """Raise BuildFailed unless every program is there; each comes with the packages that bring it."""
    missing = [(name, packages) for name, packages in tools if not shutil.which(name)]
    if missing:
        packages = " ".join(packages for _, packages in missing)
        said = f"these programs are missing: {', '.join(name for name, _ in missing)}"
        raise BuildFailed(said, f"Debian, Ubuntu: sudo apt-get install {packages}")


def need_space(folder: Path, size_bytes: int) -> None:
    """Raise BuildFailed unless the disk of a folder has that much space."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        said = f"{folder} has {free / 1e9:.1f} GB free; the build needs {size_bytes / 1e9:.1f} GB"
        raise BuildFailed(said, f"Free some space. {KEPT}")
