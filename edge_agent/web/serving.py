"""`edge-agent serve web`: open the ways to the daemon, listen, serve until SIGTERM or Ctrl-C, close."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp

from edge_agent.config import Role, WebConfig
from edge_agent.supervision import Component, DeathPolicy, RunWrapper, Supervisor, run_unwrapped
from edge_agent.systemd import keep_alive, notify, watchdog_seconds
from edge_agent.web import token
from edge_agent.web.app import application
from edge_agent.web.daemon import Daemon, Way
from edge_agent.web.gate import Rules
from edge_agent.web.listener import Renewed, listen, protocol, shown
from edge_agent.web.origin import hosts
from edge_agent.web.seal import Seal

STOP_SECONDS_MAX = 5
EXIT_FAILED = 1
"""systemd starts the console again (Restart=on-failure)."""


@dataclass(frozen=True)
class Settings:
    """What a console is started with."""

    config: WebConfig
    ways: Mapping[Role, Way]
    """To the daemon, by the role that is used there."""
    certified: Mapping[str, tuple[Role, ...]]
    """Roles by names in visitors' certificates, beside those that the certificates say."""
    token_path: Path


def serve(settings: Settings, told: Callable[[str], None], around: RunWrapper = run_unwrapped) -> int:
    """Serve until SIGTERM or Ctrl-C; `told` gets the address for browsers once it listens. Return the exit code.

    `around` is for the supervisor.

    Raises:
        WebTokenUnusable, CertificateUnusable, SocketInUse: it cannot begin.
    """
    config = settings.config
    tls = Renewed(config) if config.has_tls else None
    secret = token.read_or_make(settings.token_path)
    rules = Rules(
        hosts=hosts(config.address, (*config.names, *(tls.names if tls else ()))),
        seal=Seal(secret),
        certified=settings.certified if tls else None,
        body_bytes_max=config.body_bytes_max,
        request_seconds_max=config.request_seconds_max,
    )
    with contextlib.closing(listen(config.address)) as sock:
        told(_address(config, secret))
        return EXIT_FAILED if asyncio.run(_serve(settings, rules, (tls, sock), around)) else 0


async def _serve(
    settings: Settings, rules: Rules, listening: tuple[Renewed | None, socket.socket], around: RunWrapper
) -> str:
    """Serve; return the component whose death ended it, if one did."""
    tls, sock = listening
    async with Daemon(settings.ways) as daemon:
        app = application(daemon, rules, settings.config.session_seconds_max)
        server = uvicorn.Server(_server(settings.config, app, tls))

        def give_up() -> None:
            server.should_exit = True

        supervisor = Supervisor(give_up, wrap=around)
        if watchdog_seconds():
            why = "without its ping systemd kills the console: better it ends in order"
            supervisor.add(Component("watchdog", lambda: keep_alive(lambda _: True), DeathPolicy.STOP, why))
        supervisor.start()
        notify("READY=1")
        try:
            await server.serve(sockets=[sock])
        finally:
            await supervisor.stop()
        notify("STOPPING=1")
        return supervisor.failed


def printed_link(config: WebConfig, token_path: Path) -> str:
    """Return the link that lets a browser in. Raises WebTokenUnusable."""
    return _address(config, token.read_or_make(token_path))


def _address(config: WebConfig, secret: str) -> str:
    """Return the address for a browser; with certificates no token is needed."""
    address = shown(config.address, secure=config.has_tls)
    return f"{address}/" if config.has_tls else f"{address}/login?token={secret}"


def _server(config: WebConfig, app: ASGIApp, tls: Renewed | None) -> uvicorn.Config:
    settings = uvicorn.Config(
        app,
        http=protocol(config.silent_seconds_max),
        ws="none",
        lifespan="off",
        interface="asgi3",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=config.connections_max + 1,  # the one that is told so counts, too
        timeout_keep_alive=int(max(1, config.silent_seconds_max)),
        timeout_graceful_shutdown=STOP_SECONDS_MAX,
        h11_max_incomplete_event_size=16 * 1024,
    )
    settings.load()
    settings.ssl = tls.context if tls else None
    return settings
