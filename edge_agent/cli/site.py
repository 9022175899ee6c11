"""Which daemon a command talks to: the options that stand before the command, and the sockets they lead to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.client import AdminClient, Client, ReviewClient
from edge_agent.config import Config, Overrides, load


@dataclass(frozen=True)
class Site:
    """The global options. Reads the configuration when it is asked for."""

    config_path: Path | None = None
    overrides: Overrides = field(default_factory=Overrides)

    def config(self) -> Config:
        """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
        return load(self.config_path, self.overrides)

    def client(self, target: str = "") -> Client:
        """Return a client of the inference socket, or of another address."""
        if not target:
            return Client(f"unix:{self.config().inference_socket.absolute()}")
        try:
            return Client(target)
        except ValueError as error:
            raise typer.BadParameter(str(error), param_hint="--target") from None

    def admin(self) -> AdminClient:
        """Return a client of the admin socket."""
        return AdminClient(f"unix:{self.config().admin_socket.absolute()}")

    def reviewer(self) -> ReviewClient:
        """Return a client of the review socket."""
        return ReviewClient(f"unix:{self.config().review_socket.absolute()}")


def site_of(ctx: typer.Context) -> Site:
    """Return what the global options say."""
    found = ctx.find_object(Site)
    assert found is not None, "the root command sets it; this is a bug"
    return found


Target = Annotated[
    str,
    typer.Option("--target", metavar="ADDRESS", help="Another daemon: unix:/path/to/inference.sock or host:port."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
TaskArgument = Annotated[str, typer.Argument(metavar="TASK", help="Name of the task; 'edge-agent status' lists them.")]
