"""A group of commands that imports a command's module when that command runs: `--help` and the others do without it.

Help lists each command by the summary that stands in the group's table; the first line of the command's own help says
the same, which a test holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class CommandEntry:
    """Where a command is, and what the list of commands shows of it."""

    module: str
    name: str
    """In that module: a function, a class, or a typer.Typer with commands of its own."""
    summary: str


class LazyCommands(Mapping[str, Any]):
    """The commands of a table by name; looking one up imports its module."""

    def __init__(self, entries: Mapping[str, CommandEntry]) -> None:
        """Take the table."""
        self._entries = entries

    def __getitem__(self, name: str) -> Any:
        """Import the module of a command and build the command."""
        entry = self._entries[name]
        command = getattr(import_module(entry.module), entry.name)
        # typer builds commands in a group only: a group of this one command.
        around = typer.Typer(add_completion=False)
        if isinstance(command, typer.Typer):
            around.add_typer(command, name=name)
        else:
            around.command(name)(command)
        around.callback()(lambda: None)
        group: Any = typer.main.get_command(around)
        return group.commands[name]

    def __iter__(self) -> Iterator[str]:
        """Yield the names in the order of the table."""
        return iter(self._entries)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._entries)

    def summary(self, name: str) -> Any:
        """Return a command that has nothing but its summary, for help; None = there is no such command."""
        entry = self._entries.get(name)
        return TyperCommand(name, help=entry.summary) if entry else None


class LazyGroup(TyperGroup):
    """A group over a table; a subclass names it as `entries`."""

    entries: Mapping[str, CommandEntry]

    def __init__(self, **attrs: Any) -> None:
        """Take the commands from the table."""
        super().__init__(**{**attrs, "commands": {}})
        self.lazy = LazyCommands(self.entries)
        self.commands: Any = self.lazy

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, without importing anything."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what help shows of a command."""
        return self.lazy.summary(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that is to run."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, self.lazy[name] if found and name else None, rest
