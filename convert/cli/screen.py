"""What the commands of the factory show: a line for each thing done, and a bar while something long goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from convert.pipeline import Screen
from convert.stage import Progress as Advance
from edge_agent.cli.terminal import Terminal

_STAGE_WIDTH = 10


def out() -> Console:
    """Return a console on standard output."""
    return Terminal(soft_wrap=True)


@contextmanager
def bar(console: Console | None = None) -> Iterator[Advance]:
    """Yield a callback (what, done, total) that draws one bar on a terminal, by default where errors go."""
    console = console or Terminal(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None)
            if bars.tasks[task].finished:
                bars.reset(task, description=what)

        yield advance


@contextmanager
def stages() -> Iterator[Screen]:
    """Yield what a run of the pipeline reports to: a line for each note on standard output, a bar below them."""
    with bar() as advance:
        console = out()

        def note(stage: str, said: str) -> None:
            advance(said if stage == "data" else f"{stage}", 0, 0)
            style = "yellow" if stage == "data" else "bold"
            console.print(Text.assemble((f"{stage:<{_STAGE_WIDTH}}", style), said))

        yield Screen(note, advance)
