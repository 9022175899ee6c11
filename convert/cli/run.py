"""`edge-convert run`, a command for each stage, `quantize` of one file, and `evaluate` and `compare` of any bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.filesize import decimal
from rich.text import Text

from convert.cli import progress_output
from convert.data import row_files
from convert.pipeline import execution, recipe
from convert.pipeline.recipe import DataFormat
from convert.pipeline.workspace import StageRecord
from convert.report import comparison, markdown
from convert.report.markdown import headline
from convert.report.run_summary import TEXT_NAME, duration, plural
from edge_agent.cli.terminal import errors, write_exactly
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import TaskSpec
from edge_agent.formatting import format_bytes

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe.yaml, or the directory that holds it.")
]
Work = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder for the results of stages, instead of 'work' in the recipe.")
]
Again = Annotated[bool, typer.Option("--again", help="Run the last stage even if its inputs have not changed.")]

Auto = Annotated[
    bool,
    typer.Option("--auto", help="Try the default candidates of the runtime, whatever 'quantize.types' in the recipe."),
]

_STAGES = {
    "prepare": "Convert the source to a float checkpoint with its tokenizer.",
    "finetune": "Fine-tune on the training rows.",
    "export": "Export to the runtime's format: GGUF or ONNX.",
    "verify": "Compare the export with the original: logits, tokens, special tokens, chat template.",
    "quantize": "Make the candidates, measure them, and choose the fastest inside the budget.",
    "calibrate": "Fit temperature and threshold of the chosen artefact.",
    "evaluate": "Measure the artefact on the test rows.",
    "assemble": "Assemble the bundle.",
}


def run(where: RecipeArgument, again: Again = False, work: Work = None, auto: Auto = False) -> None:
    """Make a bundle from a recipe: run every stage that is not up to date, then write report.md.

    Ctrl-C stops the run; the same command continues it.

    Example: [bold]edge-convert run examples/retail-categories/recipe.yaml[/bold]
    """
    bring(where, "", again, work, auto=auto)


def stage(name: str) -> Callable[[Path, bool, Path | None], None]:
    """Return the command of one stage."""

    def command(where: RecipeArgument, again: Again = False, work: Work = None) -> None:
        bring(where, name, again, work)

    command.__doc__ = f"{_STAGES[name]}\n\nEarlier stages run first if they are not up to date."
    return command


def bring(where: Path, until: str, again: bool, work: Path | None = None, *, auto: bool = False) -> None:
    """Run the pipeline with lines and a bar."""
    written = recipe.read(where)
    if auto:
        written = written.model_copy(update={"quantize": written.quantize.model_copy(update={"types": ()})})
    if work is not None:
        written = written.model_copy(update={"work": str(work.absolute())})
    with progress_output.stages() as shown:
        records = execution.run(written, until, again=again, screen=shown)
    for record in records:
        if record.stage == "evaluate":
            progress_output.out().print(" ".join(headline(record.report)))
    folder = execution.work_folder(written)
    progress_output.out().print(f"{_total(records)} The report is {folder / TEXT_NAME}.")


def _total(records: list[StageRecord]) -> str:
    seconds = sum(record.seconds for record in records)
    peak = max(record.memory_peak_bytes for record in records)
    return f"{plural(len(records), 'stage')} took {duration(seconds)} of work; peak memory {format_bytes(peak)}."


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
    again: Again = False
    work: Work = None
    auto: Auto = False

    def __post_init__(self) -> None:
        """Run the command."""
        if self.type_ and self.out is not None:
            _quantize(self.what, self.type_, self.out, self.requantize)
        elif self.type_ or self.out is not None:
            raise InvalidRequest("one file needs both --type and --out", remedy="Name both, or a recipe and neither.")
        else:
            bring(self.what, "quantize", self.again, self.work, auto=self.auto)


def _quantize(source: Path, type_: str, out: Path, requantize: bool) -> None:
    gguf = execution.load_module("convert.quantize.gguf_files")
    made = gguf.quantize(gguf.QuantizeRequest(source, out, type_, requantize=requantize))
    held = ", ".join(f"{count} {name}" for name, count in made.contents.types.items())
    said = f"Made {out}: {made.type}, {decimal(made.contents.size_bytes)}, {made.contents.bits_per_weight:.2f} bits per"
    progress_output.out().print(f"{said} weight; tensors: {held}")
    for line in made.fallbacks:
        progress_output.out().print(f"not as requested: {line}")


Format = Annotated[
    DataFormat | None, typer.Option("--format", help="Format of the rows; by default it is detected from their keys.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Write the whole report as JSON.")]
Rows = Annotated[Path, typer.Argument(metavar="DATA", help="JSONL or CSV: docs/data-formats.md.")]


def evaluate(
    what: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle directory; or a recipe, without DATA.")],
    rows: Annotated[Path | None, typer.Argument(metavar="DATA", help="JSONL or CSV: docs/data-formats.md.")] = None,
    format_: Format = None,
    as_json: AsJson = False,
    again: Again = False,
    work: Work = None,
) -> None:
    """Measure a bundle on rows through the agent's own engine; or run this stage of a recipe.

    Reports accuracy with its interval, confusions, figures for each label, and times. Texts are sent one at a time.

    Example: [bold]edge-convert evaluate build/pos-intent/assemble/bundle field.jsonl[/bold]
    """
    if rows is None:
        bring(what, "evaluate", again, work)
        return
    measuring = execution.load_module("convert.evaluate")
    bundle = execution.load_module("convert.evaluate.serving").open_bundle(what)
    with progress_output.bar() as advance:
        report, _ = measuring.evaluate(what, _read(rows, bundle.manifest.task, format_), advance)
    _show(markdown.measured(bundle.name, report), report, as_json)


def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A bundle directory.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    rows: Rows,
    format_: Format = None,
    as_json: AsJson = False,
) -> None:
    """Measure two bundles on the same rows, and report whether the difference is more than chance.

    Example: [bold]edge-convert compare old/bundle new/bundle field.jsonl[/bold]
    """
    measuring = execution.load_module("convert.evaluate")
    task = execution.load_module("convert.evaluate.serving").open_bundle(first).manifest.task
    with progress_output.bar() as advance:
        report = measuring.compare(first, second, _read(rows, task, format_), advance)
    _show(comparison.compared(report), report, as_json)


def _read(path: Path, task: TaskSpec, format_: DataFormat | None) -> list[row_files.DataRow]:
    """Read rows to measure on, and warn of labels that no person gave."""
    found = row_files.read_for_task(path, task, format_)
    machine = row_files.labelled_by_machine(found)
    if machine:
        said = f"{machine}: the figures say how far the bundle agrees with it, not how often it is right"
        errors().print(Text.assemble(("warning: ", "yellow"), said))
    return found


def _show(markdown: str, report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        write_exactly(json.dumps(report, indent=2, sort_keys=True, ensure_ascii=False))
    else:
        progress_output.show(markdown)
