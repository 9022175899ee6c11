"""`edge-convert assemble`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

from convert.cli import progress_output, run
from convert.package import bundle_assembly
from convert.pipeline.recipe import RECIPE_NAME
from edge_agent.cli.terminal import Terminal
from edge_agent.errors import InvalidRequest
from edge_agent.formats.manifest import Role

_NO_GOLDEN = (
    "It has no golden answers: a site can load it, and cannot check that the model computes there what it computes"
    " here. A bundle that a recipe makes has them ('edge-convert run')."
)


@dataclass
class Command:
    """Assemble a bundle from a task.yaml and model files: hash them, write the manifest, check it.

    With a recipe instead of a task and no other option: run this stage of the recipe and the stages before it.

    A samples.txt next to the task.yaml, with one input per line, becomes part of the bundle for 'edge-agent demo'.

    Files are hard-linked if the disk allows it. The same input gives the same bytes.

    A site compares a bundle's answers with its golden cases. A recipe records them ('edge-convert run'); from files,
    they come with --golden.

    Example: [bold]edge-convert assemble examples/assistant --weights model.gguf --out build/assistant[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    task: Annotated[Path, typer.Argument(metavar="TASK", help="A task.yaml, or the directory that holds it.")]
    out: Annotated[Path | None, typer.Option(metavar="PATH", help="Directory or .tar file to create.")] = None
    weights: Annotated[
        Path | None, typer.Option(metavar="FILE", help="GGUF or ONNX file; not needed for runtime echo.")
    ] = None
    adapter: Annotated[Path | None, typer.Option(metavar="FILE", help="LoRA adapter as GGUF.")] = None
    tokenizer: Annotated[Path | None, typer.Option(metavar="FILE", help="tokenizer.json, for ONNX.")] = None
    golden: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Golden file: inputs and the answers expected on every site.")
    ] = None
    golden_cases_min: Annotated[
        int, typer.Option(min=0, help="Fewest binding golden cases. With 0, no site can check the bundle's answers.")
    ] = bundle_assembly.BINDING_MIN
    version: Annotated[str, typer.Option(metavar="X.Y.Z", help="Overrides the version in task.yaml.")] = ""
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False
    again: run.Again = False
    work: run.Work = None

    def __post_init__(self) -> None:
        """Run the command."""
        if self.out is not None:
            self._by_hand(self.out)
        elif (self.task / RECIPE_NAME).is_file() or self.task.name == RECIPE_NAME:
            run.bring(self.task, "assemble", self.again, self.work)
        else:
            remedy = f"Name a folder or a .tar with --out. To run a recipe, name a folder with a {RECIPE_NAME}."
            raise InvalidRequest("--out is missing: the bundle needs a folder or a .tar file", remedy=remedy)

    def _by_hand(self, out: Path) -> None:
        given: dict[Role, Path | None] = {
            "weights": self.weights,
            "adapter": self.adapter,
            "tokenizer": self.tokenizer,
            "golden": self.golden,
        }
        files = {role: path for role, path in given.items() if path is not None}
        request = bundle_assembly.AssembleRequest(
            self.task, files, out, self.version or None, self.force, self.golden_cases_min
        )
        with _hashing() as progress:
            made = bundle_assembly.assemble(request, progress)
        manifest = made.manifest
        progress_output.out().print(
            f"Made {made.path}: {manifest.task.name} {manifest.version}, {manifest.runtime},"
            f" {len(manifest.artifacts)} files, {decimal(manifest.size_bytes)}, digest {made.digest[:12]}"
        )
        unchecked = not self.golden and manifest.runtime in bundle_assembly.COMPUTED
        if unchecked and manifest.task.kind != "generate":
            progress_output.out().print(_NO_GOLDEN)


@contextmanager
def _hashing() -> Iterator[bundle_assembly.Progress]:
    """Yield a callback that draws a progress bar on a terminal and does nothing elsewhere."""
    columns = (TextColumn("hashing {task.description}"), BarColumn(), DownloadColumn())
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        ids: dict[str, int] = {}

        def show(name: str, done: int, size: int) -> None:
            if name not in ids:
                ids[name] = bars.add_task(name, total=size)
            bars.update(bars.task_ids[ids[name]], completed=done)

        yield show
