"""Inputs of a command: its arguments, or the lines of standard input, in batches that the task allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, TypeVar

import typer

from edge_agent.cli.exits import Exit, exit_code
from edge_agent.client import Client, Failure

BATCH_INPUTS_MAX = 16
"""Few enough that results come while standard input is still being read."""

Texts = Annotated[
    list[str] | None, typer.Argument(metavar="[TEXT]...", help="The inputs; left out: the lines of standard input.")
]
_T = TypeVar("_T")
_A = TypeVar("_A")


def answers(
    client: Client, task: str, texts: list[str] | None, call: Callable[[str, list[str]], list[_A | Failure]]
) -> Iterator[tuple[str, _A | Failure]]:
    """Yield each input with its result, batch by batch. Raises CallFailed."""
    size = min(client.task(task).inputs_max, BATCH_INPUTS_MAX)
    for batch in batches(lines(texts), size):
        yield from zip(batch, call(task, batch), strict=True)


def lines(texts: list[str] | None) -> Iterable[str]:
    """Return the arguments, or the lines of standard input that are not blank."""
    if texts:
        return texts
    if sys.stdin.isatty():
        raise typer.BadParameter("give at least one TEXT, or lines on standard input")
    return (line.strip() for line in sys.stdin if line.strip())


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in lists of `size`, the last one shorter."""
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch


def worst(failures: Iterable[Failure]) -> Exit:
    """Return the exit code of the first input that failed, or OK."""
    return next((exit_code(failure.reason) for failure in failures), Exit.OK)
