"""The inputs of a command (arguments, lines of a file or of standard input), each with its result.

Results come while inputs are still being read. On a terminal a bar on standard error shows the progress.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from edge_agent.cli.terminal import errors
from edge_agent.client import Client, Failure, Retry
from edge_agent.config.sections import MESSAGE_BYTES_MAX
from edge_agent.errors import EmptyInput, InvalidRequest

JSON_LINES = ".jsonl"

Texts = Annotated[
    list[str] | None,
    typer.Argument(metavar="TEXT", help="The inputs; without them the lines of standard input that are not blank."),
]
FileOption = Annotated[
    Path | None,
    typer.Option(
        "--file",
        metavar="FILE",
        help="The inputs are the lines of this file that are not blank, or of a .jsonl file each object's 'text'.",
    ),
]
_A = TypeVar("_A")


@dataclass(frozen=True)
class Inputs:
    """The source of a command's inputs."""

    texts: list[str] | None
    """Arguments; None or empty = `file`, or standard input."""
    file: Path | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield them. Raises EmptyInput, InvalidRequest, typer.BadParameter."""
        is_empty = True
        for text in self._texts():
            is_empty = False
            yield text
        if is_empty:
            source = f"'{self.file}'" if self.file else "standard input"
            raise EmptyInput(f"no input: {source} holds no text", remedy="Give at least one TEXT, or a line with text.")

    @property
    def retry(self) -> Retry | None:
        """The retries: a file continues when the daemon is busy or restarts; an argument is tried once."""
        return None if self.texts else Retry(from_the_start=False)

    def count(self) -> int | None:
        """Return the number of inputs; None = unknown until they have been read."""
        if self.texts:
            return len(self.texts)
        return sum(1 for _ in self._texts()) if self.file else None

    def _texts(self) -> Iterable[str]:
        if self.texts and self.file:
            raise typer.BadParameter("give TEXT or --file, not both", param_hint="--file")
        if self.texts:
            return self.texts
        if self.file:
            return _read_file(self.file)
        if sys.stdin.isatty():
            raise typer.BadParameter("give at least one TEXT, --file, or lines on standard input")
        return lines(sys.stdin.buffer, "standard input")


def answers(
    client: Client, task: str, inputs: Inputs, call: Callable[[str, list[str]], list[_A | Failure]], *, as_json: bool
) -> Iterator[tuple[str, _A | Failure]]:
    """Yield each input with its result.

    Raises:
        CallFailed: the daemon refused a request as a whole.
        EmptyInput, InvalidRequest: there is no input, or a line is not an input.
    """
    results = client.in_batches(call, task, inputs)
    shows_progress = sys.stderr.isatty() and not (as_json and sys.stdout.isatty())
    yield from with_progress_bar(results, inputs.count()) if shows_progress else results


def with_progress_bar(items: Iterable[_A], count: int | None, console: Console | None = None) -> Iterator[_A]:
    """Yield the items, with a bar on standard error that disappears at the end; `count` None = unknown."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("answered,"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console or errors(), transient=True) as progress:
        bar = progress.add_task("", total=count)
        for item in items:
            progress.advance(bar)
            yield item


def _read_file(path: Path) -> Iterator[str]:
    """Yield the inputs of a file. Raises InvalidRequest, typer.BadParameter."""
    try:
        with path.open("rb") as stream:
            texts = lines(stream, f"'{path}'")
            yield from map(_text_of, texts) if path.suffix == JSON_LINES else texts
    except OSError as error:
        raise typer.BadParameter(f"cannot read '{path}': {error.strerror}", param_hint="--file") from None


def _text_of(line: str) -> str:
    with contextlib.suppress(ValueError, RecursionError):
        row = json.loads(line)
        if isinstance(row, dict) and isinstance(row.get("text"), str):
            row["text"].encode()  # ValueError: half a character, which a text cut inside an emoji leaves
            return str(row["text"])
    message = f"a line is not a JSON object with 'text' in whole characters: {line[:80]}"
    raise InvalidRequest(message, remedy='Write each line like {"text": "I want my money back"}.')


def lines(stream: IO[bytes], source: str) -> Iterator[str]:
    """Yield the lines that are not blank, without white space around them. Raises InvalidRequest."""
    for number, line in enumerate(iter(lambda: stream.readline(MESSAGE_BYTES_MAX + 1), b""), 1):
        if len(line) > MESSAGE_BYTES_MAX:
            message = f"line {number} of {source} has more than {MESSAGE_BYTES_MAX} bytes, which no daemon accepts"
            raise InvalidRequest(message, remedy="Write one input on each line.")
        if text := as_text(line, f"line {number} of {source}").strip():
            yield text


def as_text(raw: bytes, source: str) -> str:
    """Decode UTF-8. Raises InvalidRequest, naming `source` and the byte."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        message = f"{source} is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}"
        raise InvalidRequest(message, remedy="Convert it first, for example with 'iconv -f LATIN1 -t UTF-8'.") from None
