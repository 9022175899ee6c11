"""`edge-agent enrol`."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli import identity
from edge_agent.cli.output import err, out, print_facts, print_trimmed
from edge_agent.cli.site import site_of
from edge_agent.enrolment import procedure, systemd_services
from edge_agent.enrolment.previous_site import Former
from edge_agent.enrolment.procedure import Anchor, Done, Prepared, Request
from edge_agent.enrolment.site_files import Places
from edge_agent.errors import InvalidRequest, KitRefused
from edge_agent.formats import enrolment_file
from edge_agent.formats.enrolment_file import Kit

SYSTEM = Path("/etc")
_COMPARE = "Ask the centre, by telephone, for the code of this site's kit."
_KEY_SECONDS_MAX = 20.0


@dataclass(kw_only=True)
class Command:
    """Make this box a site, by the kit that the centre made for it. Run it as root.

    Checks everything first, and changes nothing when something is wrong.
    The same kit again changes nothing; a newer one of the same site brings new settings or credentials.

    Example: [bold]sudo edge-agent enrol /media/stick/shop-12.kit[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    ctx: typer.Context
    file: Annotated[Path, typer.Argument(metavar="KIT", help="The kit, as the centre made it.")]
    code: Annotated[
        str, typer.Option(metavar="CODE", help="The kit's code, as the centre reads it out; then nobody is asked.")
    ] = ""
    passphrase_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its first line opens a sealed kit. Without it you are asked.")
    ] = None
    yes: Annotated[
        bool, typer.Option("--yes", help="Do not ask: the kit came by a way on which nobody could change it.")
    ] = False
    check: Annotated[bool, typer.Option("--check", help="Only look whether it could be done.")] = False
    replace: Annotated[
        bool, typer.Option("--replace", help="Begin anew as another site; what this one had is set aside.")
    ] = False
    restart: Annotated[
        bool, typer.Option("--restart/--no-restart", help="Restart the services under systemd, if it runs.")
    ] = True
    etc: Annotated[Path, typer.Option(metavar="DIR", help="Write below DIR; another one than /etc is for trying.")] = (
        SYSTEM
    )
    _systemd: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        """Run the command."""
        self._systemd = self.restart and self.etc == SYSTEM and systemd_services.booted()
        found, sha256, sealed = self._open()
        request = Request(
            found, sha256, Places(self.etc.absolute()), time.time(), self.replace, site_of(self.ctx).overrides
        )
        prepared = procedure.prepare(request)
        _describe(prepared)
        if prepared.kind == "same":
            out().print(f"This box is {found.site} by this very kit already; nothing was changed.")
        elif not self.check:
            self._authenticate(sha256, sealed)
            self._apply(prepared)

    def _open(self) -> tuple[Kit, str, bool]:
        raw = procedure.read(self.file)
        sealed = enrolment_file.sealed(raw)
        if sealed:
            raw = enrolment_file.unseal(raw, self._passphrase())
        return *enrolment_file.parse(raw), sealed

    def _passphrase(self) -> str:
        if self.passphrase_file is not None:
            return procedure.read(self.passphrase_file).decode(errors="replace").split("\n", 1)[0].removesuffix("\r")
        if not sys.stdin.isatty():
            said = "the kit is sealed, and nobody is there to ask for its passphrase"
            raise InvalidRequest(said, remedy="Name a file that holds it: --passphrase-file FILE.")
        typed: str = typer.prompt("Passphrase of the kit", hide_input=True, err=True)
        return typed

    def _authenticate(self, sha256: str, sealed: bool) -> None:
        """Make sure that it is the kit that the centre made: who could change it would be believed from now on.

        Raises:
            KitRefused: it is another one.
            InvalidRequest: nobody is there to ask.
        """
        if self.code:
            _compare(self.code, sha256)
        elif not (sealed or self.yes):
            _ask(sha256)

    def _apply(self, prepared: Prepared) -> None:
        if prepared.kind == "replacement" and self._systemd:
            systemd_services.stop()
        done = procedure.apply(prepared)
        _report(prepared, done)
        if self._systemd:
            _start(prepared)
        else:
            out().print("Next: restart the daemon and its uplink; then 'edge-agent site' shows the site's key.")


def _start(prepared: Prepared) -> None:
    given = prepared.request.kit
    for said in systemd_services.restart(uplink=bool(given.examples.url or given.updates.url or given.escalation)):
        _warn(said)
    identity.show_key(prepared.config, seconds_max=_KEY_SECONDS_MAX)


def _warn(said: str) -> None:
    print_trimmed(out(), Text.assemble(("warning: ", "yellow"), said))


def _compare(given: str, sha256: str) -> None:
    if not enrolment_file.is_code_of(given, sha256):
        said = f"the kit's code is {enrolment_file.code(sha256)}, not {given}; nothing was changed"
        raise KitRefused(said, remedy="Somebody may have changed it. Have the centre bring or send it again.")


def _ask(sha256: str) -> None:
    if not sys.stdin.isatty():
        said = "nobody is there to compare the kit's code with the centre"
        raise InvalidRequest(said, remedy=f"{_COMPARE} Then: --code CODE.")
    err().print(_COMPARE)
    if not typer.confirm(f"Is it {enrolment_file.code(sha256)}?", err=True):
        raise KitRefused("the code is another one; nothing was changed", remedy="Have the kit brought again.")


def _describe(prepared: Prepared) -> None:
    """Say what the kit is, without its secrets."""
    given = prepared.request.kit
    facts = {
        "kit": f"{given.site}, made {given.issued_at[:10]}, to be used until {given.expires_at[:10]}",
        "code": enrolment_file.code(prepared.request.sha256),
        "channel": given.channel,
        "examples to": _place(given.examples),
        "updates from": _place(given.updates),
        "trusts": _trusted(prepared.trust),
        "asks": _asked(given.escalation) if given.escalation else "",
        "listens by TLS": "with the kit's certificate" if given.tls.certificate else "",
        "changes": ", ".join(prepared.changes) if prepared.kind == "renewal" else "",
        "agent.yaml wins in": ", ".join(prepared.overruled),
    }
    print_facts(out(), facts)


def _trusted(trust: Anchor | None) -> str:
    if trust is None:
        return "no updates but by 'install'"
    return f"root {trust.version} of the fleet: {trust.threshold} of {trust.keys} keys, until {trust.expires:%Y-%m-%d}"


def _place(place: enrolment_file.Place) -> str:
    return f"{place.url or 'nowhere'}{', with a credential' if place.credential else ''}"


def _asked(large: enrolment_file.LargeModel) -> str:
    """Say which large model it may ask, about what, for how much."""
    caps = ((large.day_cost_max, "a day"), (large.month_cost_max, "a month"))
    spent = " and ".join(f"{cap} {span}" for cap, span in caps if float(cap))
    about = f"about {', '.join(large.tasks)}" if large.tasks else "about no task: none is named"
    with_key = ", with a key" if large.key else ""
    return f"{large.model} at {large.url}{with_key}, {about}; {f'at most {spent}' if spent else 'without a cap'}"


def _report(prepared: Prepared, done: Done) -> None:
    console = out()
    console.print(f"This box is site {done.record.site} now: {prepared.request.places.site_yaml}")
    if done.record.secrecy == "encrypted":
        console.print("The uplink's credentials are encrypted to this machine.")
    if done.record.secrecy == "plain":
        _warn("systemd cannot encrypt here: the uplink's credentials lie in the open, readable by root only.")
    if done.former:
        _tell_of(done.former)
    console.print("Delete the kit where it was carried: it holds secrets.")


def _tell_of(former: Former) -> None:
    console = out()
    console.print(f"What this box was before lies in {former.state} and {former.outbox}.")
    if former.segments:
        console.print(f"Sealed, and not signed for by the centre yet: {former.segments} segments.")
        console.print(f"Copy what is in {former.outbox} to a stick, and bring it there.")
