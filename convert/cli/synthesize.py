"""`edge-convert synthesize`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from convert.cli import progress_output
from convert.data import row_files
from convert.pipeline import execution, recipe
from edge_agent.durable.atomic_files import open_private
from edge_agent.errors import InvalidRequest


@dataclass
class Command:
    """Have a large model write more training texts, modelled on the recipe's training rows.

    Sends examples of the training split to that server, and nothing of the calibration and test splits. The rows are
    marked "synthetic": add the file to the training split only.

    Example: [bold]edge-convert synthesize examples/pos-intent --about "What a customer at a till wants." --out
    more.jsonl[/bold], with OPENAI_BASE_URL, OPENAI_API_KEY and OPENAI_MODEL set.
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    where: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe.yaml, or the directory that holds it.")]
    out: Annotated[
        Path, typer.Option(metavar="FILE", help="JSONL file to write; rows are appended to an existing one.")
    ]
    about: Annotated[str, typer.Option(metavar="TEXT", help="The task in a few sentences, for the model.")]
    model: Annotated[str, typer.Option(metavar="NAME", envvar="OPENAI_MODEL", help="The large model.")]
    base_url: Annotated[str, typer.Option(metavar="URL", envvar="OPENAI_BASE_URL", help="Its server.")]
    key: Annotated[str, typer.Option(metavar="KEY", envvar="OPENAI_API_KEY", help="Better given as OPENAI_API_KEY.")]
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="How many rows to write.")] = 200
    tokens_max: Annotated[
        int, typer.Option(min=1, metavar="TOKENS", help="Stop when this many tokens are used, input and output.")
    ] = 200_000
    seed: Annotated[int, typer.Option(min=0, help="Seed for choosing the examples.")] = 1

    def __post_init__(self) -> None:
        """Run the command."""
        making = execution.load_module("convert.data.synthesis")
        endpoint = execution.load_module("convert.data.synthesis.chat_endpoint").ChatEndpoint(
            self.base_url, self.key, self.model
        )
        if self.out.suffix != ".jsonl":
            said = f"--out {self.out}: rows are written as JSONL"
            raise InvalidRequest(said, remedy="Name a file that ends in .jsonl.")
        written = recipe.read(self.where)
        there = row_files.read_rows(self.out, written.data.format) if self.out.is_file() else []
        wanted = making.SynthesisRequest(
            self.about, self.rows, self.tokens_max, self.seed, tuple(row.text for row in there)
        )
        done = 0
        with progress_output.bar() as advance, open_private(self.out, "a") as file:
            for found in making.synthesize(written, wanted, self.model, endpoint.ask, advance):
                file.writelines(map(making.line, found.rows[done:]))
                file.flush()  # rows that were paid for are kept, whatever happens next
                done = len(found.rows)
        for line in making.summary(found, wanted, str(self.out)):
            progress_output.out().print(line)
