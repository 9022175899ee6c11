"""`edge-convert run`, and a command for each stage."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from convert.cli import progress_output
from convert.pipeline import execution, recipe
from convert.pipeline.workspace import StageRecord
from convert.report.markdown import headline
from convert.report.run_summary import TEXT_NAME, duration, plural
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
