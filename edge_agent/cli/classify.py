"""`edge-agent classify`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.inputs import Texts, answers, worst
from edge_agent.cli.output import out, plain, print_json, table
from edge_agent.cli.site import AsJson, Target, TaskArgument, site_of
from edge_agent.client import Classification, Failure, OnLowConfidence

_TIMEOUT_SECONDS = 60


def run(
    ctx: typer.Context,
    task: TaskArgument,
    texts: Texts = None,
    on_low_confidence: Annotated[
        OnLowConfidence, typer.Option(help="What to do when the confidence is below the bundle's threshold.")
    ] = "answer",
    target: Target = "",
    as_json: AsJson = False,
) -> None:
    """Choose one label for each input. With --json, one object a line.

    Example: [bold]edge-agent classify pos-intent 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json < messages.txt[/bold]
    """
    failures: list[Failure] = []
    made = table("input", "label", "confidence", "ms", "note", right=("confidence", "ms"))
    with site_of(ctx).client(target) as client:
        for text, result in answers(
            client,
            task,
            texts,
            lambda name, batch: client.classify(
                name, batch, on_low_confidence=on_low_confidence, timeout_seconds=_TIMEOUT_SECONDS
            ),
        ):
            if isinstance(result, Failure):
                failures.append(result)
            if as_json:
                key = "error" if isinstance(result, Failure) else "classification"
                print_json({"input": text, key: plain(result)})
            else:
                made.add_row(text, *row(result))
    if made.row_count:
        out().print(made)
    raise typer.Exit(worst(failures))


def row(result: Classification | Failure) -> tuple[Text, str, str, Text]:
    """Return label, confidence, milliseconds and note of one result."""
    if isinstance(result, Failure):
        return Text("-"), "", "", Text(f"{result.reason}: {result.message}", style="red")
    notes = [f"below the threshold {result.threshold:.2f}"] if result.threshold and result.below_threshold else []
    if result.threshold is None:
        notes.append("not calibrated")
    notes += [word.lower().replace("_", " ") for word in result.degraded]
    label = Text(result.label or result.route.lower(), style="bold" if result.label else "yellow")
    style = "yellow" if result.below_threshold else ""
    return label, f"{result.confidence:.2f}", f"{result.timings.total_ms:.0f}", Text(", ".join(notes), style=style)
