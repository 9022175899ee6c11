"""`edge-agent embed`."""

from __future__ import annotations

import typer

from edge_agent.cli.inputs import Texts, answers, worst
from edge_agent.cli.output import out, plain, print_json, table
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Embedding, Failure

_TIMEOUT_SECONDS = 60
_VALUES_SHOWN = 4


def run(
    ctx: typer.Context, task: TaskArgument, texts: Texts = None, target: Target = "", as_json: AsJson = False
) -> None:
    """Turn each input into a vector. The table shows its start; --json prints all of it, one object a line.

    Example: [bold]edge-agent embed product-search --json 'blue backpack' > vectors.jsonl[/bold]
    """
    failures: list[Failure] = []
    made = table("input", "length", "vector", "ms", right=("length", "ms"))
    with site_of(ctx).client(target) as client:
        for text, result in answers(
            client, task, texts, lambda name, batch: client.embed(name, batch, timeout_seconds=_TIMEOUT_SECONDS)
        ):
            if isinstance(result, Failure):
                failures.append(result)
            if as_json:
                key = "error" if isinstance(result, Failure) else "embedding"
                print_json({"input": text, key: plain(result)})
            else:
                made.add_row(text, *_row(result))
    if made.row_count:
        out().print(made)
    raise typer.Exit(worst(failures))


def _row(result: Embedding | Failure) -> tuple[str, str, str]:
    if isinstance(result, Failure):
        return "-", f"[red]{result.reason}: {result.message}[/red]", ""
    start = " ".join(f"{value:+.3f}" for value in result.values[:_VALUES_SHOWN])
    return str(len(result.values)), f"{start} …", f"{result.timings.total_ms:.0f}"
