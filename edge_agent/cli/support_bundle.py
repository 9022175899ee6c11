"""`edge-agent support-bundle`: one file for support, shown before it is written."""

from __future__ import annotations

import errno
import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import DaemonTarget, target_of
from edge_agent.cli.doctor import as_document, place_of
from edge_agent.cli.output import YesOption, confirm, err, out, print_done, print_trimmed, table
from edge_agent.config import ConfigFiles, read_files
from edge_agent.doctor.all_checks import evaluate
from edge_agent.doctor.probe_context import query_daemon
from edge_agent.durable.atomic_files import create
from edge_agent.errors import ConfigInvalid, MediaFailed
from edge_agent.errors.base import works_by_sudo
from edge_agent.formatting import format_bytes
from edge_agent.support_bundle.support_archive import (
    ARCHIVE_MODE,
    SupportPart,
    SupportSources,
    gather_parts,
    pack_archive,
)

Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", metavar="FILE", help="Without it a name with site and time, in this folder."),
]
OnlyList = Annotated[bool, typer.Option("--list", help="Show the contents, and write nothing.")]


def run(ctx: typer.Context, output: Output = None, yes: YesOption = False, only_list: OnlyList = False) -> None:
    """Put what support needs into one file; show its contents first.

    It holds settings without secrets, findings of doctor, status, logs, counters, names and sizes of files; no inputs,
    answers, examples, keys or credentials. Works without a daemon; run by an ordinary user it holds less.

    Example: [bold]sudo edge-agent support-bundle[/bold]
    """
    site, at = target_of(ctx), time.time()
    place = place_of(site)
    name = f"edge-support-{_named(place.config.site.id)}-{datetime.fromtimestamp(at, UTC):%Y%m%dT%H%M%SZ}"
    path = output or Path(f"{name}.tar.gz")
    if not only_list:
        _check_target(path)
    with err().status("Gathering"):
        case = query_daemon(place)
        parts = gather_parts(SupportSources(case, _files(site), as_document(evaluate(case))))
    content = pack_archive(parts, name, at)
    show(out(), parts)
    if only_list:
        return
    confirm(f"Write {path} ({format_bytes(len(content))})?", "The list above is what the file holds.", yes=yes)
    try:
        create(path, content, ARCHIVE_MODE)
        _give_to_person(path)
    except OSError as error:
        raise _unwritable(path, error.strerror) from None
    print_done(ctx, f"{path.absolute()} ({format_bytes(len(content))}); only you can read it. Send it to support.")


def _check_target(path: Path) -> None:
    """Refuse a file that cannot be written, before the work. Raises MediaFailed."""
    folder = path.absolute().parent
    if os.path.lexists(path):
        raise _unwritable(path, os.strerror(errno.EEXIST))
    if not folder.is_dir():
        raise _unwritable(path, f"there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _unwritable(path, f"this user may not write in {folder}")


def _unwritable(path: Path, why: str | None) -> MediaFailed:
    return MediaFailed(f"{path} cannot be written: {why}", remedy="Name another file with --output.")


def _give_to_person(path: Path) -> None:
    """Make the person who works through sudo the owner: it is for them to send."""
    if works_by_sudo(os.environ, os.geteuid()):
        os.chown(path, int(os.environ["SUDO_UID"]), int(os.environ.get("SUDO_GID", "-1")))


def _files(site: DaemonTarget) -> ConfigFiles | None:
    try:
        return read_files(site.config_path)
    except ConfigInvalid:
        return None


def _named(site: str) -> str:
    return site or re.sub(r"[^a-z0-9-]", "", platform.node().lower()) or "site"


def show(console: Console, parts: list[SupportPart]) -> None:
    """Print the parts of the file, and those that are missing with the reason."""
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
