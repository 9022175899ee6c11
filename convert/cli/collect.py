"""`edge-convert collect`."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from convert.cli import progress_output
from convert.cli.keys import passphrase_reader
from convert.collect.sources import open_source
from convert.dataset.label_studio import EXPORT_BYTES_MAX, ReadReviews, read_reviews
from convert.pipeline.stage import Progress as Advance
from convert.pipeline.stage import load_module
from convert.publish import central_keys
from edge_agent.cli.terminal import Terminal, errors, write_exactly
from edge_agent.errors import InvalidRequest
from edge_agent.formats.enrolment_file import verification_code
from edge_agent.formatting import counted

_MIB = 1024**2
_SHOWN_MAX = 20
_INCOMPLETE = 1

StoreOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="For object stores: endpoint=…, region=…, allow_http=true. Repeatable."),
]


@dataclass
class CollectCommand:
    """Collect the segments that sites sealed: from an object store, a folder or a USB drive. Can be repeated any time.

    Opens and checks every segment, joins predictions with their reviews, and writes Parquet below OUT. Then it writes
    signed receipts next to the segments, so that the sites can delete what has arrived. Segments that are missing,
    damaged or not signed by the site are listed and do not stop the others.

    Exit code 1: something was refused or could not be read; everything else is collected.

    Example: [bold]edge-convert collect s3://fleet/examples /media/usb --keys central-keys --out collected[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder of the collection; every run adds to it.")]
    keys: Annotated[Path, typer.Option(metavar="FOLDER", help="The central team's keys: see 'edge-convert keys'.")]
    sources: Annotated[
        list[str] | None, typer.Argument(metavar="SOURCE", help="Folders, or URLs of object stores: s3:// gs:// az://")
    ] = None
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="File whose first line is the passphrase of the keys.")
    ] = None
    sites: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Registry of the sites' keys; default: OUT/sites.json.")
    ] = None
    registered_only: Annotated[
        bool,
        typer.Option(
            "--registered-only",
            help="Refuse every site that is not registered; without this the first key of a new site is trusted.",
        ),
    ] = False
    store_option: StoreOption = None
    label_studio: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Reviews from Label Studio: its JSON export. Repeatable.")
    ] = None
    redaction_bundle: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="A bundle of kind redact, which reads what people typed in Label Studio, in addition to the rules.",
        ),
    ] = None
    memory_mib: Annotated[
        int, typer.Option(max=2**24, metavar="N", help="Memory for joining; more data is spilled to disk.")
    ] = 1024
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        run = load_module("convert.collect.collection")  # needs the extra, unlike other commands
        options = store_options(self.store_option)
        sources = [open_source(source, options) for source in self.sources or ()]
        exports = self._exports()
        reviews = [review for export in exports.values() for review in export.feedback]
        if not sources and not exports:
            message = "no source to collect from is named"
            raise InvalidRequest(message, remedy="Name a folder, a store, or --label-studio FILE.")
        unlocked = central_keys.unlock(self.keys, passphrase_reader(self.passphrase_file))
        with _progress_bar() as progress:
            request = run.CollectRequest(
                sources,
                self.out,
                unlocked,
                time.time,
                sites=self.sites,
                registered_only=self.registered_only,
                reviews=reviews,
                memory_bytes=self.memory_mib * _MIB,
                progress=progress,
            )
            report = run.collect(request)
        self._print(report)
        unread = {file: export.unread for file, export in exports.items() if export.unread}
        for file, tasks in unread.items():
            errors().print(f"left out of {file}: {counted(len(tasks), 'review')} that the redaction model cannot read")
        if unread or not report.clean:
            raise typer.Exit(_INCOMPLETE)

    def _exports(self) -> dict[Path, ReadReviews]:
        find = None
        if self.redaction_bundle is not None:
            if not self.label_studio:
                raise InvalidRequest(
                    "--redaction-bundle is for reviews from Label Studio, and none is named",
                    remedy="Name the export with --label-studio FILE; what sites send is redacted already.",
                )
            find = load_module("convert.evaluate.site_redaction").ValueReader(self.redaction_bundle).findings
        return {file: read_reviews(_read_export(file), find) for file in self.label_studio or ()}

    def _print(self, report: Any) -> None:
        if self.as_json:
            write_exactly(json.dumps(report.plain(), ensure_ascii=False))
        else:
            _print(report)


def _read_export(export: Path) -> bytes:
    with export.open("rb") as file:
        content = file.read(EXPORT_BYTES_MAX + 1)
    if len(content) > EXPORT_BYTES_MAX:
        raise InvalidRequest(f"{export} has more than {EXPORT_BYTES_MAX} bytes", remedy="Export in several parts.")
    return content


def store_options(options: list[str] | None) -> dict[str, str]:
    """Return the values of --store-option. Raises InvalidRequest."""
    return dict(map(_key_and_value, options or ()))


def _key_and_value(option: str) -> tuple[str, str]:
    key, equals, value = option.partition("=")
    if not equals:
        raise InvalidRequest(f"--store-option {option}: no '='", remedy="Write KEY=VALUE, such as region=eu-west-1.")
    return key.lower(), value


def _print(report: Any) -> None:
    console = progress_output.out()
    console.print(
        f"{counted(report.segments_taken, 'new segment')} with {counted(report.records_taken, 'record')};"
        f" {counted(report.segments_held, 'segment')} of {counted(report.sites, 'site')} in all;"
        f" {counted(report.records_erased, 'record')} erased"
    )
    for task in report.tasks:
        console.print(
            f"{task.task}: {counted(task.examples, 'example')}, {task.reviewed} reviewed ({task.corrected} corrected,"
            f" {counted(task.conflicts, 'conflict')}), {counted(task.duplicates, 'duplicate')},"
            f" {counted(task.opinions, 'teacher label')},"
            f" {counted(task.waiting, 'review')} whose prediction is missing"
        )
    _list(console, "first key", [f"{site} signs with {key}" for site, key in report.pinned.items()])
    waiting = [
        f"{each.site}, key {verification_code(each.key)}: 'edge-convert sites show {each.site}'"
        for each in report.waiting
    ]
    _list(console, "needs a decision", waiting)
    _list(console, "skipped", [f"{site} was revoked" for site in report.revoked])
    _list(console, "missing", [f"{gap.name}: {gap.why}" for gap in report.gaps])
    _list(console, "contradiction", [f"{each.name} {each.why}" for each in report.breaks])
    for title, segments in (("replaced", report.replaced), ("refused", report.refused)):
        _list(console, title, [f"{each.site}/{each.name}: {each.why}" for each in segments])
    _list(console, "failed", report.troubles)
    uses = [f"{use['kind']} {use['task']} {use['version'] or use['place']}" for use in report.concerned]
    _list(console, "has erased records", [f"{name}: 'edge-convert privacy lineage --erased'" for name in uses])


def _list(console: Console, title: str, lines: list[str]) -> None:
    for line in lines[:_SHOWN_MAX]:
        console.print(Text.assemble((f"{title}: ", "bold"), line))
    if len(lines) > _SHOWN_MAX:
        console.print(f"{title}: {len(lines) - _SHOWN_MAX} more, in report.json")


@contextmanager
def _progress_bar() -> Iterator[Advance]:
    """Yield a callback that draws a progress bar on a terminal and does nothing elsewhere."""
    console = Terminal(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("", total=None)

        def show(what: str, done: int, size: int) -> None:
            bars.update(bar, description=what, completed=done, total=size or None)

        yield show
