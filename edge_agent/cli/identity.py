"""`edge-agent enrol` and `identity`: make this machine a site, and show which site it is."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from edge_agent.cli.config import SYSTEM, EtcOption
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import AsJson, err, out, print_facts, print_json, print_trimmed
from edge_agent.config import Config, ConfigFiles
from edge_agent.enrolment import site_enrolment, unit_drop_ins
from edge_agent.enrolment.site_enrolment import CompletedEnrolment, EnrolmentRequest, PreparedEnrolment
from edge_agent.enrolment.site_files import SystemPaths, plain_credentials, require_rights
from edge_agent.errors import ConfigInvalid, EnrolmentFileRefused, ExchangeError, InvalidRequest
from edge_agent.formats import enrolment_file, segment, status_object
from edge_agent.formats.enrolment_file import RECORD_FILE_NAME, SiteEnrolment, verification_code
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX
from edge_agent.formatting import counted

_POLL_SECONDS = 0.2
_CENTRAL_TEXTS = {
    True: "known: it has signed for segments of this key",
    False: "not known yet: no receipt of it names this key",
}
_CREDENTIAL_TEXTS = {
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
    """The central team has signed receipts for segments of this incarnation, so it has accepted the key."""
    enrolment: SiteEnrolment | None
    """None = the site was configured by hand, in agent.yaml."""


def show_identity(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show this site's identity and its site key.

    The central team knows the site by its key. Read the key's code to them by telephone: they accept it with
    'edge-convert sites accept'.

    Example: [bold]sudo edge-agent identity[/bold]
    """
    target = target_of(ctx)
    config = target.config()
    if not config.site.id:
        message = "this machine is not a site yet: 'site.id' is not set"
        raise ConfigInvalid(
            message, remedy="Enrol it with the enrolment file of the central team: 'sudo edge-agent enrol FILE'."
        )
    identity = read_identity(config, site_enrolment.load_record(target.files().agent[0].with_name(RECORD_FILE_NAME)))
    if as_json:
        document = asdict(identity) | {"enrolment": identity.enrolment and identity.enrolment.model_dump(by_alias=True)}
        print_json(document, indent=2)
    else:
        _print_identity(out(), identity, target.files())


def read_identity(config: Config, record: SiteEnrolment | None) -> SiteIdentity:
    """Read the identity from the status object that the daemon signed for the central team.

    Raises:
        ConfigInvalid: this user is not allowed to read it.
    """
    raw = _read(config.outbox / status_object.FILE_NAME)
    signed = status_object.verify(raw, None) if raw else None
    if signed is None or signed.body.site != config.site.id:
        return SiteIdentity(config.site.id, config.update.channel, "", "", "", False, record)
    epoch, key = signed.body.epoch, signed.key
    return SiteIdentity(
        config.site.id,
        config.update.channel,
        key,
        verification_code(key),
        epoch,
        epoch in _acknowledged_epochs(config),
        record,
    )


def show_key(config: Config, seconds_max: float) -> None:
    """Wait until the daemon has made its key, and print the next step."""
    deadline = time.monotonic() + seconds_max
    identity = read_identity(config, None)
    while not identity.key and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
        identity = read_identity(config, None)
    console = out()
    if not identity.key:
        console.print("The daemon has not made the site's key yet; 'sudo edge-agent identity' shows it later.")
        return
    console.print(f"Site key: {identity.key}")
    console.print(Text.assemble("Read its code to the central team: ", (identity.code, "bold")))
    console.print(f"They run: edge-convert sites accept {identity.site} {identity.code} --collected FOLDER")


def _print_identity(console: Console, identity: SiteIdentity, files: ConfigFiles) -> None:
    enrolled = {"enrolled": "by hand"}
    if record := identity.enrolment:
        file = f"the enrolment file {verification_code(record.kit_sha256)} of {record.issued_at[:10]}"
        credentials = _CREDENTIAL_TEXTS[record.secrecy]
        enrolled = {"enrolled": f"{record.enrolled_at[:10]}, with {file}", "credentials": credentials}
    facts = {
        "site": identity.site,
        "channel": identity.channel,
        "site key": identity.key or "not made yet: the daemon makes it when it starts",
        "code of the key": identity.code,
        "central team": _CENTRAL_TEXTS[identity.known_at_centre],
        **enrolled,
        "agent.yaml overrides": ", ".join(files.overruled_keys()),
    }
    print_facts(console, facts)
    if identity.key and not identity.known_at_centre:
        console.print(f"They run: edge-convert sites accept {identity.site} {identity.code} --collected FOLDER")


def _acknowledged_epochs(config: Config) -> set[str]:
    """Return the spool incarnations whose segments the central team has signed for."""
    with contextlib.suppress(ExchangeError):
        signed = segment.verify_receipts(_read(config.receipts / segment.RECEIPTS_FILE_NAME), config.site.receipt_keys)
        return {entry.epoch for entry in signed.body.epochs if entry.received}
    return set()


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX)
    except (FileNotFoundError, NotADirectoryError):
        return b""
    except OSError as error:
        raise ConfigInvalid(f"cannot read {path}: {error.strerror}", remedy="Run the command with sudo.") from None


_COMPARE = "Ask the central team, by telephone, for the code of this site's enrolment file."
_MISTYPED = (
    "Have the code read out again, and type it again. If it still does not fit, this is not the file that the central"
    " team means: compare the name of the site and the date, and have them send the file again."
)
_KEY_SECONDS_MAX = 20.0


@dataclass(kw_only=True)
class EnrolCommand:
    """Make this machine a site, from an enrolment file. Run it as root.

    The central team makes the file. The command checks everything first, and changes nothing when a check fails. The
    same file again changes nothing; a newer one of the same site brings new settings or credentials.

    Example: [bold]sudo edge-agent enrol /media/usb/shop-12.kit[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    ctx: typer.Context
    # readable=False: the reader's own error names sudo.
    file: Annotated[Path, typer.Argument(metavar="FILE", readable=False, help="The enrolment file of this site.")]
    code: Annotated[
        str,
        typer.Option(
            metavar="CODE",
            help="The code of the file, as the central team reads it out; then the command does not ask.",
        ),
    ] = ""
    passphrase_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File whose first line is the passphrase; else the command asks."),
    ] = None
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask: nobody could have changed the file on its way.")
    ] = False
    check: Annotated[bool, typer.Option("--check", help="Run the checks, and change nothing.")] = False
    replace: Annotated[
        bool, typer.Option("--replace", help="Become another site; the data of this one is set aside.")
    ] = False
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Restart the services under systemd, if it runs.")
    ] = True
    etc: EtcOption = SYSTEM
    _systemd: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Run the command."""
        self._systemd = self.restart and self.etc == SYSTEM and unit_drop_ins.is_systemd_running()
        raw = site_enrolment.read_enrolment_file(self.file)
        is_sealed = enrolment_file.is_sealed(raw)
        if is_sealed:
            raw = enrolment_file.unseal(raw, self._passphrase())
        enrolment, sha256 = enrolment_file.parse(raw)
        request = EnrolmentRequest(
            enrolment,
            sha256,
            SystemPaths(self.etc.absolute()),
            time.time(),
            self.replace,
            target_of(self.ctx).overrides,
            unit_drop_ins.read_attached_networks(),
        )
        prepared = site_enrolment.prepare(request)
        _print_contents(prepared)
        self._warn_of_folders(prepared)
        if prepared.kind == "same":
            out().print(f"This machine is site {enrolment.site} by this file already; nothing was changed.")
        elif self.check:
            _print_check_result(prepared)
        else:
            require_rights(request.paths)
            # The central team must have made the file, because its author controls the site from now on.
            if self.code:
                _require_code(self.code, sha256, enrolment.site)
            elif not (is_sealed or self.yes):
                _ask_to_compare(sha256, enrolment.site)
            self._apply(prepared)

    def _warn_of_folders(self, prepared: PreparedEnrolment) -> None:
        """Print why the uplink cannot use a folder that is an object store, and the command that fixes it."""
        managed = self._systemd or prepared.request.paths.uplink_unit.exists()
        for problem in unit_drop_ins.store_folder_problems(prepared.config, managed=managed):
            _warn(f"{problem.message}. {problem.remedy}")
            for command in problem.command.split("; "):
                out().print(f"  $ {command}", soft_wrap=True, markup=False)

    def _passphrase(self) -> str:
        if self.passphrase_file is not None:
            content = site_enrolment.read_enrolment_file(self.passphrase_file).decode(errors="replace")
            return content.split("\n", 1)[0].removesuffix("\r")
        if not sys.stdin.isatty():
            message = "the enrolment file is sealed, and there is no terminal to ask for its passphrase on"
            raise InvalidRequest(message, remedy="Name a file that holds it: --passphrase-file FILE.")
        typed: str = typer.prompt("Passphrase of the enrolment file", hide_input=True, err=True)
        return typed

    def _apply(self, prepared: PreparedEnrolment) -> None:
        if prepared.kind == "replacement" and self._systemd:
            unit_drop_ins.stop_services()
        completed = site_enrolment.apply(prepared)
        _print_result(prepared, completed)
        if not self._systemd:
            out().print("Next: restart the daemon and its uplink; then 'sudo edge-agent identity' shows the site key.")
            return
        for warning in unit_drop_ins.restart_services(prepared.config):
            _warn(warning)
        show_key(prepared.config, seconds_max=_KEY_SECONDS_MAX)


def _print_check_result(prepared: PreparedEnrolment) -> None:
    """Print what the same command without --check would do."""
    effect = {
        "renewal": "takes the changes over",
        "replacement": "makes this machine another site; its data is set aside",
    }.get(prepared.kind, "makes this machine the site")
    site, console = prepared.request.enrolment.site, out()
    console.print(f"The enrolment file of site {site} fits this machine; nothing was changed.")
    console.print(f"The same command without --check {effect}.")


def _warn(message: str) -> None:
    print_trimmed(out(), Text.assemble(("warning: ", "yellow"), message))


def _require_code(code: str, sha256: str, site: str) -> None:
    if not enrolment_file.matches_code(code, sha256):
        expected, digits = enrolment_file.verification_code(sha256), len(enrolment_file.normalize_code(code))
        length = len(enrolment_file.normalize_code(expected))
        hint = f"; it has {digits} characters instead of {length}" if digits != length else ""
        raise EnrolmentFileRefused(
            f"the code {code} does not fit this file of site {site}{hint}; nothing was changed", remedy=_MISTYPED
        )


def _ask_to_compare(sha256: str, site: str) -> None:
    """Ask whether the code is that of the central team; the answer may be the code itself.

    Raises:
        EnrolmentFileRefused: the code differs.
        InvalidRequest: there is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        message = "there is no terminal on which a person can compare the code of the file"
        raise InvalidRequest(message, remedy=f"{_COMPARE} Then: --code CODE.")
    err().print(_COMPARE)
    code = enrolment_file.verification_code(sha256)
    typed = typer.prompt(f"Is it {code}? Type yes, or the code as it is read out", err=True).strip().lower()
    if typed in ("y", "yes"):
        return
    if typed not in ("n", "no"):
        _require_code(typed, sha256, site)
    else:
        raise EnrolmentFileRefused(
            "this is not the file whose code was read out; nothing was changed",
            remedy="Compare the name of the site and the date, too. Then have the central team send the file again.",
        )


_DRIVE = "a USB drive"


def _print_contents(prepared: PreparedEnrolment) -> None:
    """Print the contents of the enrolment file, without its secrets."""
    enrolment = prepared.request.enrolment
    issued, expires = enrolment.issued_at[:10], enrolment.expires_at[:10]
    root, trusts = prepared.trust, "no updates, except by 'install'"
    if root is not None:
        keys = f"{root.threshold} of {root.keys} keys"
        trusts = f"root {root.version} of the fleet: {keys}, until {root.expires:%Y-%m-%d}"
    facts = {
        "enrolment file": f"{enrolment.site}, made {issued}, to be used until {expires}",
        "code": enrolment_file.verification_code(prepared.request.sha256),
        "channel": enrolment.channel,
        "examples to": _store_text(enrolment.examples, _DRIVE),
        "updates from": _store_text(enrolment.updates, _DRIVE if prepared.trust else "nowhere"),
        "trusts": trusts,
        "asks": _large_model_text(enrolment.escalation) if enrolment.escalation else "",
        "listens by TLS": "with the certificate of the file" if enrolment.tls.certificate else "",
        "changes": ", ".join(prepared.changes) if prepared.kind == "renewal" else "",
        "agent.yaml overrides": ", ".join(prepared.overruled),
        **{f"unit {drop_in.name}": " ".join(drop_in.settings) or "drop-in removed" for drop_in in prepared.drop_ins},
    }
    print_facts(out(), facts)


def _store_text(location: enrolment_file.StoreLocation, fallback: str) -> str:
    return f"{location.url or fallback}{', with a credential' if location.credential else ''}"


def _large_model_text(model: enrolment_file.LargeModelAccess) -> str:
    """Return which large model the site can ask, about which tasks, at what cost."""
    caps = ((model.day_cost_max, "a day"), (model.month_cost_max, "a month"))
    cap_text = " and ".join(f"{cap} {span}" for cap, span in caps if float(cap))
    tasks = f"about {', '.join(model.tasks)}" if model.tasks else "about no task: none is named"
    with_key = ", with a key" if model.key else ""
    return f"{model.model} at {model.url}{with_key}, {tasks}; {f'at most {cap_text}' if cap_text else 'without a cap'}"


def _print_result(prepared: PreparedEnrolment, completed: CompletedEnrolment) -> None:
    console = out()
    console.print(f"This machine is site {completed.record.site} now: {prepared.request.paths.site_yaml}")
    if completed.record.secrecy == "encrypted":
        console.print("The uplink's credentials are encrypted to this machine.")
    if paths := plain_credentials(completed.record.files):
        credentials = f"{counted(len(paths), 'credential')} of the uplink"
        _warn(
            f"systemd-creds did not encrypt {credentials}, stored unencrypted and readable by root only:"
            f" {', '.join(paths)}"
        )
    if previous_site := completed.previous_site:
        console.print(f"The data of the previous site is in {previous_site.state} and {previous_site.outbox}.")
        if previous_site.segments:
            segments = counted(previous_site.segments, "segment")
            console.print(f"Sealed, without a receipt of the central team: {segments}.")
            console.print(f"Copy what is in {previous_site.outbox} to a USB drive, and bring it to them.")
    for drop_in in prepared.drop_ins:
        console.print(f"{'Wrote' if drop_in.content else 'Removed'} {drop_in.path}", soft_wrap=True)
    listens, request = unit_drop_ins.listens_on_network(prepared.config), prepared.request
    if listens and not unit_drop_ins.allowed_networks(prepared.config, request.paths.units, (), request.networks):
        _warn("no network is attached, so no client device can connect: 'sudo edge-agent drop-ins --allow NETWORK'")
    console.print("Delete the enrolment file from the medium that carried it: it holds secrets.")
