"""`edge-agent embed`."""

from __future__ import annotations

import typer
from rich.text import Text

from edge_agent.cli.classify import TIMEOUT_SECONDS
from edge_agent.cli.inputs import Texts, answers
from edge_agent.cli.results import Form, show
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Embedding

_VALUES_SHOWN = 4


def run(
    ctx: typer.Context, task: TaskArgument, texts: Texts = None, target: Target = "", as_json: AsJson = False
) -> None:
    """Turn each input into a vector. The table shows its start; --json prints all of it, one object a line.

    Example: [bold]edge-agent embed product-search --json 'blue backpack' > vectors.jsonl[/bold]
    """
    with site_of(ctx).client(target) as client:
        found = answers(
            client, task, texts, lambda name, batch: client.embed(name, batch, timeout_seconds=TIMEOUT_SECONDS)
        )
        code = show(found, FORM, as_json)
    raise typer.Exit(code)


def _cells(result: Embedding) -> tuple[str, str]:
    return str(len(result.values)), " ".join(f"{value:+.3f}" for value in result.values[:_VALUES_SHOWN]) + " …"


def _note(result: Embedding) -> Text:
    return Text(", ".join(word.lower().replace("_", " ") for word in result.degraded))


FORM = Form("embedding", ("length", "vector"), _cells, _note, right=("length",))
