"""`edge-agent embed`."""

from __future__ import annotations

from dataclasses import dataclass

from rich.text import Text

from edge_agent.cli.asking import TIMEOUT_SECONDS, Asking
from edge_agent.cli.results import Form
from edge_agent.client import Client, Embedding, Failure

_VALUES_SHOWN = 4


@dataclass(kw_only=True)
class Command(Asking):
    """Turn each input into a vector. The table shows its start; --json prints all of it, one object a line.

    Example: [bold]edge-agent embed product-search --json 'blue backpack' > vectors.jsonl[/bold]

    Example: [bold]edge-agent embed product-search --json --file products.txt > vectors.jsonl[/bold]
    """

    def __post_init__(self) -> None:
        """Run the command."""
        self.show(_call, FORM)


def _call(client: Client, task: str, batch: list[str]) -> list[Embedding | Failure]:
    return client.embed(task, batch, timeout_seconds=TIMEOUT_SECONDS)


def _cells(result: Embedding) -> tuple[str, str]:
    return str(len(result.values)), " ".join(f"{value:+.3f}" for value in result.values[:_VALUES_SHOWN]) + " …"


def _note(result: Embedding) -> Text:
    return Text(", ".join(word.lower().replace("_", " ") for word in result.degraded))


FORM = Form("embedding", ("length", "vector"), _cells, _note, right=("length",))
