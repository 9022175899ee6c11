"""`edge-agent support-bundle`."""

from __future__ import annotations

import platform
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli.doctor import as_document, place_of
from edge_agent.cli.output import err, out, print_trimmed, table
from edge_agent.cli.site import Site, site_of
from edge_agent.config import Files, read_files
from edge_agent.doctor.examine import judge
from edge_agent.doctor.probes.serving import ask
from edge_agent.durable.atomic_files import create
from edge_agent.errors import ConfigInvalid, StickFailed
from edge_agent.support_bundle.support_archive import (
    ARCHIVE_MODE,
    SupportPart,
    SupportSources,
    gather_parts,
    pack_archive,
)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Left out: a name with site and time, here.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Write it without asking.")]
OnlyList = Annotated[bool, typer.Option("--list", help="Only show what would be in it.")]


def run(ctx: typer.Context, output: Output = None, yes: Yes = False, only_list: OnlyList = False) -> None:
    """Put what support needs into one file; show first what that is.

    No inputs, answers, examples, keys or credentials go in: settings without secrets, doctor, status, logs, counters,
    names and sizes of files. Works without a daemon; as an ordinary user there is less in it.

    Example: [bold]sudo edge-agent support-bundle[/bold]
    """
    site, at = site_of(ctx), time.time()
    with err().status("Gathering"):
        place = place_of(site)
        case = ask(place)
        parts = gather_parts(SupportSources(case, _files(site), as_document(judge(case))))
    name = f"edge-support-{_named(place.config.site.id)}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    path, content = output or Path(f"{name}.tar.gz"), pack_archive(parts, name, at)
    show(out(), parts)
    if only_list:
        return
    if not yes:
        if not sys.stdin.isatty():
            raise typer.BadParameter("there is nobody to ask: add --yes", param_hint="--yes")
        typer.confirm(f"Write {path} ({format_bytes(len(content))})?", abort=True)
    try:
        create(path, content, ARCHIVE_MODE)
    except OSError as error:
        raise StickFailed(
            f"{path} cannot be written: {error.strerror}", remedy="Name another file with --output."
        ) from None
    out().print(
        f"{path.absolute()} ({format_bytes(len(content))}); only you may read it. Send it to support.", soft_wrap=True
    )


def _files(site: Site) -> Files | None:
    try:
        return read_files(site.config_path)
    except ConfigInvalid:
        return None


def _named(site: str) -> str:
    return site or re.sub(r"[^a-z0-9-]", "", platform.node().lower()) or "site"


def show(console: Console, parts: list[SupportPart]) -> None:
    """Print what would be in it, and what could not be had."""
    made = table("file", "size", "what", right=("size",), wrap=("what",))
    for part in parts:
        if part.content:
            made.add_row(
                part.name, format_bytes(len(part.content)), f"{part.what}{f'; {part.why}' if part.why else ''}"
            )
    print_trimmed(console, made)
    console.print("Not in it: inputs, answers, examples, keys, credentials.")
    for part in parts:
        if not part.content:
            print_trimmed(console, Text(f"left out: {part.name}: {part.why}", style="dim"))
