"""`edge-agent extract`."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from edge_agent.cli.asking import TIMEOUT_SECONDS, Asking
from edge_agent.cli.classify import LowConfidence
from edge_agent.cli.results import Form, note
from edge_agent.client import Client, Extraction, Failure


@dataclass(kw_only=True)
class Command(Asking):
    """Find the task's record in each input.

    With --json, one object a line: the confidence of each field that was written, the place of each value that was
    found in the text.

    Example: [bold]edge-agent extract pos-fields 'two blue mugs for 7 euros'[/bold]

    Example: [bold]edge-agent extract pos-fields --json --file orders.txt > orders.jsonl[/bold]
    """

    on_low_confidence: LowConfidence = "answer"

    def __post_init__(self) -> None:
        """Run the command."""
        self.show(self._call, FORM)

    def _call(self, client: Client, task: str, batch: list[str]) -> list[Extraction | Failure]:
        return client.extract(task, batch, on_low_confidence=self.on_low_confidence, timeout_seconds=TIMEOUT_SECONDS)


def _cells(result: Extraction) -> tuple[Text, str]:
    return Text(result.json or result.route.lower()), f"{result.confidence:.2f}"


FORM = Form("extraction", ("record", "confidence"), _cells, note, right=("confidence",))
