"""`edge-convert setup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from convert.cli import progress_output
from convert.pipeline import execution


def run(
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
        made = execution.load_module("convert.export.llama_converter").setup(cache, archive, progress)
    progress_output.out().print(f"llama.cpp's converter is in {made}.")
