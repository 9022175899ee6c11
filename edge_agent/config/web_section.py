"""The section `web` of agent.yaml: the console in a browser, which `edge-agent serve web` serves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from edge_agent.config import addresses
from edge_agent.config.sections import ConfigSection, Role, Seconds
from edge_agent.errors import ConfigInvalid

TOKEN_NAME = "web-token"  # noqa: S105 - the name of a file


class WebConfig(ConfigSection):
    """The console and the HTTP gateway, which 'edge-agent serve web' serves; without it nothing of this listens."""

    address: str = Field(
        default="127.0.0.1:8390",
        description="Listen there, e.g. 0.0.0.0:9443; what others than this machine reach needs the three files below.",
    )
    names: tuple[str, ...] = Field(
        default=(),
        max_length=20,
        description="Names by which browsers reach it, e.g. [till-3.shop, 'localhost:8391'], beside 'address' and those"
        " in its certificate.",
    )
    roles: tuple[Role, ...] = Field(
        default=("infer", "feedback", "admin"),
        description="Sockets of the daemon that it uses, by their role: infer = tasks and /v1, feedback = reviews,"
        " admin = health and charts.",
    )
    remote_file: str = Field(
        default="", description="The remote.yaml of a daemon over the network; empty = the sockets below run_dir."
    )
    token_file: str = Field(
        default="",
        description="Secret that lets browsers of this machine in; made where it is not there. Empty ="
        " edge-agent/web-token in the state directory of the user who starts it.",
    )
    certificate_file: str = Field(
        default="", description="Its certificate and what it was issued by, PEM. With it the next two are needed."
    )
    key_file: str = Field(default="", description="Its private key, PEM.")
    client_ca_file: str = Field(
        default="", description="Who may issue certificates of visitors, PEM; 'roles' under 'access' counts here, too."
    )
    session_seconds_max: Seconds = Field(
        default=43_200, description="How long a browser is known after it has shown the token, in seconds."
    )
    connections_max: int = Field(
        default=64, ge=1, le=10_000, description="Connections of browsers; one more gets 'try again later'."
    )
    body_bytes_max: int = Field(default=4 * 2**20, ge=1024, le=2**30, description="Largest request, in bytes.")
    request_seconds_max: Seconds = Field(
        default=30,
        description="Longest time until an answer begins, in seconds, the request's own way included; under /v1 that"
        " way alone.",
    )
    silent_seconds_max: Seconds = Field(
        default=20, description="Longest wait for a request on an open connection, in seconds; then it is closed."
    )

    @property
    def has_tls(self) -> bool:
        """Visitors come with certificates."""
        return bool(self.certificate_file)


def check_web(web: WebConfig, source: str) -> None:
    """Let others than this machine in with certificates alone. Raises ConfigInvalid."""
    try:
        host, _ = addresses.split_host_port(web.address)
    except ValueError as error:
        raise ConfigInvalid(f"{source}: web.address: {error}", remedy="Correct it, or leave it out.") from None
    given = {key: getattr(web, key) for key in ("certificate_file", "key_file", "client_ca_file")}
    missing = [f"web.{key}" for key, path in given.items() if not path]
    if missing and len(missing) < len(given):
        raise ConfigInvalid(f"{source}: TLS of the console needs {' and '.join(missing)} as well", remedy=_CERTS)
    if missing and not addresses.is_loopback(host):
        raise ConfigInvalid(
            f"{source}: web.address is {web.address}, which others than this machine may reach", remedy=_CERTS
        )


_CERTS = (
    "Name the three files that 'sudo edge-agent certs init' makes, or choose 127.0.0.1: a token must not cross a"
    " network."
)


def token_path(web: WebConfig, environ: Mapping[str, str] = os.environ) -> Path:
    """Return where the token lies."""
    if web.token_file:
        return Path(web.token_file)
    home = environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - by the user, too
    return Path(home) / "edge-agent" / TOKEN_NAME
