"""Groups of commands: a command's module is imported when it runs, and global options can be anywhere.

`--help` lists each command by the summary in its group's table, so that it imports none of them. The first line of the
command's own help is the same sentence; a test compares the two.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from edge_agent.errors.base import printable

# typer has no public name for it.
UsageError: Any = typer.BadParameter.__bases__[0]


@dataclass
class GlobalOptions:
    """The options that every command takes; None = not given."""

    config: Path | None = None
    state_dir: Path | None = None
    run_dir: Path | None = None
    remote: Path | None = None
    quiet: bool = False
    verbose: bool = False
    no_color: bool = False


_SITE = 3
"""Exit code of both programs for a fault on this machine."""
GLOBAL_OPTION_NAMES = frozenset(field.name for field in fields(GlobalOptions))


def open_standard_streams() -> None:
    """Open standard streams that the caller closed, as with `>&-`, on /dev/null. Call before anything else is opened.

    Otherwise printing raises, and the next opened file gets the stream's number and with it the output of libraries.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode, encoding="utf-8"))


def flush_output() -> None:
    """Flush standard output; silently if its reader, such as `head`, has ended.

    Raises SystemExit if it cannot be written: a file with half of an answer is not a success.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        was_reported = isinstance(error.__context__, SystemExit) and error.__context__.code == _SITE
        _drop_output()
        if not (isinstance(error, BrokenPipeError) or was_reported):
            _report_lost_output(error)


def _drop_output() -> None:
    null_descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_descriptor, sys.stdout.fileno())
    os.close(null_descriptor)


def _report_lost_output(error: OSError) -> NoReturn:
    from edge_agent.cli.terminal import report  # noqa: PLC0415 - most commands end without an error

    report(f"standard output: {error.strerror}", "Free some space, or write to another place.")
    raise SystemExit(_SITE) from None


def disable_color() -> None:
    """Disable colors from now on, also in programs that a command starts: https://no-color.org."""
    os.environ["NO_COLOR"] = "1"


def global_options(ctx: typer.Context) -> GlobalOptions:
    """Return the global options of this invocation, from any position."""
    options = ctx.find_object(GlobalOptions)
    assert options is not None, "the root command sets it; this is a bug"
    return options


def join_help_lines(command: Any) -> None:
    """Make each paragraph of help one line, also of the commands below: typer keeps the line breaks of a docstring.

    A terminal then breaks it at its own width.
    """
    if command.help:
        command.help = "\n\n".join(each.replace("\n", " ") for each in command.help.split("\n\n"))
    for inner in getattr(command, "commands", {}).values():
        join_help_lines(inner)


@dataclass(frozen=True)
class CommandEntry:
    """The location of a command, and its entry in the list of commands."""

    module: str
    attribute: str
    """A function or class of the module, or a typer.Typer with commands of its own."""
    summary: str
    panel: str = ""
    """Heading in the list of commands; empty = none."""
    renamed_to: str = ""
    """The words that replace an old name, which help hides, as in "bundles list"; empty = the name is current."""


class LazyCommands(Mapping[str, Any]):
    """The commands of a table by name; looking one up imports its module. Iteration omits old names."""

    def __init__(self, entries: Mapping[str, CommandEntry], options: Iterable[Any]) -> None:
        """Take the table, and the global options that each command gets."""
        self._entries = entries
        self._options = [_inherit_option(option) for option in options]

    def __getitem__(self, name: str) -> Any:
        """Import the module of a command and build the command."""
        entry = self._entries[name]
        target = getattr(import_module(entry.module), entry.attribute)
        # typer builds commands in a group only: a group of this one command.
        app = typer.Typer(add_completion=False)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
        app.callback()(lambda: None)
        group: Any = typer.main.get_command(app)
        command = group.commands[name]
        self._add_options(command)
        join_help_lines(command)
        return command

    def _add_options(self, command: Any) -> None:
        command.params = [*command.params, *self._options]
        for inner in getattr(command, "commands", {}).values():
            self._add_options(inner)

    def __iter__(self) -> Iterator[str]:
        """Yield the current names in the order of the table."""
        return (name for name, entry in self._entries.items() if not entry.renamed_to)

    def __len__(self) -> int:
        """Return the number of current names."""
        return sum(1 for _ in self)

    def summary(self, name: str) -> Any:
        """Return a command with only its summary, for help; None = there is no such command."""
        entry = self._entries.get(name)
        if entry is None:
            return None
        panel = entry.panel or None
        return TyperCommand(name, help=entry.summary, hidden=bool(entry.renamed_to), rich_help_panel=panel)


def _inherit_option(option: Any) -> Any:
    """Return a root option for a subcommand: hidden in its help, and stored in the invocation's options."""
    inherited = copy.copy(option)
    inherited.hidden, inherited.expose_value, inherited.is_eager = True, False, True
    inherited.callback = _store_option
    return inherited


def _store_option(ctx: Any, option: Any, value: Any) -> None:
    if value not in (None, False):
        if option.name == "no_color":
            disable_color()
        path = option.name in ("config", "state_dir", "run_dir", "remote")
        setattr(global_options(ctx), option.name, Path(value) if path else value)


def _usage_message(message: str) -> str:
    """Return the message about an argument, without typer's name of the exception."""
    return printable(message.removeprefix("Value error, "))


class PrintableGroup(TyperGroup):
    """A group with -h, whose errors quote arguments with control characters escaped.

    A shell can put any file name into an argument.
    """

    def __init__(self, **attrs: Any) -> None:
        """Take the settings of typer's group."""
        settings = {"help_option_names": ["-h", "--help"], **(attrs.pop("context_settings", None) or {})}
        super().__init__(**attrs, context_settings=settings)
        join_help_lines(self)

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read the arguments of the group, or print its help."""
        try:
            return super().make_context(*args, **extra)
        except OSError as error:
            if error.filename is not None or isinstance(error, BrokenPipeError):
                raise
            _drop_output()
            _report_lost_output(error)
        except UsageError as error:
            error.message = _usage_message(error.message)
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse arguments that are not text, because messages and requests cannot contain them."""
        for number, argument in enumerate(args, 1):
            escaped = argument.encode(errors="surrogateescape").decode(errors="backslashreplace")
            if escaped != argument:
                raise UsageError(f"argument {number} is not UTF-8: {escaped}", ctx=ctx)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Read the arguments of a command, and run it."""
        try:
            return super().invoke(ctx)
        except UsageError as error:
            error.message = _usage_message(error.message)
            raise


class LazyGroup(PrintableGroup):
    """A group over a table of commands; a subclass names it as `entries`."""

    entries: Mapping[str, CommandEntry]

    def __init__(self, **attrs: Any) -> None:
        """Take the commands from the table."""
        super().__init__(**{**attrs, "commands": {}})
        self.lazy = LazyCommands(self.entries, [each for each in self.params if each.name in GLOBAL_OPTION_NAMES])
        self.commands: Any = self.lazy

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names, without importing anything."""
        return list(self.lazy)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return what help shows of a command."""
        return self.lazy.summary(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Return the command that is to run."""
        name, command, rest = super().resolve_command(ctx, args)
        if command and name and (renamed_to := self.entries[name].renamed_to):
            self.note_renaming(name, renamed_to)
        return name, self.lazy[name] if command and name else None, rest

    def note_renaming(self, name: str, renamed_to: str) -> None:
        """Tell the caller, on standard error, that a command has a new name."""
        raise NotImplementedError
