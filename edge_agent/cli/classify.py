"""`edge-agent classify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.asking import TIMEOUT_SECONDS, Asking
from edge_agent.cli.results import Form, note
from edge_agent.client import Classification, Client, Failure, OnLowConfidence

LowConfidence = Annotated[
    OnLowConfidence,
    typer.Option(
        help="What to do below the bundle's threshold: as_mode = what the task's mode says; escalate = ask the large"
        " model if it can be asked."
    ),
]


@dataclass(kw_only=True)
class Command(Asking):
    """Choose one label for each input. With --json, one object a line.

    The inputs go to the daemon in batches, at most 16 and at most the task's limit; every input gets its own result.
    Those of a file or of standard input are asked about again while the daemon is busy or is started anew.

    Example: [bold]edge-agent classify pos-intent 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json < messages.txt > answers.jsonl[/bold]

    Example: [bold]edge-agent classify pos-intent --json --file messages.jsonl > answers.jsonl[/bold]
    """

    on_low_confidence: LowConfidence = "as_mode"

    def __post_init__(self) -> None:
        """Run the command."""
        self.show(self._call, FORM)

    def _call(self, client: Client, task: str, batch: list[str]) -> list[Classification | Failure]:
        return client.classify(task, batch, on_low_confidence=self.on_low_confidence, timeout_seconds=TIMEOUT_SECONDS)


def _cells(result: Classification) -> tuple[Text, str]:
    label = Text(result.label or result.route.lower(), style="bold" if result.label else "yellow")
    return label, f"{result.confidence:.2f}"


FORM = Form("classification", ("label", "confidence"), _cells, note, right=("confidence",))
