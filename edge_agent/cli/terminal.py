"""The one way of both commands to a terminal: whatever is shown, there is nothing in it that a terminal would obey.

A string or Text is one line: a break in it is shown as `\\n`. Lines of our own are printed one by one, or put into a
Group. Markup is off, since a label may look like it: styles are those of a Text. What programs read is written
exactly, by `write_exactly`.
"""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from edge_agent.errors.base import OBEYED, escaped, one_line, printable, printable_lines, with_sudo, works_by_sudo

_QUOTED = re.compile(r"(?<!\w)'[^'\n]+'")
_NO_BREAK = "\N{NO-BREAK SPACE}"


class Terminal(Console):
    """A console of rich that prints what comes from elsewhere as text."""

    def __init__(self, **settings: Any) -> None:
        """Take the settings of rich's console."""
        super().__init__(**{"highlight": False, "emoji": False, "markup": False, **settings})

    def render_str(self, text: str, **settings: Any) -> Text:
        """Turn a string into a text."""
        return super().render_str(printable(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Turn something into segments, every one of them printable."""
        if isinstance(renderable, Text):
            renderable = printable_text(renderable)
        for segment in super().render(renderable, options):
            clean = segment.control or segment.text.isprintable()
            yield segment if clean else segment._replace(text=printable_lines(segment.text))


class EscapedTable(Table):
    """A table that makes room for what is escaped in its cells."""

    def add_row(self, *cells: RenderableType | None, **settings: Any) -> None:
        """Add a row."""
        super().add_row(*(printable_text(each) if isinstance(each, Text) else each for each in cells), **settings)


def printable_text(text: Text) -> Text:
    """Return a text on one line, in its styles, with everything escaped that a terminal would obey."""
    if text.plain.isprintable():
        return text
    made, start = text.blank_copy(), 0
    for found in OBEYED.finditer(text.plain):
        made.append_text(text[start : found.start()]).append(escaped(found))
        start = found.end()
    return made.append_text(text[start : len(text.plain)])


def errors() -> Terminal:
    """Return a terminal on standard error."""
    return Terminal(stderr=True, soft_wrap=True)


def report(message: str, remedy: str, details: Iterable[str] = ()) -> None:
    """Print an error, what belongs to it line by line, and what to do about it."""
    terminal = errors()
    print_wrapped(terminal, one_line(message), Text("error: ", style="bold red"))
    for line in details:
        print_wrapped(terminal, printable(line), Text("  "))
    if remedy:
        print_wrapped(terminal, one_line(advice(remedy)), Text("  what to do: ", style="bold"))


def advice(text: str) -> str:
    """Return a sentence with the commands that this user has to run: through sudo, if this one runs so."""
    return with_sudo(text) if works_by_sudo(os.environ, os.geteuid()) else text


def print_wrapped(console: Console, text: str, head: Text) -> None:
    """Print a sentence after its head: on a terminal in lines of whole words and whole quoted commands.

    Elsewhere it is one line, for those who search a log.
    """
    lines = wrapped(text, console.width, head.cell_len) if console.is_terminal else [text]
    for number, line in enumerate(lines or [""]):
        start = head if number == 0 else Text("  ")
        console.print(Text.assemble(start, line), soft_wrap=True)


def wrapped(text: str, width: int, head_cells: int = 0) -> list[str]:
    """Break a sentence at its blanks; a quoted command stays whole where a line has room for it."""
    kept = _QUOTED.sub(lambda found: found[0].replace(" ", _NO_BREAK) if len(found[0]) < width else found[0], text)
    filler = "x" * head_cells
    lines = textwrap.wrap(
        f"{filler}{kept}", max(20, width), subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return [
        line.removeprefix(filler if number == 0 else "  ").replace(_NO_BREAK, " ") for number, line in enumerate(lines)
    ]


def say(text: str, *, err: bool = False) -> None:
    """Print lines as they are, unwrapped: for people and for those who cut lines apart."""
    typer.echo(printable_lines(text), err=err)


def write_answer(text: str) -> None:
    """Write a part of an answer to standard output: exactly into a file or pipe, printable on a terminal."""
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()


def write_exactly(text: str, *, end: str = "\n") -> None:
    """Write what a program reads, such as JSON, to standard output."""
    typer.echo(text + end, nl=False)
