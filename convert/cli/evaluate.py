"""`edge-convert evaluate` and `compare`: any bundle on any rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from convert.cli import progress_output, run
from convert.data import row_files
from convert.pipeline import execution
from convert.pipeline.recipe import DataFormat
from convert.report import comparison, markdown
from edge_agent.cli.terminal import errors, write_exactly
from edge_agent.formats.manifest import TaskSpec

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
    again: run.Again = False,
    work: run.Work = None,
) -> None:
    """Measure a bundle on rows through the agent's own engine; or run this stage of a recipe.

    Reports accuracy with its interval, confusions, figures for each label, and times. Texts are sent one at a time.

    Example: [bold]edge-convert evaluate build/pos-intent/assemble/bundle field.jsonl[/bold]
    """
    if rows is None:
        run.bring(what, "evaluate", again, work)
        return
    measuring = execution.load_module("convert.evaluate")
    bundle = execution.load_module("convert.evaluate.bundle_folder").open_bundle(what)
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
    task = execution.load_module("convert.evaluate.bundle_folder").open_bundle(first).manifest.task
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
