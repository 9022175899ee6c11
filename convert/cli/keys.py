"""`edge-convert keys create|show|rotate`."""

from pathlib import Path
from typing import Annotated

import typer

from convert import keys
from edge_agent.errors import InvalidRequest

app = typer.Typer(no_args_is_help=True, help="Make and show the centre's keys: who reads examples, who signs receipts.")

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Where the keys are.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Its first line is the passphrase of the keys. Without it you are asked."),
]


@app.command()
def create(
    folder: Folder,
    passphrase_file: PassphraseFile = None,
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Encrypt the private keys; asks for it.")] = False,
) -> None:
    """Make new keys, and print what every site needs to know of them.

    Keep the folder off the sites and in a backup: without it nobody can read what the sites have sealed.

    Example: [bold]edge-convert keys create centre-keys --passphrase[/bold]
    """
    chosen = ""
    if passphrase_file is not None:
        chosen = keys.read_passphrase(passphrase_file)
    elif passphrase:
        chosen = typer.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True)
    _print(keys.create(folder, chosen))


@app.command()
def show(folder: Folder) -> None:
    """Print what every site needs to know of the keys, for agent.yaml. Needs no passphrase."""
    _print(keys.public(folder))


@app.command()
def rotate(folder: Folder, passphrase_file: PassphraseFile = None) -> None:
    """Add a new key to read examples with. What was, or is still, sealed to an old one stays readable.

    Give the new recipient to the sites afterwards.
    """
    _print(keys.rotate(folder, asking(passphrase_file)))


def asking(passphrase_file: Path | None) -> keys.Ask:
    """Return how to get at the passphrase: from the file, or else from the person at the terminal."""
    if passphrase_file is not None:
        return lambda: keys.read_passphrase(passphrase_file)
    return _ask


def _ask() -> str:
    if not typer.get_text_stream("stdin").isatty():
        said = "the keys have a passphrase, and nobody is there to ask"
        raise InvalidRequest(said, remedy="Name a file that holds it: --passphrase-file FILE.")
    typed: str = typer.prompt("Passphrase", hide_input=True, err=True)
    return typed


def _print(public: keys.Public) -> None:
    typer.echo(f"site:\n  recipients: [{public.recipient}]\n  receipt_keys: [{public.receipts}]")
