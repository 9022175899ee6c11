"""`edge-convert verify-repo`."""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.collect import store_options
from convert.cli.repository_options import StoreOption
from convert.publish import media_writer, repository_check
from convert.publish.repository_check import CheckScope
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import open_place
from edge_agent.cli.terminal import write_exactly
from edge_agent.formatting import format_bytes

_FAILED = 1


@dataclass
class Command:
    """Check a repository as a site would, and beyond: every signature, every root, every file of every signed bundle.

    Needs no key. A stick holds only what the plan wants for some sites: --stick, with --site and --channel as it was
    made.

    Exit code 1: something is wrong.

    Example: [bold]edge-convert verify-repo s3://fleet/updates --root signing-keys/root.json[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    place: Annotated[str, typer.Argument(metavar="PLACE", help="A folder, a stick, or s3:// gs:// az://…")]
    root: Annotated[Path, typer.Option(metavar="FILE", help="The root.json that sites trust.")]
    quick: Annotated[bool, typer.Option("--quick", help="Look at the sizes of files only, not at their bytes.")] = False
    stick: Annotated[bool, typer.Option("--stick", help="Only what the plan wants must be there.")] = False
    site: Annotated[list[str] | None, typer.Option(metavar="ID", help="With --stick: for this site.")] = None
    channel: Annotated[str, typer.Option(metavar="NAME", help="With --stick: the sites' channel.")] = ""
    store_option: StoreOption = None
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        place = open_place(self.place, store_options(self.store_option))
        scope = CheckScope(deep=not self.quick, only=self._wanted if self.stick else None)
        with progress_output.bar() as advance:
            found = repository_check.check(place, self.root.read_bytes(), time.time(), scope, advance)
        if self.as_json:
            write_exactly(json.dumps(found.plain(), ensure_ascii=False))
        else:
            _print(found)
        if found.problems:
            raise typer.Exit(_FAILED)

    def _wanted(self, held: RepositoryState) -> Collection[str]:
        return media_writer.wanted(held.plan, self.site or [], self.channel)


def _print(found: repository_check.RepositoryFindings) -> None:
    console = progress_output.out()
    if found.held:
        held = found.held
        console.print(
            f"root {held.root.signed.version}, plan {held.plan.version}; signed bundles: {len(held.bundles())};"
            f" files looked at: {found.blobs}, {format_bytes(found.bytes_read)}"
        )
    for problem in found.problems:
        console.print(Text.assemble(("wrong: ", "bold red"), problem))
    for warning in found.warnings:
        console.print(Text.assemble(("soon: ", "bold yellow"), warning))
    if not found.problems:
        console.print("nothing is wrong")
    if found.held:
        repository_options.show_expiry(found.held)
