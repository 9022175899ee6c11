"""`edge-agent generate`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from edge_agent.cli.inputs import as_text
from edge_agent.cli.output import err
from edge_agent.cli.site import Target, TaskArgument, site_of
from edge_agent.client import CallFailed

_TIMEOUT_SECONDS = 300


@contextmanager
def _remedies() -> Iterator[None]:
    """Say in the words of the command line what the daemon says of a field."""
    try:
        yield
    except CallFailed as error:
        if error.reason == "REQUEST_INVALID" and error.message.startswith("output_tokens_max"):
            error.remedy = "Give a smaller --output-tokens-max, or leave it out for the task's limit."
        raise


def run(
    ctx: typer.Context,
    task: TaskArgument,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What to answer; '-' reads standard input.")],
    output_tokens_max: Annotated[int, typer.Option(min=0, help="The most tokens to write; 0 = the task's limit.")] = 0,
    temperature: Annotated[
        float | None, typer.Option(min=0, max=2, help="0 = always the likeliest token; left out: the bundle's value.")
    ] = None,
    target: Target = "",
) -> None:
    """Write text, shown as it comes.

    Example: [bold]edge-agent generate assistant 'Write a sign: we close at six today'[/bold]
    """
    asked = as_text(sys.stdin.buffer.read(), "standard input") if text == "-" else text
    with (
        site_of(ctx).client(target) as client,
        client.generate(
            task,
            asked,
            output_tokens_max=output_tokens_max,
            temperature=temperature,
            timeout_seconds=_TIMEOUT_SECONDS,
        ) as stream,
        _remedies(),
    ):
        for piece in stream:
            sys.stdout.write(piece)
            sys.stdout.flush()
        sys.stdout.write("\n")
    if stream.finish and stream.finish.reason == "LENGTH":
        err().print(f"[dim]cut at {stream.finish.output_tokens} tokens[/dim]")
