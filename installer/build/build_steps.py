"""Output and errors of the build: its steps, the progress of the current one, failures."""

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
"""In a log; on a terminal one line is redrawn every second."""
_NO_NETWORK = re.compile(
    r"(?:Temporary failure in )?name resolution|Name or service not known|dns error|Network is unreachable"
    r"|No route to host|Connection (?:refused|reset by peer|timed out)|Read timed out|error sending request",
    re.IGNORECASE,
)
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|ENOSPC", re.IGNORECASE)
KEPT = "Downloaded and compiled files are kept: run scripts/build-installer again to continue."


class BuildFailed(Exception):
    """The installer cannot be made: a message and a remedy."""

    def __init__(self, message: str, remedy: str) -> None:
        """Store the two."""
        super().__init__(message)
        self.message, self.remedy = message, remedy


class StepConsole:
    """Prints each step: on a terminal one line that is redrawn, in a log a line every 30 s."""

    def __init__(self, out: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic) -> None:
        """Write to `out`."""
        self._out, self._clock, self._terminal = out, clock, out.isatty()
        self._title, self._started, self._shown = "", clock(), clock()

    def say(self, text: str) -> None:
        """Print a line now."""
        self._write(f"{text}\n")

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Show the running step; print it with its duration when it is done."""
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
        """Show the progress of the step; call this about every second."""
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
    """Return the error of a failed tool: its cause if the output shows one, otherwise the last lines."""
    lines = output.strip().splitlines()
    if found := next((line for line in lines if _DISK_FULL.search(line)), None):
        free = shutil.disk_usage(log.parent).free / 1e9
        remedy = f"{log.parent} has {free:.1f} GB free. Free some space. {KEPT}"
        return BuildFailed(f"the disk is full: {found.strip()}", remedy)
    if reason := _NO_NETWORK.search(output):
        remedy = f"Check the network, and the index and proxy that pip uses: python3 -m pip config list. {KEPT}"
        return BuildFailed(f"no package index can be reached: {reason[0]} (all lines are in {log})", remedy)
    message = "\n    ".join([f"{name} ended with {status}:", *lines[-LINES_SHOWN:]])
    return BuildFailed(message, f"The whole output is in {log}. {KEPT}")


def need(tools: Sequence[tuple[str, str]]) -> None:
    """Raise BuildFailed if a program is missing; `tools` has each program with the packages that contain it."""
    missing = [(name, packages) for name, packages in tools if not shutil.which(name)]
    if missing:
        packages = " ".join(packages for _, packages in missing)
        message = f"these programs are missing: {', '.join(name for name, _ in missing)}"
        raise BuildFailed(message, f"Debian, Ubuntu: sudo apt-get install {packages}")


def need_space(folder: Path, size_bytes: int) -> None:
    """Raise BuildFailed if the disk of a folder has less free space."""
    free = shutil.disk_usage(folder).free
    if free < size_bytes:
        message = f"{folder} has {free / 1e9:.1f} GB free; the build needs {size_bytes / 1e9:.1f} GB"
        raise BuildFailed(message, f"Free some space. {KEPT}")
