"""Commands as a person types them: run, shown by stage, and logged with their output."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

_COMMAND_CHARACTERS_MAX = 110


class ProgressLog:
    """Writes to standard error, so that --json has standard output for itself."""

    def __init__(self) -> None:
        """Begin."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        """What each stage took."""

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Show a stage and its duration."""
        self._console.print(Text.assemble((f"{len(self.seconds) + 1:>2} {name}", "bold"), f"  {what}"))
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)
        self.line(f"{self.seconds[name]:.1f} s", "dim")

    def command(self, typed: str) -> None:
        """Show a command."""
        cut = len(typed) > _COMMAND_CHARACTERS_MAX
        self.line(f"$ {typed[:_COMMAND_CHARACTERS_MAX]}{'…' if cut else ''}", "cyan")

    def line(self, text: str, style: str = "") -> None:
        """Show a line of a stage."""
        self._console.print(Text(f"   {text}", style))


_SAID_CHARACTERS_MAX = 2000


class StepFailed(Exception):
    """A command ended otherwise than it should."""


@dataclass(frozen=True)
class Commands:
    """Runs them in one folder, and writes commands.log there."""

    folder: Path
    screen: ProgressLog

    def convert(self, *arguments: object, codes: Sequence[int] = (0,)) -> str:
        """Run edge-convert; return its standard output."""
        words = [str(each) for each in arguments]
        return self._run(["edge-convert", *words], ["convert.cli", *words], codes)

    def agent(self, site: Sequence[str], *arguments: object) -> str:
        """Run edge-agent with the options that name a site; return its standard output."""
        words = [str(each) for each in arguments]
        return self._run(["edge-agent", *words], ["edge_agent.cli", *site, *words], (0,))

    def _run(self, shown: Sequence[str], run: Sequence[str], codes: Sequence[int]) -> str:
        typed = shlex.join(shown).replace(f"{self.folder}/", "")
        self.screen.command(typed)
        done = subprocess.run(  # noqa: S603 - our own commands
            [sys.executable, "-m", *run],
            cwd=self.folder,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        with (self.folder / "commands.log").open("a", encoding="utf-8") as log:
            log.write(f"$ {typed}\n{done.stdout}{done.stderr}[{done.returncode}]\n\n")
        if done.returncode not in codes:
            said = (done.stdout + done.stderr)[-_SAID_CHARACTERS_MAX:]
            raise StepFailed(f"'{typed}' ended with {done.returncode}:\n{said}")
        return done.stdout
