"""What the flywheel shows: its stages with their time and figures, and the commands that it types."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.text import Text

_COMMAND_CHARACTERS_MAX = 110


class Screen:
    """Writes to standard error, so that --json has standard output for itself."""

    def __init__(self) -> None:
        """Begin."""
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self.seconds: dict[str, float] = {}
        """What each stage took."""

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Show a stage and what it took."""
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
