"""What both commands say of wrong arguments: with nothing in it that a terminal would obey."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from edge_agent.errors.printable import printable

# typer has no public name for it.
UsageError: Any = typer.BadParameter.__bases__[0]


class PrintableUsage(TyperGroup):
    """A group whose errors quote arguments as they may be printed: a shell puts any file name there."""

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the arguments of the group."""
        try:
            return super().make_context(*args, **extra)
        except UsageError as error:
            error.message = printable(error.message)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of a command, and run it."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            error.message = printable(error.message)
            raise
