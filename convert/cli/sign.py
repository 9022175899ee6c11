"""`edge-convert sign`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import repository, screen
from convert.cli.repository import Keys, PassphraseFile, Yes
from convert.publish import staged


def sign(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="What --stage has left.")],
    keys: Keys,
    yes: Yes = False,
    passphrase_file: PassphraseFile = None,
) -> None:
    """Sign a staged change with the keys at hand. Needs no network: made for the machine that has the offline keys.

    Shows what the change is, compared with the signed metadata that it follows, and asks. The keys' folder must hold
    the root.json that the fleet started from.

    Example: [bold]edge-convert sign staged --keys /media/offline-keys[/bold]
    """
    ring = repository.open_keys(keys, passphrase_file)
    change = staged.read(folder, ring)
    for line in change.described(ring):
        screen.out().print(Text(line))
    repository.confirm("Sign this?", yes)
    staged.add_signatures(change, ring)
    repository.show_missing(change, ring)
    repository.show_expiry(change.after())
