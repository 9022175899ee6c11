"""Which daemon a command calls: from the global options to the sockets, or to an address on the network."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from edge_agent import client
from edge_agent.cli.command_group import global_options
from edge_agent.config import Config, ConfigFiles, Overrides, Role, load, read_files
from edge_agent.config.config_files import RemoteDaemonConfig, load_remote
from edge_agent.durable.atomic_files import read_small

if TYPE_CHECKING:
    from edge_agent.client import AdminClient, Client, Retry, ReviewClient, Tls

# Using a name of the client package imports its module, so the clients of other sockets are not loaded.
_C = TypeVar("_C", "Client", "AdminClient", "ReviewClient")
_SOCKETS: dict[Role, Callable[[Config], Path]] = {
    "infer": lambda config: config.inference_socket,
    "feedback": lambda config: config.review_socket,
    "admin": lambda config: config.admin_socket,
}
TargetOption = Annotated[
    str, typer.Option("--target", metavar="ADDRESS", help="Another daemon: unix:SOCKET or HOST:PORT.")
]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Name of the task; 'edge-agent status' lists them.")]


@dataclass(frozen=True)
class DaemonTarget:
    """The daemon that the global options name. Reads the configuration when a client or a setting is requested."""

    config_path: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)
    remote_path: Path | None = None

    def config(self) -> Config:
        """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
        return load(self.config_path, self.overrides)

    def files(self) -> ConfigFiles:
        """Read the files of the configuration as they are. Raises ConfigInvalid."""
        return read_files(self.config_path)

    def client(self, address: str = "", retry: Retry | None = None) -> Client:
        """Return a client of the inference socket, or of another address."""
        client_class = functools.partial(client.Client, retry=retry)
        if address:
            return _open_client(client_class, "--target", address)
        return _open_client(client_class, "--remote", *self.endpoint("infer"))

    def admin(self) -> AdminClient:
        """Return a client of the admin socket, or of the daemon over the network."""
        return _open_client(client.AdminClient, "--remote", *self.endpoint("admin"))

    def reviewer(self) -> ReviewClient:
        """Return a client of the review socket, or of the daemon over the network."""
        return _open_client(client.ReviewClient, "--remote", *self.endpoint("feedback"))

    def endpoint(self, role: Role) -> tuple[str, Tls | None]:
        """Return the address for a role, and the client's TLS files. Raises ConfigInvalid, CertificateUnusable."""
        remote = load_remote(self.remote_path)
        if remote is None:
            return f"unix:{_SOCKETS[role](self.config()).absolute()}", None
        return remote.address, _read_tls(remote) if remote.has_tls else None


def target_of(ctx: typer.Context) -> DaemonTarget:
    """Return the daemon that the global options name."""
    options = global_options(ctx)
    return DaemonTarget(options.config, Overrides(options.state_dir, options.run_dir), options.remote)


def _read_tls(remote: RemoteDaemonConfig) -> Tls:
    """Check the files here, once: gRPC does not report a key that belongs to another certificate."""
    # Only a daemon over the network is shown certificates.
    from edge_agent.formats.certificates import check_key_matches, parse_certificates  # noqa: PLC0415

    certificate_pem = read_small(Path(remote.certificate))
    check_key_matches(certificate_pem, read_small(Path(remote.key)), remote.certificate)
    parse_certificates(read_small(Path(remote.ca)), remote.ca)
    certificate = parse_certificates(certificate_pem, remote.certificate)[0]
    doubt = _validity_doubt(certificate.starts_at, certificate.expires_at, time.time())
    return client.Tls(remote.ca, remote.certificate, remote.key, remote.server_name, doubt)


def _validity_doubt(starts_at: float, expires_at: float, now: float) -> str:
    """Return what this machine's clock says against a certificate; the server may have another clock."""
    if starts_at <= now <= expires_at:
        return ""
    verb, at = ("is not valid before", starts_at) if now < starts_at else ("expired on", expires_at)
    return f"{verb} {datetime.fromtimestamp(at, UTC):%Y-%m-%d} (here it is {datetime.fromtimestamp(now, UTC):%Y-%m-%d})"


def _open_client(
    client_class: Callable[[str, Tls | None], _C], option: str, address: str, tls: Tls | None = None
) -> _C:
    try:
        return client_class(address, tls)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None
