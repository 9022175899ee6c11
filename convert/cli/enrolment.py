"""`edge-convert enrolment-file`."""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from convert.cli import progress_output
from convert.fleet import enrolment_file
from convert.fleet.site_registry import EnrolmentRecord as Issued
from convert.fleet.site_registry import SiteRegistry
from convert.publish import central_keys
from edge_agent.durable import atomic_files
from edge_agent.errors import ExchangeError, InvalidRequest
from edge_agent.formats import enrolment_file as enrolment_format

_PRIVATE_MODE = 0o600


@dataclass(kw_only=True)
class Command:
    """Make the enrolment files of sites: one each, with all that a box needs to become that site.

    fleet.yaml says what every site gets; docs/enrolment.md shows one. An enrolment file holds secrets: it is readable
    by you alone, and can be sealed with a passphrase to travel by mail. The site is written into the registry, and
    waits there for its key: 'edge-convert sites'.

    Example: [bold]edge-convert enrolment-file shop-12 shop-13 --fleet fleet.yaml --out kits[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    sites: Annotated[list[str], typer.Argument(metavar="SITE", help="Ids: a-z, 0-9 and inner hyphens.")]
    fleet: Annotated[Path, typer.Option(metavar="FILE", help="What every site of the fleet gets.")]
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the enrolment files go.")]
    channel: Annotated[str, typer.Option(metavar="NAME", help="Another one than fleet.yaml says.")] = ""
    days: Annotated[int, typer.Option(metavar="N", help="Days for which the file can be used, if not as usual.")] = 0
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line is a passphrase to seal the files with.")
    ] = None
    passphrase: Annotated[bool, typer.Option("--passphrase", help="Seal the files; asks for a passphrase.")] = False
    force: Annotated[
        bool, typer.Option("--force", help="Replace files that are in the folder; their codes change. Do not ask.")
    ] = False

    def __post_init__(self) -> None:
        """Run the command."""
        fleet, folder = self._fleet(), self.fleet.parent
        registry = SiteRegistry(folder / fleet.registry)
        now = time.time()
        made = [enrolment_file.make(fleet, folder, site, now) for site in self.sites]
        for each in made:
            registry.check_open(each.site)
        self._confirm_replacing()
        secret = self._secret()
        self.out.mkdir(mode=0o700, parents=True, exist_ok=True)
        for each in made:
            self._write(each, secret, registry)
        self._say(secret)

    def _fleet(self) -> enrolment_file.FleetFile:
        given = {"channel": self.channel, "days": self.days}
        return enrolment_file.read(self.fleet, {key: value for key, value in given.items() if value})

    def _secret(self) -> str:
        if self.passphrase_file is not None:
            secret = central_keys.read_passphrase(self.passphrase_file)
        elif self.passphrase:
            secret = typer.prompt("Passphrase of the files", hide_input=True, confirmation_prompt=True, err=True)
        else:
            secret = ""
        central_keys.check_passphrase(secret)
        return secret

    def _path(self, site: str) -> Path:
        return self.out / f"{site}{enrolment_format.SUFFIX}"

    def _confirm_replacing(self) -> None:
        """Ask before files are replaced.

        Raises:
            InvalidRequest: nobody is there to ask.
            typer.Abort: the answer is no.
        """
        there = [path for path in map(self._path, self.sites) if path.exists()]
        if self.force or not there:
            return
        consequence = (
            f"{', '.join(map(_named_with_code, there))} {'exists' if len(there) == 1 else 'exist'} already. "
            "A new file has another code: the code of the earlier one no longer counts, and whoever has that one needs "
            "the new one"
        )
        if not sys.stdin.isatty():
            remedy = "Add --force to replace it, or name another folder with --out."
            raise InvalidRequest(f"{consequence}. Nothing was changed", remedy=remedy)
        progress_output.out().print(f"{consequence}.")
        typer.confirm("Replace it?" if len(there) == 1 else "Replace them?", abort=True, err=True)

    def _write(self, made: enrolment_format.EnrolmentFile, secret: str, registry: SiteRegistry) -> None:
        raw = enrolment_format.encode(made)
        _, sha256 = enrolment_format.parse(raw)
        path = self._path(made.site)
        # Known at the central team before it exists: a file that nobody knows of could be used and nobody would wait.
        registry.issue(made.site, Issued(sha256=sha256, issued_at=made.issued_at, expires_at=made.expires_at))
        atomic_files.write_atomically(path, enrolment_format.seal(raw, secret) if secret else raw, mode=_PRIVATE_MODE)
        progress_output.out().print(
            Text(f"{path}: code {enrolment_format.verification_code(sha256)}, can be used until {made.expires_at[:10]}")
        )

    def _say(self, secret: str) -> None:
        several = len(self.sites) > 1
        them = ("The files are", "them") if several else ("The file is", "it")
        is_open = f"not sealed: whoever has {them[1]} can read the secrets inside"
        how = "sealed; send the passphrase by another way" if secret else is_open
        console = progress_output.out()
        console.print(f"{them[0]} {how}. On the site: sudo edge-agent enrol SITE.kit")
        console.print(
            "Read out the code when you are asked for it, and afterwards compare the key: edge-convert sites list"
        )


def _named_with_code(path: Path) -> str:
    """Return the path of an enrolment file, and its code unless it is sealed or damaged."""
    try:
        _, sha256 = enrolment_format.parse(path.read_bytes())
    except (OSError, ExchangeError):
        return str(path)
    return f"{path} (code {enrolment_format.verification_code(sha256)})"
