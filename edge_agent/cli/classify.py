"""`edge-agent classify`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from edge_agent.cli.asking import TIMEOUT_SECONDS, Asking
from edge_agent.cli.results import Form, note
from edge_agent.client import Classification, Client, Failure, OnLowConfidence

LowConfidence = Annotated[
    OnLowConfidence,
    typer.Option(
        help="What to do with an answer that is not confident: as_mode = what the task's mode says; escalate = ask"
        " the large model if it can be asked."
    ),
]

TopK = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        max=1000,
        help="Show the N best labels with their scores; 0 = the best one, and with --json the scores of all.",
    ),
]


@dataclass(kw_only=True)
class Command(Asking):
    """Choose one label for each input. With --json, one object a line.

    The inputs go to the daemon in batches, at most 16 and at most the task's limit; every input gets its own result.
    Those of a file or of standard input are asked about again while the daemon is busy or is started anew.

    Example: [bold]edge-agent classify pos-intent 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json < messages.txt > answers.jsonl[/bold]

    Example: [bold]edge-agent classify pos-intent --top-k 5 'I want my money back'[/bold]

    Example: [bold]edge-agent classify pos-intent --json --file messages.jsonl > answers.jsonl[/bold]
    """

    on_low_confidence: LowConfidence = "as_mode"
    top_k: TopK = 0

    def __post_init__(self) -> None:
        """Run the command."""
        self.show(self._call, RANKED if self.top_k else FORM)

    def _call(self, client: Client, task: str, batch: list[str]) -> list[Classification | Failure]:
        return client.classify(
            task,
            batch,
            on_low_confidence=self.on_low_confidence,
            top_k=self.top_k,
            timeout_seconds=TIMEOUT_SECONDS,
        )


def _cells(result: Classification) -> tuple[Text, str]:
    label = Text(result.label or result.route.lower(), style="bold" if result.label else "yellow")
    return label, f"{result.confidence:.2f}"


def _ranked_cells(result: Classification) -> tuple[RenderableType, ...]:
    return *_cells(result), Group(*(Text(f"{score:.2f}  {label}") for label, score in result.scores))


FORM = Form("classification", ("label", "confidence"), _cells, note, right=("confidence",))
RANKED = Form("classification", (*FORM.columns, "scores"), _ranked_cells, note, right=FORM.right)
