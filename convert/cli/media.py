"""`edge-convert media` and `verify-repo`: a USB drive of a repository, and the check of any copy."""

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.collect import StoreOption, store_options
from convert.cli.repository_options import RepositoryCommand
from convert.publish import media_writer, repository_check
from convert.publish.repository_check import CheckScope
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import open_storage
from edge_agent.cli.terminal import write_exactly
from edge_agent.durable.atomic_files import read_small
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import format_bytes


@dataclass(kw_only=True)
class MediaCommand(RepositoryCommand):
    """Write a USB drive that updates sites without a network. 'edge-agent media import' checks the same signatures as
    online.

    Contains what the plan assigns to the sites, for any hardware and in any wave. Needs the online key. Write the drive
    again for the next update: a site that has seen something newer refuses an old drive and reports it.

    Example: [bold]edge-convert media /media/x --repo s3://fleet/updates --keys signing-keys --expires-in-days 60[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Mount point of the USB drive, such as /media/x.")]
    site: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Only for this site; repeatable. Default: all sites.")
    ] = None
    channel: Annotated[
        str, typer.Option(metavar="NAME", help="Only for sites of this channel. Default: every channel.")
    ] = ""
    expires_in_days: Annotated[
        float, typer.Option(min=0.01, max=3650, metavar="N", help="Days until the drive expires.")
    ] = 30

    def __post_init__(self) -> None:
        """Run the command."""
        publisher = self.publisher()
        order = media_writer.MediaOrder(self.folder, self.expires_in_days, tuple(self.site or ()), self.channel)
        # Outside the bar, because this can prompt for a passphrase.
        prepared = media_writer.prepare(publisher, order)
        with progress_output.bar() as advance:
            media = media_writer.fill(prepared, advance)
        console = progress_output.out()
        for signed in media.bundles:
            console.print(Text(f"holds {signed.name}"))
        written = f"{format_bytes(media.bytes_written)} written to {self.folder}"
        console.print(Text(f"{written}; unmount it before you unplug it"))
        console.print(Text(f"the drive expires on {media.expires:%Y-%m-%d %H:%M} UTC (by '{media.expires_by}')"))
        if media.expires_by != "timestamp":
            remedy = f"Renew it first: edge-convert renew {media.expires_by}; then write the drive again."
            message = f"that is sooner than requested, because '{media.expires_by}' expires then. {remedy}"
            console.print(Text(message, "yellow"))
        repository_options.show_expiry(publisher.read_state())


_FAILED = 1


@dataclass
class VerifyCommand:
    """Check a repository more fully than a site does: every signature, every root, every file of every signed bundle.

    Needs no key. A USB drive contains only what the plan assigns to some sites: use --media, with the --site and
    --channel that it was written with.

    Exit code 1: something is wrong.

    Example: [bold]edge-convert verify-repo s3://fleet/updates --root signing-keys/root.json[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    place: Annotated[str, typer.Argument(metavar="PLACE", help="A folder, a USB drive, or s3:// gs:// az://…")]
    root: Annotated[Path, typer.Option(metavar="FILE", help="The root.json that sites trust.")]
    quick: Annotated[bool, typer.Option("--quick", help="Check only the sizes of files, not their content.")] = False
    media: Annotated[
        bool,
        typer.Option("--media", help="The repository is a USB drive: require only the files that the plan assigns."),
    ] = False
    stick: Annotated[bool, typer.Option("--stick", hidden=True)] = False
    site: Annotated[list[str] | None, typer.Option(metavar="ID", help="With --media: for this site.")] = None
    channel: Annotated[str, typer.Option(metavar="NAME", help="With --media: the channel of the sites.")] = ""
    store_option: StoreOption = None
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False

    def __post_init__(self) -> None:
        """Run the command."""
        if (self.site or self.channel) and not (self.media or self.stick):
            message = "--site and --channel name what a USB drive must hold"
            raise InvalidRequest(message, remedy="Add --media, or leave them out: a repository must hold everything.")
        storage = open_storage(self.place, store_options(self.store_option))
        scope = CheckScope(deep=not self.quick, only=self._required_digests if self.media or self.stick else None)
        with progress_output.bar() as advance:
            findings = repository_check.check(storage, read_small(self.root), time.time(), scope, advance)
        if self.as_json:
            write_exactly(json.dumps(findings.plain(), ensure_ascii=False))
        else:
            _print_check(findings)
        if findings.problems:
            raise typer.Exit(_FAILED)

    def _required_digests(self, state: RepositoryState) -> Collection[str]:
        return media_writer.required_bundles(state.plan, self.site or [], self.channel)


def _print_check(findings: repository_check.RepositoryFindings) -> None:
    console = progress_output.out()
    if findings.state:
        state = findings.state
        console.print(
            f"root {state.root.signed.version}, plan {state.plan.version}; signed bundles: {len(state.bundles())};"
            f" files looked at: {findings.blobs}, {format_bytes(findings.bytes_read)}"
        )
    for problem in findings.problems:
        console.print(Text.assemble(("wrong: ", "bold red"), problem))
    for warning in findings.warnings:
        console.print(Text.assemble(("soon: ", "bold yellow"), warning))
    if not findings.problems:
        console.print("nothing is wrong")
    if findings.state:
        repository_options.show_expiry(findings.state)
