"""Which daemon a command talks to: the options that stand before the command, and the sockets they lead to."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from edge_agent.cli.configured import given_options
from edge_agent.client import AdminClient, Client, Retry, ReviewClient, Tls
from edge_agent.config import Config, Files, Overrides, Role, load, read_files
from edge_agent.config.remote import Remote
from edge_agent.config.remote import load as load_remote

_C = TypeVar("_C", Client, AdminClient, ReviewClient)
_SOCKETS: dict[Role, Callable[[Config], Path]] = {
    "infer": lambda config: config.inference_socket,
    "feedback": lambda config: config.review_socket,
    "admin": lambda config: config.admin_socket,
}


@dataclass(frozen=True)
class Site:
    """The global options. Reads the configuration when it is asked for."""

    config_path: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)
    remote_path: Path | None = None

    def config(self) -> Config:
        """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
        return load(self.config_path, self.overrides)

    def files(self) -> Files:
        """Read the files of the configuration as they are. Raises ConfigInvalid."""
        return read_files(self.config_path)

    def client(self, target: str = "", retry: Retry | None = None) -> Client:
        """Return a client of the inference socket, or of another address."""
        kind = functools.partial(Client, retry=retry)
        if target:
            return _checked(kind, "--target", target)
        return self._open(kind, "infer")

    def admin(self) -> AdminClient:
        """Return a client of the admin socket, or of the daemon over the network."""
        return self._open(AdminClient, "admin")

    def reviewer(self) -> ReviewClient:
        """Return a client of the review socket, or of the daemon over the network."""
        return self._open(ReviewClient, "feedback")

    def way(self, role: Role) -> tuple[str, Tls | None]:
        """Return where the daemon is for a role, and what is shown there. Raises ConfigInvalid, CertificateUnusable."""
        remote = load_remote(self.remote_path)
        if remote is None:
            return f"unix:{_SOCKETS[role](self.config()).absolute()}", None
        return remote.address, _tls(remote) if remote.has_tls else None

    def _open(self, kind: Callable[[str, Tls | None], _C], role: Role) -> _C:
        return _checked(kind, "--remote", *self.way(role))


def _tls(remote: Remote) -> Tls:
    """Return the files, read once here: gRPC tells nobody that a key belongs to another certificate."""
    # Only a daemon over the network is shown certificates.
    from edge_agent.formats.certificate_files import certificates, check_pair  # noqa: PLC0415

    check_pair(Path(remote.certificate).read_bytes(), Path(remote.key).read_bytes(), remote.certificate)
    certificates(Path(remote.ca).read_bytes(), remote.ca)
    return Tls(remote.ca, remote.certificate, remote.key, remote.server_name)


def _checked(kind: Callable[[str, Tls | None], _C], option: str, address: str, tls: Tls | None = None) -> _C:
    try:
        return kind(address, tls)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def site_of(ctx: typer.Context) -> Site:
    """Return what the global options say."""
    given = given_options(ctx)
    return Site(given.config, Overrides(given.state_dir, given.run_dir), given.remote)


Target = Annotated[
    str,
    typer.Option("--target", metavar="ADDRESS", help="Another daemon: unix:/path/to/inference.sock or host:port."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Name of the task; 'edge-agent status' lists them.")]
