"""Commands as a person types them: run, shown, and kept with what they said in a log."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.flywheel.screen import Screen

_SAID_CHARACTERS_MAX = 2000


class StepFailed(Exception):
    """A command ended otherwise than it should."""


@dataclass(frozen=True)
class Commands:
    """Runs them in one folder, and writes commands.log there."""

    folder: Path
    screen: Screen

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
