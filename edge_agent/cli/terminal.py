"""The one way of both commands to a terminal: whatever is shown, there is nothing in it that a terminal would obey.

A string or Text is one line: a break in it is shown as `\\n`. Lines of our own are printed one by one, or put into a
Group. Markup is off, since a label may look like it: styles are those of a Text. What programs read is written
exactly, by `write_exactly`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from edge_agent.errors.printable import OBEYED, escaped, one_line, printable, printable_lines


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
    terminal.print(Text.assemble(("error: ", "bold red"), one_line(message)))
    for line in details:
        terminal.print(Text(f"  {line}"))
    if remedy:
        terminal.print(Text.assemble(("  what to do: ", "bold"), one_line(remedy)))


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
