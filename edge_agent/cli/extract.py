"""`edge-agent extract`."""

from __future__ import annotations

import typer
from rich.text import Text

from edge_agent.cli.classify import TIMEOUT_SECONDS, LowConfidence
from edge_agent.cli.inputs import Texts, answers
from edge_agent.cli.results import Form, note, show
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Extraction


def run(
    ctx: typer.Context,
    task: TaskArgument,
    texts: Texts = None,
    on_low_confidence: LowConfidence = "answer",
    target: Target = "",
    as_json: AsJson = False,
) -> None:
    """Find the task's record in each input.

    With --json, one object a line: the confidence of each field that was written, the place of each value that was
    found in the text.

    Example: [bold]edge-agent extract pos-fields 'two blue mugs for 7 euros'[/bold]
    """
    with site_of(ctx).client(target) as client:
        found = answers(
            client,
            task,
            texts,
            lambda name, batch: client.extract(
                name, batch, on_low_confidence=on_low_confidence, timeout_seconds=TIMEOUT_SECONDS
            ),
        )
        code = show(found, FORM, as_json)
    raise typer.Exit(code)


def _cells(result: Extraction) -> tuple[Text, str]:
    return Text(result.json or result.route.lower()), f"{result.confidence:.2f}"


FORM = Form("extraction", ("record", "confidence"), _cells, note, right=("confidence",))
