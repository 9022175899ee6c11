"""`edge-convert quantize`: a stage of a recipe, or one GGUF file by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from convert.cli import progress_output, run
from convert.pipeline import execution
from edge_agent.errors import InvalidRequest


@dataclass
class Command:
    """Quantize a GGUF file; or make and measure the candidates of a recipe, and choose the fastest inside its budget.

    Reports the real bits per weight, and which tensors got another type than requested. Needs no torch.

    Example: [bold]edge-convert quantize model-f16.gguf --type Q4_0 --out model-q4_0.gguf[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    what: Annotated[Path, typer.Argument(metavar="SOURCE", help="A GGUF file, with --type and --out; or a recipe.")]
    type_: Annotated[str, typer.Option("--type", metavar="TYPE", help="Such as Q8_0, Q4_K_M or Q4_0.")] = ""
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="GGUF file to create.")] = None
    requantize: Annotated[
        bool, typer.Option("--requantize", help="Accept a file that is quantized already; it loses more accuracy.")
    ] = False
    again: run.Again = False
    work: run.Work = None
    auto: run.Auto = False

    def __post_init__(self) -> None:
        """Run the command."""
        if self.type_ and self.out is not None:
            _quantize(self.what, self.type_, self.out, self.requantize)
        elif self.type_ or self.out is not None:
            raise InvalidRequest("one file needs both --type and --out", remedy="Name both, or a recipe and neither.")
        else:
            run.bring(self.what, "quantize", self.again, self.work, auto=self.auto)


def _quantize(source: Path, type_: str, out: Path, requantize: bool) -> None:
    gguf = execution.load_module("convert.quantize.gguf_files")
    made = gguf.quantize(gguf.QuantizeRequest(source, out, type_, requantize=requantize))
    held = ", ".join(f"{count} {name}" for name, count in made.contents.types.items())
    said = f"Made {out}: {made.type}, {decimal(made.contents.size_bytes)}, {made.contents.bits_per_weight:.2f} bits per"
    progress_output.out().print(f"{said} weight; tensors: {held}")
    for line in made.fallbacks:
        progress_output.out().print(f"not as requested: {line}")
