"""Running the tools of the build, and saying what goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

LINES_SHOWN = 20


class BuildFailed(Exception):
    """The installer cannot be made: a sentence, and what to do."""

    def __init__(self, message: str, remedy: str) -> None:
        """Say it."""
        super().__init__(message)
        self.message, self.remedy = message, remedy


def say(text: str) -> None:
    """Print a line now."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def step(title: str, started: float) -> None:
    """Print a step that is done, and how long it took."""
    say(f"  ok   {title}  {time.monotonic() - started:.0f} s")


def run(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> str:
    """Run a tool; return what it printed. Raises BuildFailed with its last lines; all of them are in the log."""
    everything = {**os.environ, **(environment or {})}
    done = subprocess.run(command, capture_output=True, text=True, env=everything, check=False)  # noqa: S603 - our words
    with log.open("a", encoding="utf-8") as file:
        file.write(f"\n== {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()[-LINES_SHOWN:]
        said = "\n    ".join([f"{Path(command[0]).name} ended with {done.returncode}:", *lines])
        raise BuildFailed(said, f"The whole output is in {log}.")
    return done.stdout


def python(*arguments: object) -> list[str]:
    """Return a command under the Python that runs this."""
    return [sys.executable, *map(str, arguments)]


def need(tools: Sequence[tuple[str, str]]) -> None:
    """Raise BuildFailed unless every program is there; each comes with the packages that bring it."""
    missing = [(name, packages) for name, packages in tools if not shutil.which(name)]
    if missing:
        packages = " ".join(packages for _, packages in missing)
        said = f"these programs are missing: {', '.join(name for name, _ in missing)}"
        raise BuildFailed(said, f"Debian, Ubuntu: sudo apt-get install {packages}")
