"""`edge-agent classify`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.inputs import Texts, answers
from edge_agent.cli.results import Form, note, show
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Classification, OnLowConfidence

TIMEOUT_SECONDS = 60
LowConfidence = Annotated[
    OnLowConfidence,
    typer.Option(
        help="What to do below the bundle's threshold: as_mode = what the task's mode says; escalate = ask the large"
        " model if it can be asked."
    ),
]


def run(
    ctx: typer.Context,
    task: TaskArgument,
    texts: Texts = None,
    on_low_confidence: LowConfidence = "as_mode",
    target: Target = "",
    as_json: AsJson = False,
) -> None:
    """Choose one label for each input. With --json, one object a line.

    The inputs go to the daemon in batches, at most 16 and at most the task's limit; every input gets its own result.

    Example: [bold]edge-agent classify pos-intent 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json < messages.txt[/bold]
    """
    with site_of(ctx).client(target) as client:
        found = answers(
            client,
            task,
            texts,
            lambda name, batch: client.classify(
                name, batch, on_low_confidence=on_low_confidence, timeout_seconds=TIMEOUT_SECONDS
            ),
        )
        code = show(found, FORM, as_json)
    raise typer.Exit(code)


def _cells(result: Classification) -> tuple[Text, str]:
    label = Text(result.label or result.route.lower(), style="bold" if result.label else "yellow")
    return label, f"{result.confidence:.2f}"


FORM = Form("classification", ("label", "confidence"), _cells, note, right=("confidence",))
