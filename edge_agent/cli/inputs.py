"""Inputs of a command: its arguments, or the lines of standard input, in batches that the task allows."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Annotated, TypeVar

import typer

from edge_agent.client import Client, Failure
from edge_agent.errors import EmptyInput, InvalidRequest

BATCH_INPUTS_MAX = 16
"""Few enough that results come while standard input is still being read."""

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TEXT]...", help="The inputs; left out: the lines of standard input that are not blank."),
]
_T = TypeVar("_T")
_A = TypeVar("_A")


def answers(
    client: Client, task: str, texts: list[str] | None, call: Callable[[str, list[str]], list[_A | Failure]]
) -> Iterator[tuple[str, _A | Failure]]:
    """Yield each input with its result, batch by batch.

    Raises:
        CallFailed: the daemon refused a batch.
        EmptyInput, InvalidRequest: standard input holds nothing, or a line that is not UTF-8.
    """
    size = min(client.task(task).inputs_max, BATCH_INPUTS_MAX)
    nothing = True
    for batch in batches(lines(texts), size):
        nothing = False
        yield from zip(batch, call(task, batch), strict=True)
    if nothing:
        remedy = "Give at least one TEXT, or a line with text on standard input."
        raise EmptyInput("no input: standard input holds no text", remedy=remedy)


def lines(texts: list[str] | None) -> Iterable[str]:
    """Return the arguments, or the lines of standard input that are not blank."""
    if texts:
        return texts
    if sys.stdin.isatty():
        raise typer.BadParameter("give at least one TEXT, or lines on standard input")
    decoded = (
        as_text(line, f"line {number} of standard input").strip() for number, line in enumerate(sys.stdin.buffer, 1)
    )
    return filter(None, decoded)


def as_text(raw: bytes, what: str) -> str:
    """Decode UTF-8. Raises InvalidRequest, naming `what` and the byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        said = f"{what} is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise InvalidRequest(said, remedy="Convert it first, for example with 'iconv -f LATIN1 -t UTF-8'.") from None


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Yield the items in lists of `size`, the last one shorter."""
    pending = iter(items)
    while batch := list(islice(pending, size)):
        yield batch
