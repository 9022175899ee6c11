"""`edge-agent identity`: the site that this machine is, and the site key by which the central team knows it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import AsJson, out, print_facts, print_json
from edge_agent.config import Config, ConfigFiles
from edge_agent.enrolment import procedure
from edge_agent.errors import ConfigInvalid, ExchangeError
from edge_agent.formats import segment, status_object
from edge_agent.formats.enrolment_file import RECORD_FILE_NAME, SiteEnrolment, verification_code
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX

_POLL_SECONDS = 0.2
_AT_CENTRAL = {
    True: "known: it has signed for segments of this key",
    False: "not known yet: no receipt of it names this key",
}
_CREDENTIALS = {
    "none": "none",
    "encrypted": "encrypted to this machine",
    "plain": "unencrypted, readable by root only",
}


@dataclass(frozen=True)
class SiteIdentity:
    """The facts that the central team and the site compare."""

    site: str
    channel: str
    key: str
    """Public, in hexadecimal; empty = the daemon has not made it yet."""
    code: str
    """The first digits of the key, for people to compare."""
    epoch: str
    """The incarnation of the spool."""
    known_at_centre: bool
    """The central team has signed for segments of this incarnation, so it has accepted the key."""
    enrolment: SiteEnrolment | None
    """None = the site was configured by hand, in agent.yaml."""


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show this site's identity and its site key.

    The central team knows the site by its key. Read the key's code to them by telephone: they accept it with
    'edge-convert sites accept'.

    Example: [bold]sudo edge-agent identity[/bold]
    """
    site = target_of(ctx)
    config = site.config()
    if not config.site.id:
        said = "this machine is not a site yet: 'site.id' is not set"
        raise ConfigInvalid(
            said, remedy="Enrol it with the enrolment file of the central team: 'sudo edge-agent enrol FILE'."
        )
    found = read_identity(config, procedure.load_record(site.files().agent[0].with_name(RECORD_FILE_NAME)))
    if as_json:
        plain = asdict(found) | {"enrolment": found.enrolment and found.enrolment.model_dump(by_alias=True)}
        print_json(plain, indent=2)
    else:
        _show(out(), found, site.files())


def read_identity(config: Config, enrolled: SiteEnrolment | None) -> SiteIdentity:
    """Read the identity from the status object that the daemon signed for the central team.

    Raises:
        ConfigInvalid: this user is not allowed to read it.
    """
    raw = _read(config.outbox / status_object.FILE_NAME)
    signed = status_object.verify(raw, None) if raw else None
    if signed is None or signed.body.site != config.site.id:
        return SiteIdentity(config.site.id, config.update.channel, "", "", "", False, enrolled)
    epoch, key = signed.body.epoch, signed.key
    return SiteIdentity(
        config.site.id,
        config.update.channel,
        key,
        verification_code(key),
        epoch,
        epoch in _acknowledged_epochs(config),
        enrolled,
    )


def show_key(config: Config, seconds_max: float) -> None:
    """Wait until the daemon has made its key, and print the next step."""
    until = time.monotonic() + seconds_max
    found = read_identity(config, None)
    while not found.key and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        found = read_identity(config, None)
    _print_key(out(), found)


def _print_key(console: Console, found: SiteIdentity) -> None:
    if not found.key:
        console.print("The daemon has not made the site's key yet; 'sudo edge-agent identity' shows it later.")
        return
    console.print(f"Site key: {found.key}")
    console.print(Text.assemble("Read its code to the central team: ", (found.code, "bold")))
    console.print(f"They run: edge-convert sites accept {found.site} {found.code} --collected …")


def _show(console: Console, found: SiteIdentity, files: ConfigFiles) -> None:
    facts = {
        "site": found.site,
        "channel": found.channel,
        "site key": found.key or "not made yet: the daemon makes it when it starts",
        "code of the key": found.code,
        "central team": _AT_CENTRAL[found.known_at_centre],
        **(_enrolled(found.enrolment) if found.enrolment else {"enrolled": "by hand"}),
        "agent.yaml overrides": ", ".join(files.overruled()),
    }
    print_facts(console, facts)
    if found.key and not found.known_at_centre:
        console.print(f"They run: edge-convert sites accept {found.site} {found.code} --collected …")


def _enrolled(by: SiteEnrolment) -> dict[str, str]:
    said = f"{by.enrolled_at[:10]}, with the enrolment file {verification_code(by.kit_sha256)} of {by.issued_at[:10]}"
    return {"enrolled": said, "credentials": _CREDENTIALS[by.secrecy]}


def _acknowledged_epochs(config: Config) -> set[str]:
    """Return the spool incarnations whose segments the central team has signed for."""
    with contextlib.suppress(ExchangeError):
        signed = segment.verify_receipts(_read(config.receipts / segment.RECEIPTS_FILE_NAME), config.site.receipt_keys)
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
