"""`edge-agent certs`: a small certificate authority, for sites that have none, and the one folder where it is."""

from __future__ import annotations

import ipaddress
import os
import pwd
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
import yaml
from rich.text import Text

from edge_agent import certificate_authority
from edge_agent.certificate_authority import CertificateKeyPair
from edge_agent.cli.config import (
    SYSTEM,
    UNITS,
    Networks,
    needed_drop_ins,
    print_in_place,
    show_drop_ins,
    write_and_reload,
)
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import AsJson, YesOption, err, out, print_json
from edge_agent.config import Config, Role, ServiceConfig, config_files, config_paths
from edge_agent.config.config_files import REMOTE_FILE, render_remote
from edge_agent.config.folder_access import is_hidden_from_services
from edge_agent.config.sections import join_host_port
from edge_agent.doctor.machine_checks import EARLIEST
from edge_agent.durable.atomic_files import make_folders, read_small, stat_or_none, write_durably
from edge_agent.enrolment import unit_drop_ins
from edge_agent.errors import CertificateUnusable, ConfigInvalid
from edge_agent.formats.certificates import ROLE_URI, Certificate, parse_certificates

FOLDER = "tls"
CERTIFICATE = "ca.crt"
OLD_FOLDER = Path("edge-agent-tls")
"""Where version 0.1 created it, below the working directory."""


@dataclass(frozen=True)
class AuthorityFolder:
    """The folder of an authority."""

    path: Path
    note: str = ""
    """A sentence about the choice, for the person at the terminal."""


def find_authority(config_path: Path | None, environ: Mapping[str, str] = os.environ) -> AuthorityFolder | None:
    """Return the folder of this site's authority; None = there is none.

    The first of these that contains one: the folder of `access.client_ca_file`; `tls` beside agent.yaml; edge-agent/tls
    in the user's data directory; ./edge-agent-tls of version 0.1.
    """
    ca_file, default_folder = _configured_authority(config_path), _default_folder(config_path)
    for folder in filter(None, (ca_file and ca_file.parent, default_folder, _data_folder(environ))):
        if _exists(folder / CERTIFICATE):
            return AuthorityFolder(folder)
    if not _exists(OLD_FOLDER / CERTIFICATE):
        return None
    old = OLD_FOLDER.absolute()
    move = f"'sudo mv {old} {default_folder}' lets every command find it"
    return AuthorityFolder(old, f"Version 0.1 made this authority here: {old}. {move}; agent.yaml may name it, too.")


def find_foreign_authority(config_path: Path | None) -> Path | None:
    """Return the file of `access.client_ca_file` if another authority issues the certificates of this site."""
    ca_file = _configured_authority(config_path)
    return ca_file if ca_file and ca_file.name != CERTIFICATE and _exists(ca_file) else None


def place_new_authority(config_path: Path | None, environ: Mapping[str, str] = os.environ) -> AuthorityFolder:
    """Return where a new authority belongs.

    Raises:
        CertificateUnusable: this user cannot make one beside agent.yaml.
    """
    default_folder = _default_folder(config_path)
    if os.geteuid() == 0 or os.access(default_folder.parent, os.W_OK, effective_ids=True):
        return AuthorityFolder(default_folder)
    if default_folder.parent.exists():
        raise CertificateUnusable(
            f"this user may not write to {default_folder.parent}",
            remedy="Run the command with sudo. For a daemon of your own, name a folder of yours: --dir DIR.",
        )
    place = "in your data directory, for a daemon that you start yourself"
    note = f"{default_folder.parent} does not exist, so this is {place}."
    return AuthorityFolder(_data_folder(environ), note)


def _default_folder(config_path: Path | None) -> Path:
    return config_paths(config_path)[0].absolute().parent / FOLDER


def _data_folder(environ: Mapping[str, str]) -> Path:
    return (
        Path(environ.get("XDG_DATA_HOME") or Path(environ.get("HOME") or "/") / ".local/share") / "edge-agent" / FOLDER
    )


def _configured_authority(config_path: Path | None) -> Path | None:
    """Return the authority that the configuration names, also where the rest of the configuration is not valid."""
    try:
        settings = config_files.read(config_paths(config_path)[0], optional=True).merged()
    except ConfigInvalid:
        return None
    access: Any = settings.get("access")
    path = access.get("client_ca_file") if isinstance(access, dict) else None
    return Path(path) if isinstance(path, str) and path else None


def _exists(path: Path) -> bool:
    """Return whether a file exists; in a folder that this user may not enter, it is assumed to."""
    try:
        return stat_or_none(path) is not None
    except PermissionError:
        return True


ROLES = get_args(Role)
DAEMON_USER = "edge-agent"
PORT = 9443
app = typer.Typer(no_args_is_help=True, help="Make and show certificates for TCP, for sites without an authority.")

_CLIENT_FILES = {
    "client.crt": "its certificate",
    "client.key": "its key, for the client alone",
    "ca.crt": "by which the client verifies the server",
    REMOTE_FILE: "the address, for edge-agent's own commands: check it",
}
Dir = Annotated[
    Path | None,
    typer.Option(
        "--dir",
        metavar="DIR",
        help="The folder of the authority; without it the one of this site, /etc/edge-agent/tls.",
    ),
]
AuthorityKey = Annotated[
    Path | None,
    typer.Option(
        "--ca-key", metavar="FILE", help="The authority's key, if it is not in that folder but on a USB drive."
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option("--name", metavar="NAME", help="Host name or IP address that clients use; can be repeated."),
]
Days = Annotated[int, typer.Option(min=1, max=3650, help="Validity in days.")]
RenewClient = Annotated[
    bool,
    typer.Option(
        "--renew", help="Replace the certificate; bring the folder to the client again, and restart its program."
    ),
]
RenewServer = Annotated[
    bool, typer.Option("--renew", help="Replace the certificate; the daemon reads it without a restart.")
]


@app.command()
def init(
    ctx: typer.Context,
    names: Names = None,
    days: Days = certificate_authority.SERVER_DAYS,
    directory: Dir = None,
    new_authority: Annotated[
        bool, typer.Option("--new-authority", help="Make a second authority; all clients then need new certificates.")
    ] = False,
    allow: Networks = None,
    yes: YesOption = False,
) -> None:
    """Make the site's authority and the server's certificate; let clients through to the daemon; print the next steps.

    The files are in /etc/edge-agent/tls, where the other 'certs' commands and the daemon find them. Where systemd runs
    the daemon, its unit lets no other machine in: the command shows the drop-in that does, and asks before writing it.

    Example: [bold]sudo edge-agent certs init --name shop.example[/bold]
    """
    now = time.time()
    _require_clock(now)
    host_names = names or [socket.gethostname().lower(), "localhost", "127.0.0.1"]
    if not new_authority:
        _refuse_second_authority(ctx)
    authority = AuthorityFolder(directory) if directory else place_new_authority(target_of(ctx).config_path)
    folder = authority.path.absolute()
    _refuse_existing(folder)
    root = certificate_authority.make_authority(f"Edge Agent authority of {host_names[0]}", now)
    server = certificate_authority.issue_server_certificate(root, host_names, now, days)
    _make_folder(folder, 0o755)
    certificate_authority.write_pair(root, folder / "ca.crt", folder / "ca.key")
    _write_server(server, folder)
    _print(*([authority.note] if authority.note else []), f"Made in {folder}, for {', '.join(host_names)}:", "")
    _print_file("ca.crt", f"the authority, {_expiry_text(root)}; every client needs a copy")
    _print_file("ca.key", "its key, which can admit any client. Move it to a USB drive when you are done")
    _print_file("server.crt", f"the server's certificate, {_expiry_text(server)}")
    _print_file("server.key", "its key, for the daemon")
    _print("", "Write this into agent.yaml, once; the daemon reads later certificates without a restart:", "")
    _print_config_lines(folder)
    _print("")
    _open_listener(ctx, folder, allow or [], yes=yes)
    _print("Then give each client a certificate:", "")
    sudo = "sudo " if folder.is_relative_to(SYSTEM) else ""
    _print(f"  {sudo}edge-agent certs issue till-3 --role infer{_dir_option(ctx, folder)}")


@app.command()
def issue(
    ctx: typer.Context,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client, as in till-3.")],
    roles: Annotated[list[str], typer.Option("--role", help="Permission: infer, feedback or admin; once or more.")],
    days: Days = certificate_authority.CLIENT_DAYS,
    directory: Dir = None,
    ca_key: AuthorityKey = None,
    renew: RenewClient = False,
) -> None:
    """Issue a certificate to a client, as a folder to bring to it.

    Example: [bold]sudo edge-agent certs issue till-3 --role infer[/bold]
    """
    client_roles = list(dict.fromkeys(roles))
    if set(client_roles) - set(ROLES):
        raise typer.BadParameter(f"a role is one of {', '.join(ROLES)}", param_hint="--role")
    authority_folder = _authority_folder(ctx, directory)
    now = time.time()
    root = certificate_authority.load_authority(authority_folder / "ca.crt", ca_key or authority_folder / "ca.key", now)
    pair = certificate_authority.issue_client_certificate(root, client, client_roles, now, days)
    folder = authority_folder / "clients" / client
    _make_folder(folder, 0o700)
    certificate_authority.write_pair(pair, folder / "client.crt", folder / "client.key", replace=renew)
    write_durably(folder / "ca.crt", root.certificate, 0o644)
    server_name = "" if (folder / REMOTE_FILE).exists() else next(iter(_host_names(authority_folder)), "HOST")
    if server_name:
        write_durably(folder / REMOTE_FILE, render_remote(join_host_port(server_name, PORT)).encode(), 0o644)
    _print(f"{client} may {' and '.join(client_roles)}, {_expiry_text(pair)}. Bring this folder there:", "")
    _print(f"  {folder.absolute()}")
    for name, meaning in _CLIENT_FILES.items():
        _print_file(name, meaning)
    if server_name and not _is_ip_address(server_name):
        fallback = f"Where it cannot, write an IP address that the server's certificate names into {REMOTE_FILE}."
        _print("", f"{client} must resolve the name {server_name}. {fallback}")
    _print("", "There:", "", f"  edge-agent --remote {client}/{REMOTE_FILE} {_sample_command(client_roles)}")


@app.command()
def server(
    ctx: typer.Context,
    names: Names = None,
    days: Days = certificate_authority.SERVER_DAYS,
    directory: Dir = None,
    ca_key: AuthorityKey = None,
    renew: RenewServer = False,
) -> None:
    """Issue the server's certificate again, for the same names or others.

    Example: [bold]sudo edge-agent certs server --renew[/bold]
    """
    authority_folder = _authority_folder(ctx, directory)
    now = time.time()
    root = certificate_authority.load_authority(authority_folder / "ca.crt", ca_key or authority_folder / "ca.key", now)
    host_names = names or _host_names(authority_folder)
    if not host_names:
        raise typer.BadParameter("name the host name or IP address that clients use", param_hint="--name")
    pair = certificate_authority.issue_server_certificate(root, host_names, now, days)
    _write_server(pair, authority_folder, replace=renew)
    path = (authority_folder / "server.crt").absolute()
    _print(f"The server's certificate is for {', '.join(host_names)}, {_expiry_text(pair)}: {path}")
    _print("A daemon that uses these files reads it at the next connection; 'edge-agent status' reports a failure.")


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Certificates in PEM.")], as_json: AsJson = False
) -> None:
    """Show a certificate: its name, its roles, its validity.

    Example: [bold]edge-agent certs show till-3.crt[/bold]
    """
    try:
        pem = read_small(file)
    except OSError as error:
        raise CertificateUnusable(f"cannot read {file}: {error.strerror}", remedy="Check the path.") from None
    certificates = parse_certificates(pem, str(file))
    if as_json:
        print_json([_certificate_document(certificate) for certificate in certificates], indent=2)
        return
    for certificate in certificates:
        _print_certificate(certificate)


def _is_ip_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _host_names(folder: Path) -> list[str]:
    """Return the names in the server's certificate; none if it does not exist."""
    path = folder / "server.crt"
    return list(parse_certificates(read_small(path), str(path))[0].names) if path.exists() else []


def _authority_folder(ctx: typer.Context, directory: Path | None) -> Path:
    """Return the folder of the authority: the one that is named, or this site's. Raises CertificateUnusable."""
    if directory:
        return directory
    authority = find_authority(target_of(ctx).config_path)
    if authority is None:
        if foreign := find_foreign_authority(target_of(ctx).config_path):
            raise CertificateUnusable(
                f"another authority issues the certificates of this site: {foreign}",
                remedy="Let that authority issue this certificate, too. After an enrolment it is the central team's.",
            )
        raise CertificateUnusable(
            "this site has no authority of its own",
            remedy="'sudo edge-agent certs init --name HOST' makes one; '--dir DIR' names the folder of one elsewhere.",
        )
    if authority.note:
        err().print(f"note: {authority.note}", soft_wrap=True)
    return authority.path


def _require_clock(now: float) -> None:
    """Raise CertificateUnusable where the clock is wrong for certain: all certificates would end when it is set."""
    if now < EARLIEST:
        raise CertificateUnusable(
            f"this machine's clock shows {_day(now)}, which is before this program was made; nothing was written",
            remedy="Set the clock ('timedatectl'), and run the command again: the dates of certificates follow it.",
        )


def _refuse_second_authority(ctx: typer.Context) -> None:
    """Raise CertificateUnusable if this site has an authority."""
    authority = find_authority(target_of(ctx).config_path)
    existing = authority.path / CERTIFICATE if authority else find_foreign_authority(target_of(ctx).config_path)
    if existing is None:
        return
    use = (
        "'sudo edge-agent certs issue CLIENT --role infer' and 'certs server --renew' use it."
        if authority
        else "Certificates for this site come from that authority; with an enrolment file it is the central team's."
    )
    raise CertificateUnusable(
        f"this site has an authority already: {existing}; nothing was written",
        remedy=f"{use} Only to replace it and the certificates of all clients, add --new-authority and a new --dir.",
    )


def _refuse_existing(directory: Path) -> None:
    existing = [name for name in ("ca.crt", "ca.key", "server.crt", "server.key") if os.path.lexists(directory / name)]
    if existing:
        raise CertificateUnusable(
            f"{directory} has {', '.join(existing)} already; nothing was written",
            remedy="'sudo edge-agent certs server --renew' renews the server's certificate; a second authority needs"
            " another folder: --new-authority --dir DIR.",
        )


def _make_folder(folder: Path, mode: int) -> None:
    try:
        make_folders(folder, mode)
    except PermissionError as error:
        message = f"this user may not make {error.filename}"
        raise CertificateUnusable(message, remedy="Run the command with sudo.") from None
    except OSError as error:
        raise CertificateUnusable(f"cannot make {folder}: {error.strerror}", remedy="Name another --dir.") from None


def _open_listener(ctx: typer.Context, folder: Path, allow: list[str], *, yes: bool) -> None:
    """Open the daemon's unit for clients: under systemd it accepts connections from this machine only."""
    if not (SYSTEM / UNITS / unit_drop_ins.DAEMON_UNIT).exists() or target_of(ctx).config_path is not None:
        _print("Then start the daemon again.", "")
        return
    if is_hidden_from_services(folder):
        _print(f"The service cannot see {folder}: move the files to /etc/edge-agent/tls.", "")
    listening = Config(service=ServiceConfig(tcp_address=f"0.0.0.0:{PORT}"))
    try:
        drop_ins = needed_drop_ins(listening, SYSTEM, allow)[:1]
    except ConfigInvalid as error:
        _print(f"The unit of the daemon accepts connections from this machine only. {error.remedy}", "")
        return
    missing = [drop_in for drop_in in drop_ins if not drop_in.is_in_place()]
    if not missing:
        print_in_place(drop_ins)
    else:
        _print("The unit of the daemon accepts connections from this machine only. This lets the network in:", "")
        show_drop_ins(missing)
        if yes or (sys.stdin.isatty() and typer.confirm("Write this?", err=True)):
            write_and_reload(missing, SYSTEM)
        else:
            _print("", "Once agent.yaml has the lines above, 'sudo edge-agent drop-ins' writes it.")
    _print("Then: sudo systemctl restart edge-agent", "")


def _write_server(pair: CertificateKeyPair, directory: Path, *, replace: bool = False) -> None:
    key = directory / "server.key"
    certificate_authority.write_pair(pair, directory / "server.crt", key, replace=replace)
    if os.geteuid() == 0 and DAEMON_USER in {user.pw_name for user in pwd.getpwall()}:
        user = pwd.getpwnam(DAEMON_USER)
        os.chown(key, user.pw_uid, user.pw_gid)


def _print_certificate(certificate: Certificate) -> None:
    now = time.time()
    kind = "authority" if certificate.is_authority else "certificate"
    _print(f"{kind} of {certificate.name or 'nobody in particular'}")
    state = "from" if now < certificate.starts_at else "ended" if now >= certificate.expires_at else "until"
    style = "green" if state == "until" else "bold red"
    at = certificate.starts_at if state == "from" else certificate.expires_at
    out().print(Text.assemble("  valid     ", (f"{state} {_day(at)}", style)))
    for label, values in _certificate_values(certificate).items():
        if values:
            _print(f"  {label:<9} {', '.join(values)}")


def _certificate_document(certificate: Certificate) -> dict[str, Any]:
    return {
        "name": certificate.name,
        "is_authority": certificate.is_authority,
        "starts_at": datetime.fromtimestamp(certificate.starts_at, UTC).isoformat(),
        "expires_at": datetime.fromtimestamp(certificate.expires_at, UTC).isoformat(),
        **_certificate_values(certificate),
    }


def _certificate_values(certificate: Certificate) -> dict[str, list[str]]:
    return {
        "roles": [name.removeprefix(ROLE_URI) for name in certificate.uris if name.startswith(ROLE_URI)],
        "names": [name for name in certificate.names if not name.startswith(ROLE_URI)],
        "sha256": [certificate.fingerprint],
    }


def _print_config_lines(folder: Path) -> None:
    settings = {
        "service": {"tcp_address": f"0.0.0.0:{PORT}"},
        "access": {
            "certificate_file": str(folder / "server.crt"),
            "key_file": str(folder / "server.key"),
            "client_ca_file": str(folder / "ca.crt"),
        },
    }
    # Without indentation, because indented lines would belong to the section above.
    _print(*yaml.safe_dump(settings, sort_keys=False).splitlines())


def _sample_command(roles: list[str]) -> str:
    return "status" if "admin" in roles else "review" if roles == ["feedback"] else "classify TASK 'some text'"


def _dir_option(ctx: typer.Context, folder: Path) -> str:
    authority = find_authority(target_of(ctx).config_path)
    return "" if authority and authority.path == folder else f" --dir {folder}"


def _expiry_text(pair: CertificateKeyPair) -> str:
    return f"until {_day(parse_certificates(pair.certificate, 'it')[0].expires_at)}"


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d}"


def _print_file(name: str, meaning: str) -> None:
    _print(f"  {name:<11} {meaning}")


def _print(*lines: str) -> None:
    for line in lines:
        out().print(line, soft_wrap=True)
