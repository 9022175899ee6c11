"""Options and closing messages that the commands for a repository share."""

import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output
from convert.cli.collect import StoreOption, store_options
from convert.cli.keys import PassphraseFile, ask_passphrase
from convert.publish import central_keys, staged_change
from convert.publish.keyring import Keyring
from convert.publish.publisher import Publisher
from convert.publish.repository_check import SOON_DAYS
from convert.publish.repository_reader import RepositoryState
from convert.publish.repository_storage import open_storage
from edge_agent.cli.terminal import errors
from edge_agent.errors import InvalidRequest
from edge_agent.formatting import counted

Repo = Annotated[
    str, typer.Option("--repo", "--to", metavar="PLACE", help="The repository: a folder, or s3:// gs:// az://…")
]
Keys = Annotated[
    list[Path],
    typer.Option("--keys", metavar="FOLDER", help="Signing keys: see 'edge-convert keys signing'. Repeatable."),
]
Stage = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Folder for a change that lacks signatures, to be signed elsewhere."),
]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]


def open_keys(folders: list[Path], passphrase_file: Path | None) -> Keyring:
    """Return the keys of a command."""
    if passphrase_file is not None:
        return Keyring(folders, lambda _: central_keys.read_passphrase(passphrase_file))
    return Keyring(folders, ask_passphrase)


@dataclass(kw_only=True)
class RepositoryCommand:
    """The options of a command that changes a repository."""

    repo: Repo
    keys: Keys
    passphrase_file: PassphraseFile = None
    store_option: StoreOption = None

    def publisher(self, stage: Path | None = None) -> Publisher:
        """Return the publisher; a change that cannot be signed here goes to `stage`."""
        storage = open_storage(self.repo, store_options(self.store_option))
        ring = open_keys(self.keys, self.passphrase_file)
        return Publisher(storage, ring, time.time, stage=partial(staged_change.write, stage) if stage else None)


def finish(publisher: Publisher, message: str, stage: Path | None) -> None:
    """Report the change, or that it still lacks signatures, and what expires first."""
    state = publisher.read_state()
    if stage is not None and publisher.staged:
        change = staged_change.read(stage, publisher.keys)
        for line in change.description(publisher.keys):
            progress_output.out().print(Text(line))
        show_missing(change, publisher.keys)
    elif message:
        progress_output.out().print(Text(message))
    show_expiry(state)


def show_missing(change: staged_change.StagedChange, keys: Keyring) -> None:
    """Report which signatures a staged change still lacks."""
    console = progress_output.out()
    missing = staged_change.missing(change)
    for each in missing:
        console.print(Text.assemble(("missing: ", "bold yellow"), each.sentence(keys.name_of)))
    if missing:
        console.print(
            Text(
                f"Not published yet. Take {change.folder} to the holder of the keys, who runs: edge-convert sign"
                f" {change.folder}"
            )
        )
        console.print(Text(f"Then publish it: edge-convert publish --staged {change.folder} --to …"))
    else:
        console.print(Text(f"Signed. Publish it: edge-convert publish --staged {change.folder} --to …"))


def show_expiry(state: RepositoryState, *, err: bool = False) -> None:
    """Report which role expires first, coloured if that is soon."""
    expires, role = state.expiries()[0]
    days = (expires - datetime.now(UTC)).total_seconds() / 86_400
    if days <= 0:
        when, style = f"{expires:%Y-%m-%d}: it has expired", "bold red"
    else:
        when = f"{expires:%Y-%m-%d %H:%M} UTC, in {counted(round(days), 'day')}"
        style = "yellow" if days < SOON_DAYS else ""
    argument = "" if role in ("timestamp", "snapshot") else f" {role}"
    renew = "" if days > SOON_DAYS else f"; renew it with 'edge-convert renew{argument}'"
    console = errors() if err else progress_output.out()
    console.print(Text.assemble(("earliest expiry: ", "bold"), (f"{role}, {when}{renew}", style)))


def confirm(question: str, yes: bool) -> None:
    """Ask for confirmation, unless --yes was given.

    Raises:
        InvalidRequest: there is no terminal.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        message = "this needs a confirmation, and there is no terminal to ask at"
        raise InvalidRequest(message, remedy="Check the change, then add --yes.")
    typer.confirm(question, abort=True, err=True)
