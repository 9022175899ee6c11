"""`edge-convert init` and `setup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convert import scaffold
from convert.cli import progress_output
from convert.pipeline import execution
from convert.pipeline.recipe import RECIPE_NAME
from convert.pipeline.task_file import TASK_NAME
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Kind, RuntimeName


def run(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder to write to; the task is named after it.")],
    kind: Annotated[Kind, typer.Option(help="What the task does.")] = "classify",
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,C", help="Labels, separated by commas. Default: placeholders.")
    ] = None,
    runtime: Annotated[RuntimeName | None, typer.Option(help="Runtime to use instead of the recommended one.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
) -> None:
    """Write a commented recipe.yaml and task.yaml, for an encoder or a decoder, as suits the kind of task.

    Example: [bold]edge-convert init my-task --kind classify --labels refund,price,other[/bold]
    """
    wanted = scaffold.ScaffoldRequest(_name(folder), kind, scaffold.labels_of(labels, kind), runtime)
    texts = {RECIPE_NAME: scaffold.recipe_text(wanted), TASK_NAME: scaffold.task_text(wanted)}
    there = [name for name in texts if (folder / name).exists()]
    if there and not force:
        raise InvalidRequest(
            f"{folder} has a {there[0]} already", remedy="Name another folder, or replace it with --force."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    advice = scaffold.advise(kind)
    console = progress_output.out()
    console.print(f"Wrote {folder / RECIPE_NAME} and {folder / TASK_NAME}, for runtime {scaffold.runtime_of(wanted)}.")
    console.print(f"Recommended: {'an encoder' if advice.runtime == 'onnx' else 'a decoder'}. {advice.because}")
    console.print(
        f"Next: name the model and the data in the recipe, then run 'edge-convert run {folder / RECIPE_NAME}'."
    )


def _name(folder: Path) -> str:
    """Return a task name after the folder's."""
    kept = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in folder.resolve().name.lower())
    return kept.strip("-")[:63].strip("-") or "task"


def run_setup(
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder to use instead of the user's cache; later runs need EDGE_CONVERT_CACHE=DIR."
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The source archive of llama-cpp-python, if it was downloaded by other means.",
        ),
    ] = None,
) -> None:
    """Build llama.cpp's converter from the pinned source archive, once. Afterwards no network is needed.

    Only needed for runtime llama; takes about a minute. Instead you can name a checkout of llama.cpp: 'llama_cpp' under
    'export' in the recipe.
    """
    with progress_output.bar() as progress:
        made = execution.load_module("convert.export.gguf_export").setup(cache, archive, progress)
    progress_output.out().print(f"llama.cpp's converter is in {made}.")
