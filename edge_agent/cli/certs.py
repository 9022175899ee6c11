"""`edge-agent certs`: a small certificate authority, for sites that have none."""

from __future__ import annotations

import os
import pwd
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from rich.text import Text

from edge_agent import certificate_authority
from edge_agent.certificate_authority import CertificateKeyPair
from edge_agent.cli.output import AsJson, out, print_json
from edge_agent.config import Role
from edge_agent.config.remote import FILE_NAME, render_remote
from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import CertificateUnusable
from edge_agent.formats.certificate_fields import ROLE_URI, Certificate
from edge_agent.formats.certificate_files import parse_certificates

ROLES = get_args(Role)
DAEMON_USER = "edge-agent"
PORT = 9443
DEFAULT_DIR = Path("edge-agent-tls")
app = typer.Typer(no_args_is_help=True, help="Make and show certificates for TCP, for sites without an authority.")

_CLIENT_FILES = {
    "client.crt": "its certificate",
    "client.key": "its key, for the client alone",
    "ca.crt": "by which the client verifies the server",
    FILE_NAME: "the address, for edge-agent's own commands: check it",
}
Dir = Annotated[Path, typer.Option("--dir", metavar="DIR", help="The folder of the authority and its certificates.")]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name", metavar="NAME", help="Host name or IP address that clients use; may be given several times."
    ),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")]
Renew = Annotated[bool, typer.Option("--renew", help="Replace the certificate; the daemon reads it without a restart.")]


@app.command()
def init(directory: Dir = DEFAULT_DIR, names: Names = None, days: Days = certificate_authority.SERVER_DAYS) -> None:
    """Make the site's authority and the server's certificate, and print the lines for agent.yaml.

    Example: [bold]sudo edge-agent certs init --dir /etc/edge-agent/tls --name shop.example[/bold]
    """
    now = time.time()
    named = names or [socket.gethostname().lower(), "localhost", "127.0.0.1"]
    root = certificate_authority.make_authority(f"Edge Agent authority of {named[0]}", now)
    server = certificate_authority.issue_server_certificate(root, named, now, days)
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    _refuse_existing(directory)
    certificate_authority.write_pair(root, directory / "ca.crt", directory / "ca.key")
    _write_server(server, directory)
    folder = directory.absolute()
    _say(f"Made in {folder}, for {', '.join(named)}:", "")
    _say_file("ca.crt", f"the authority, {_until(root)}; every client needs a copy")
    _say_file("ca.key", "its key, which can admit any client. Move it to a USB drive when you are done")
    _say_file("server.crt", f"the server's certificate, {_until(server)}")
    _say_file("server.key", "its key, for the daemon")
    _say("", "Write this into agent.yaml and restart the daemon, once; it reads later certificates by itself:", "")
    _say_config(folder)
    _say("", "Then give each client a certificate:", "")
    _say(f"  edge-agent certs issue till-3 --role infer{_dir_option(directory)}")


@app.command()
def issue(
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client, as in till-3.")],
    roles: Annotated[list[str], typer.Option("--role", help="Permission: infer, feedback or admin; once or more.")],
    days: Days = certificate_authority.CLIENT_DAYS,
    directory: Dir = DEFAULT_DIR,
    renew: Renew = False,
) -> None:
    """Issue a certificate to a client, as a folder to carry there.

    Example: [bold]edge-agent certs issue till-3 --role infer --dir /etc/edge-agent/tls[/bold]
    """
    granted = list(dict.fromkeys(roles))
    if set(granted) - set(ROLES):
        raise typer.BadParameter(f"a role is one of {', '.join(ROLES)}", param_hint="--role")
    root = certificate_authority.load_authority(directory / "ca.crt", directory / "ca.key")
    made = certificate_authority.issue_client_certificate(root, client, granted, time.time(), days)
    folder = directory / "clients" / client
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    certificate_authority.write_pair(made, folder / "client.crt", folder / "client.key", replace=renew)
    write_durably(folder / "ca.crt", root.certificate, 0o644)
    if not (folder / FILE_NAME).exists():
        write_durably(folder / FILE_NAME, render_remote(f"{_reached_by(directory)}:{PORT}").encode(), 0o644)
    _say(f"{client} may {' and '.join(granted)}, {_until(made)}. Bring this folder there:", "")
    _say(f"  {folder.absolute()}")
    for name, said in _CLIENT_FILES.items():
        _say_file(name, said)
    _say("", "There:", "", f"  edge-agent --remote {client}/{FILE_NAME} {_try(granted)}")


@app.command()
def server(
    names: Names = None,
    days: Days = certificate_authority.SERVER_DAYS,
    directory: Dir = DEFAULT_DIR,
    renew: Renew = False,
) -> None:
    """Issue the server's certificate again, for the same names or others.

    Example: [bold]edge-agent certs server --renew --dir /etc/edge-agent/tls[/bold]
    """
    root = certificate_authority.load_authority(directory / "ca.crt", directory / "ca.key")
    before = directory / "server.crt"
    named = names or (_names(before) if before.exists() else [])
    if not named:
        raise typer.BadParameter("name the host name or IP address that clients use", param_hint="--name")
    made = certificate_authority.issue_server_certificate(root, named, time.time(), days)
    _write_server(made, directory, replace=renew)
    _say(f"The server's certificate is for {', '.join(named)}, {_until(made)}.")
    _say("A daemon that uses these files reads it at the next connection; 'edge-agent status' reports a failure.")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Certificates in PEM.")], as_json: AsJson = False
) -> None:
    """Show a certificate: its name, its roles, its validity.

    Example: [bold]edge-agent certs show till-3.crt[/bold]
    """
    try:
        pem = file.read_bytes()
    except OSError as error:
        raise CertificateUnusable(f"cannot read {file}: {error.strerror}", remedy="Check the path.") from None
    found = parse_certificates(pem, str(file))
    if as_json:
        print_json([_as_document(each) for each in found], indent=2)
        return
    for each in found:
        _show(each)


def _reached_by(directory: Path) -> str:
    path = directory / "server.crt"
    return next(iter(_names(path)), "HOST") if path.exists() else "HOST"


def _names(path: Path) -> list[str]:
    return list(parse_certificates(path.read_bytes(), str(path))[0].names)


def _refuse_existing(directory: Path) -> None:
    there = [name for name in ("ca.crt", "ca.key", "server.crt", "server.key") if os.path.lexists(directory / name)]
    if there:
        raise CertificateUnusable(
            f"{directory} has {', '.join(there)} already",
            remedy="Nothing was written. 'edge-agent certs server --renew' renews the server's certificate;"
            " another authority needs another --dir.",
        )


def _write_server(pair: CertificateKeyPair, directory: Path, *, replace: bool = False) -> None:
    key = directory / "server.key"
    certificate_authority.write_pair(pair, directory / "server.crt", key, replace=replace)
    if os.geteuid() == 0 and DAEMON_USER in {user.pw_name for user in pwd.getpwall()}:
        user = pwd.getpwnam(DAEMON_USER)
        os.chown(key, user.pw_uid, user.pw_gid)


def _show(certificate: Certificate) -> None:
    now = time.time()
    kind = "authority" if certificate.is_authority else "certificate"
    _say(f"{kind} of {certificate.name or 'nobody in particular'}")
    said = "from" if now < certificate.starts_at else "ended" if now >= certificate.expires_at else "until"
    style = "green" if said == "until" else "bold red"
    at = certificate.starts_at if said == "from" else certificate.expires_at
    out().print(Text.assemble("  valid     ", (f"{said} {_day(at)}", style)))
    for label, values in _contents(certificate).items():
        if values:
            _say(f"  {label:<9} {', '.join(values)}")


def _as_document(certificate: Certificate) -> dict[str, Any]:
    dates = {"starts_at": certificate.starts_at, "expires_at": certificate.expires_at}
    times = {name: datetime.fromtimestamp(at, UTC).isoformat() for name, at in dates.items()}
    return {"name": certificate.name, "is_authority": certificate.is_authority, **times, **_contents(certificate)}


def _contents(certificate: Certificate) -> dict[str, list[str]]:
    return {
        "roles": [name.removeprefix(ROLE_URI) for name in certificate.uris if name.startswith(ROLE_URI)],
        "names": [name for name in certificate.names if not name.startswith(ROLE_URI)],
        "sha256": [certificate.fingerprint],
    }


def _say_config(folder: Path) -> None:
    lines = {
        "service": {"tcp_address": f"0.0.0.0:{PORT}"},
        "access": {
            "certificate_file": str(folder / "server.crt"),
            "key_file": str(folder / "server.key"),
            "client_ca_file": str(folder / "ca.crt"),
        },
    }
    for line in yaml.safe_dump(lines, sort_keys=False).splitlines():
        _say(f"  {line}")


def _try(roles: list[str]) -> str:
    return "status" if "admin" in roles else "review" if roles == ["feedback"] else "classify TASK 'some text'"


def _dir_option(directory: Path) -> str:
    return "" if directory == DEFAULT_DIR else f" --dir {directory}"


def _until(pair: CertificateKeyPair) -> str:
    return f"until {_day(parse_certificates(pair.certificate, 'it')[0].expires_at)}"


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _say_file(name: str, said: str) -> None:
    _say(f"  {name:<11} {said}")


def _say(*lines: str) -> None:
    for line in lines:
        out().print(line, soft_wrap=True)
