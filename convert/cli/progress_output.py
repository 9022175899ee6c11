"""Output of the edge-convert commands: a line for each finished step, and a progress bar during long steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from convert.pipeline.execution import RunDisplay
from convert.pipeline.stage import Progress as Advance
from convert.report.run_summary import duration
from edge_agent.cli.terminal import Terminal

_STAGE_WIDTH = 10
LINE_SECONDS = 60.0
"""Between two lines of progress in a log."""


def out() -> Console:
    """Return a console on standard output."""
    return Terminal(soft_wrap=True)


@contextmanager
def bar(console: Console | None = None, monotonic: Callable[[], float] = time.monotonic) -> Iterator[Advance]:
    """Yield a callback (what, done, total) that draws one bar on a terminal, by default on standard error.

    Elsewhere, in a log, it prints one line per minute during a long step.
    """
    console = console or Terminal(stderr=True)
    if not console.is_terminal:
        yield _ProgressLog(console, monotonic)
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bars.update(task, description=what, completed=done, total=total or None)
            if bars.tasks[task].finished:
                bars.reset(task, description=what)

        yield advance


class _ProgressLog:
    """What a log shows of a bar."""

    def __init__(self, console: Console, monotonic: Callable[[], float]) -> None:
        self._console, self._monotonic = console, monotonic
        self._started_at = self._printed_at = monotonic()

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self._monotonic()
        if now - self._printed_at < LINE_SECONDS:
            return
        self._printed_at = now
        share = f", {done} of {total}" if total else ""
        self._console.print(f"{duration(now - self._started_at)}: {what}{share}", soft_wrap=True)


@contextmanager
def stages() -> Iterator[RunDisplay]:
    """Yield the progress target of a pipeline run: a line on standard output for each note, and a bar below them."""
    with bar() as advance:
        console = out()

        def note(stage: str, message: str) -> None:
            advance(message if stage == "data" else f"{stage}", 0, 0)
            style = "yellow" if stage == "data" else "bold"
            console.print(Text.assemble((f"{stage:<{_STAGE_WIDTH}}", style), message))

        yield RunDisplay(note, advance)


def show(markdown: str) -> None:
    """Print Markdown: rendered on a terminal, unchanged elsewhere."""
    console = out()
    if console.is_terminal:
        console.print(Markdown(markdown))
        return
    for line in markdown.splitlines():
        console.print(line)
