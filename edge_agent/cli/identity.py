"""`edge-agent site`: who this box is to the centre."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.output import out, print_facts, print_json
from edge_agent.cli.site import AsJson, site_of
from edge_agent.config import Config, Files
from edge_agent.enrolment import procedure
from edge_agent.errors import ConfigInvalid, ExchangeError
from edge_agent.formats import receipts, site_status
from edge_agent.formats.enrolment_file import code
from edge_agent.formats.enrolment_record import FILE_NAME, Enrolment
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX

_LOOK_SECONDS = 0.2
_AT_THE_CENTRE = {True: "known: it has signed for segments of this key", False: "not heard of yet"}
_CREDENTIALS = {
    "none": "none",
    "encrypted": "encrypted to this machine",
    "plain": "in the open, readable by root only",
}


@dataclass(frozen=True)
class Identity:
    """What the centre and the site can compare."""

    site: str
    channel: str
    key: str
    """Public, in hexadecimal; empty = the daemon has not made it yet."""
    code: str
    """The key's first digits, to be read out."""
    epoch: str
    """The life of the spool."""
    known_at_centre: bool
    """The centre has signed for segments of this life, so it has accepted the key."""
    enrolment: Enrolment | None
    """None = by hand, in agent.yaml."""


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show which site this box is, and the key by which the centre knows it.

    Read the key's code to the centre by telephone: they accept it with 'edge-convert sites accept'.

    Example: [bold]sudo edge-agent site[/bold]
    """
    site = site_of(ctx)
    config = site.config()
    if not config.site.id:
        said = "this box is no site yet: 'site.id' is not set"
        raise ConfigInvalid(said, remedy="Enrol it by the kit that the centre made: 'edge-agent enrol KIT'.")
    found = of(config, procedure.load(site.files().agent[0].with_name(FILE_NAME)))
    if as_json:
        plain = asdict(found) | {"enrolment": found.enrolment and found.enrolment.model_dump(by_alias=True)}
        print_json(plain, indent=2)
    else:
        _show(out(), found, site.files())


def of(config: Config, enrolled: Enrolment | None) -> Identity:
    """Read who this box is, in the status object that the daemon signed for the centre.

    Raises:
        ConfigInvalid: this user may not read it.
    """
    raw = _read(config.outbox / site_status.FILE_NAME)
    signed = site_status.verify(raw, None) if raw else None
    if signed is None or signed.body.site != config.site.id:
        return Identity(config.site.id, config.update.channel, "", "", "", False, enrolled)
    epoch, key = signed.body.epoch, signed.key
    return Identity(config.site.id, config.update.channel, key, code(key), epoch, epoch in _vouched(config), enrolled)


def show_key(config: Config, seconds_max: float) -> None:
    """Wait for the daemon to make its key, and say what to do with it."""
    until = time.monotonic() + seconds_max
    found = of(config, None)
    while not found.key and time.monotonic() < until:
        time.sleep(_LOOK_SECONDS)
        found = of(config, None)
    _say_key(out(), found)


def _say_key(console: Console, found: Identity) -> None:
    if not found.key:
        console.print("The daemon has not made the site's key yet; 'edge-agent site' shows it later.")
        return
    console.print(f"The site's key: {found.key}")
    console.print(Text.assemble("Read its code to the centre: ", (found.code, "bold")))
    console.print(f"There: edge-convert sites accept {found.site} {found.code} --collected …")


def _show(console: Console, found: Identity, files: Files) -> None:
    facts = {
        "site": found.site,
        "channel": found.channel,
        "key": found.key or "not made yet: the daemon makes it when it starts",
        "its code": found.code,
        "at the centre": _AT_THE_CENTRE[found.known_at_centre],
        **(_enrolled(found.enrolment) if found.enrolment else {"enrolled": "by hand"}),
        "agent.yaml wins in": ", ".join(files.overruled()),
    }
    print_facts(console, facts)
    if found.key and not found.known_at_centre:
        console.print(f"Read the code to the centre: edge-convert sites accept {found.site} {found.code} --collected …")


def _enrolled(by: Enrolment) -> dict[str, str]:
    said = f"{by.enrolled_at[:10]}, by the kit {code(by.kit_sha256)} of {by.issued_at[:10]}"
    return {"enrolled": said, "credentials": _CREDENTIALS[by.secrecy]}


def _vouched(config: Config) -> set[str]:
    """Return the epochs of which the centre has signed for segments."""
    with contextlib.suppress(ExchangeError):
        signed = receipts.verify(_read(config.receipts / receipts.FILE_NAME), config.site.receipt_keys)
        return {each.epoch for each in signed.body.epochs if each.received}
    return set()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Run the command with sudo.") from None
