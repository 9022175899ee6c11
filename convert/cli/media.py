"""`edge-convert media`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output, repository_options
from convert.cli.repository_options import RepositoryCommand
from convert.publish import media_writer
from edge_agent.formatting import format_bytes


@dataclass(kw_only=True)
class Command(RepositoryCommand):
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
        # Not below the bar: this can prompt for a passphrase.
        prepared = media_writer.prepare(publisher, order)
        with progress_output.bar() as advance:
            written = media_writer.fill(prepared, advance)
        _print(self.folder, written)
        repository_options.show_expiry(publisher.held())


def _print(folder: Path, written: media_writer.WrittenMedia) -> None:
    console = progress_output.out()
    for signed in written.bundles:
        console.print(Text(f"holds {signed.name}"))
    console.print(Text(f"{format_bytes(written.bytes_written)} written to {folder}; unmount it before you unplug it"))
    console.print(Text(f"the drive expires on {written.expires:%Y-%m-%d %H:%M} UTC (by '{written.expires_by}')"))
    if written.expires_by != "timestamp":
        remedy = f"Renew it first: edge-convert renew {written.expires_by}; then write the drive again."
        console.print(
            Text(f"that is sooner than requested, because '{written.expires_by}' expires then. {remedy}", "yellow")
        )
