"""`edge-agent serve`: the long-running processes of a site, and the imports that each does without."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.command_group import global_options
from edge_agent.config import Config, Overrides, load
from edge_agent.config.optional_sections import token_path
from edge_agent.errors import ConfigInvalid

SCREEN_LIBRARIES = ("rich", "better_exceptions")
"""structlog imports them for tracebacks on a terminal. Ours are plain, since theirs show the values of variables."""
SIGNING_LIBRARIES = ("boto3", "azure", "google.cloud", "pkcs11", "hvac", "keylet")
"""securesystemslib imports them for signers in the cloud and in hardware. A site verifies, and signs with none."""
_CONSOLE_LIBRARIES = ("starlette", "uvicorn")

app = typer.Typer()
OnceOption = Annotated[bool, typer.Option("--once", help="Do what is due and end, as for cron.")]
LinkOption = Annotated[bool, typer.Option("--link", help="Print the link that lets a browser in, and end.")]


@app.callback(invoke_without_command=True)
def serve(ctx: typer.Context) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    'serve uplink' and 'serve web' run the site's other two processes.

    Example: [bold]edge-agent serve --state-dir ./state --run-dir ./run[/bold]
    """
    if ctx.invoked_subcommand:
        return
    config = _config_of(ctx)
    # Only this process loads the daemon, which draws nothing on a screen.
    with hidden(*SCREEN_LIBRARIES):
        from edge_agent import refusal_log  # noqa: PLC0415

        if config.has_tls_listener:
            refusal_log.report_handshakes()
        from edge_agent.daemon import serve as serve_daemon  # noqa: PLC0415

    with hidden(*SIGNING_LIBRARIES):
        raise typer.Exit(serve_daemon(config))


@app.command("uplink")
def serve_uplink(ctx: typer.Context, once: OnceOption = False) -> None:
    """Upload sealed examples, and download receipts and updates, until SIGTERM or Ctrl-C.

    Needs 'url' or 'updates_url' under 'uplink' in agent.yaml. Runs next to the daemon, as a user of its own that can
    read the outbox and nothing else: docs/uplink.md.

    Example: [bold]edge-agent serve uplink --once[/bold]
    """
    # Only this process loads what can open a connection to the outside.
    with hidden(*SCREEN_LIBRARIES):
        from edge_agent.uplink.uplink_daemon import uplink  # noqa: PLC0415

    raise typer.Exit(uplink(_config_of(ctx), once=once))


@app.command("web")
def serve_web(ctx: typer.Context, link: LinkOption = False) -> None:
    """Serve the console in a browser: health, tasks, charts, and the review queue; until SIGTERM or Ctrl-C.

    Listens on this machine alone, at 'address' under 'web' in agent.yaml; whoever opens the printed link is let in.
    On a network it requires certificates, like the daemon: docs/console.md. It shows what its user's sockets show.

    Example: [bold]sudo edge-agent serve web[/bold]
    """
    missing = [name for name in _CONSOLE_LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "Install it, in your clone: pip install '.[web]'."
        raise ConfigInvalid(f"the console needs {' and '.join(missing)}", remedy=remedy)
    # An extra: no other command needs what it loads.
    from edge_agent import logs  # noqa: PLC0415
    from edge_agent.cli.daemon_target import target_of  # noqa: PLC0415
    from edge_agent.cli.terminal import say  # noqa: PLC0415
    from edge_agent.web import console_server  # noqa: PLC0415
    from edge_agent.web.daemon_access import DaemonEndpoint  # noqa: PLC0415

    target = target_of(ctx)
    config = target.config()
    if config.web.remote_file and not target.remote_path:
        target = dataclasses.replace(target, remote_path=Path(config.web.remote_file))
    token = token_path(config.web)
    if link:
        say(console_server.sign_in_link(config.web, token))
        return
    ways = {role: DaemonEndpoint(*target.way(role)) for role in config.web.roles}
    logs.configure(config.log)
    settings = console_server.ConsoleSettings(config.web, ways, config.access.roles, token)

    def print_address(address: str) -> None:
        # A log is no place for the token in the address.
        say(f"Open in a browser: {address}" if sys.stdout.isatty() else f"listening: {address.partition('?')[0]}")

    raise typer.Exit(console_server.serve_console(settings, print_address))


def _config_of(ctx: typer.Context) -> Config:
    """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
    given = global_options(ctx)
    return load(given.config, Overrides(given.state_dir, given.run_dir))


@contextlib.contextmanager
def hidden(*names: str) -> Iterator[None]:
    """Let imports of these modules fail inside the block, as if they were not installed; loaded ones stay."""
    absent = [name for name in names if name not in sys.modules]
    hide: dict[str, None] = dict.fromkeys(absent)
    sys.modules.update(hide)  # type: ignore[arg-type] # None: the import system then raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
