"""`edge-agent generate`: text of a task, streamed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import exp
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from edge_agent.cli.daemon_target import TargetOption, TaskArgument, target_of
from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import err
from edge_agent.cli.terminal import EscapedTable, write_answer
from edge_agent.client import CallFailed, Finish, GenerateOptions

_TIMEOUT_SECONDS = 300


@contextmanager
def _remedies() -> Iterator[None]:
    """Translate a remedy of the daemon that names a request field into the option of this command."""
    try:
        yield
    except CallFailed as error:
        if error.reason == "REQUEST_INVALID" and error.message.startswith("output_tokens_max"):
            error.remedy = "Give a smaller --output-tokens-max, or leave it out for the task's limit."
        raise


@dataclass(kw_only=True)
class Command:
    """Write text, shown as it comes.

    With --escalate the large model writes it, if the task's inputs may go there and it can be asked; otherwise the
    model here does, and standard error explains why.

    Example: [bold]edge-agent generate assistant 'Write a sign: we close at six today'[/bold]

    With --logprobs 3 a table on standard error shows how likely each token was, and the three likeliest.

    Example: [bold]edge-agent generate assistant --escalate 'Write to a customer whose lamp came broken'[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    ctx: typer.Context
    task: TaskArgument
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to answer; '-' reads standard input.")]
    output_tokens_max: Annotated[int, typer.Option(min=0, help="The most tokens to write; 0 = the task's limit.")] = 0
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 = always the likeliest token; left out: the bundle's value.")
    ] = None
    escalate: Annotated[
        bool, typer.Option("--escalate", help="Let the large model write it, if it can be asked; it may cost money.")
    ] = False
    logprobs: Annotated[
        int | None,
        typer.Option(min=0, max=5, help="Show how likely each token was, and so many of the likeliest in its place."),
    ] = None
    target: TargetOption = ""

    def __post_init__(self) -> None:
        """Run the command."""
        asked = as_text(sys.stdin.buffer.read(), "standard input") if self.text == "-" else self.text
        options: GenerateOptions = {
            "output_tokens_max": self.output_tokens_max,
            "temperature": self.temperature,
            "escalate": self.escalate,
            "logprobs": self.logprobs,
        }
        with (
            target_of(self.ctx).client(self.target) as client,
            client.generate(self.task, asked, timeout_seconds=_TIMEOUT_SECONDS, **options) as stream,
            _remedies(),
        ):
            for piece in stream:
                write_answer(piece)
            write_answer("\n")
        if stream.finish:
            self._remark(stream.finish)

    def _remark(self, finish: Finish) -> None:
        """Print the facts about the text on standard error."""
        if finish.reason == "LENGTH":
            err().print(Text(f"cut at {finish.output_tokens} tokens", style="dim"))
        if self.logprobs is not None:
            err().print(_likelihoods(finish))
        if self.escalate:
            err().print(Text(_written_by(finish), style="dim"))


def _likelihoods(finish: Finish) -> Table | Text:
    """Return a table of the written tokens, a row each."""
    if not finish.tokens:
        return Text("no probabilities: who wrote this knows none", style="dim")
    table = EscapedTable(box=None, header_style="dim", pad_edge=False)
    table.add_column("token")
    table.add_column("probability", justify="right")
    table.add_column("the likeliest in its place", style="dim")
    for token in finish.tokens:
        others = "  ".join(f"{_shown(piece)} {exp(logprob):.1%}" for piece, logprob in token.alternatives)
        table.add_row(Text(_shown(token.token)), f"{exp(token.logprob):.1%}", Text(others))
    return table


def _shown(piece: bytes) -> str:
    """Return a token in quotes, so that its spaces and line ends are seen."""
    return repr(piece.decode("utf-8", "backslashreplace"))


def _written_by(finish: Finish) -> str:
    if finish.route == "UPSTREAM":
        return f"written by {finish.model or 'the large model'}"
    who = "nobody" if finish.route == "ABSTAINED" else "the model here"
    return f"written by {who}: {finish.route_reason}, see docs/routing.md"
