"""`edge-agent serve` and `edge-agent logs`: the long-running processes of a site, and the journal of their units.

Each process imports only what it needs.
"""

from __future__ import annotations

import contextlib
import dataclasses
import grp
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from edge_agent.cli.command_group import global_options
from edge_agent.errors import ConfigInvalid, SystemdFailed

if TYPE_CHECKING:
    from edge_agent.config import Config

SCREEN_LIBRARIES = ("rich", "better_exceptions")
"""structlog imports these for tracebacks with values of variables, which ours must not show."""
SIGNING_LIBRARIES = ("boto3", "azure", "google.cloud", "pkcs11", "hvac", "keylet")
"""securesystemslib imports them for signers in the cloud and in hardware. A site verifies, and signs with none."""
_CONSOLE_LIBRARIES = ("starlette", "uvicorn")

app = typer.Typer()
OnceOption = Annotated[bool, typer.Option("--once", help="Do the work that is due, and end; for cron.")]
LinkOption = Annotated[bool, typer.Option("--link", help="Print the link that opens the console, and end.")]


@app.callback(invoke_without_command=True)
def serve(ctx: typer.Context) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    'serve uplink' and 'serve web' run the site's other two processes.

    Example: [bold]edge-agent serve --state-dir ./state --run-dir ./run[/bold]
    """
    if ctx.invoked_subcommand:
        return
    config = _config_of(ctx)
    # Only this process imports the daemon, which needs no terminal libraries.
    with hide_modules(*SCREEN_LIBRARIES):
        from edge_agent import refusal_log  # noqa: PLC0415

        if config.has_tls_listener:
            refusal_log.report_handshakes()
        from edge_agent.daemon import serve as serve_daemon  # noqa: PLC0415

    with hide_modules(*SIGNING_LIBRARIES):
        raise typer.Exit(serve_daemon(config))


@app.command("uplink")
def serve_uplink(ctx: typer.Context, once: OnceOption = False) -> None:
    """Upload sealed examples, and download receipts and updates, until SIGTERM or Ctrl-C.

    Needs 'url' or 'updates_url' under 'uplink' in agent.yaml. Runs next to the daemon, as a user of its own that can
    read the outbox and nothing else: docs/uplink.md.

    Example: [bold]edge-agent serve uplink --once[/bold]
    """
    # Only this process imports code that can connect to the outside.
    with hide_modules(*SCREEN_LIBRARIES):
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
        remedy = f"In a clone, run 'scripts/setup'. Elsewhere: pip install {' '.join(missing)}."
        raise ConfigInvalid(f"the console needs {' and '.join(missing)}", remedy=remedy)
    # An optional extra that no other command needs.
    from edge_agent import logs  # noqa: PLC0415
    from edge_agent.cli.daemon_target import target_of  # noqa: PLC0415
    from edge_agent.cli.terminal import say  # noqa: PLC0415
    from edge_agent.config.optional_sections import token_path  # noqa: PLC0415
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
    endpoints = {role: DaemonEndpoint(*target.endpoint(role)) for role in config.web.roles}
    logs.configure(config.log)
    settings = console_server.ConsoleSettings(config.web, endpoints, config.access.roles, token)

    def print_address(address: str) -> None:
        # The address contains the token, which must not get into a log.
        say(f"Open in a browser: {address}" if sys.stdout.isatty() else f"listening: {address.partition('?')[0]}")

    raise typer.Exit(console_server.serve_console(settings, print_address))


def _config_of(ctx: typer.Context) -> Config:
    """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
    # Reading the journal needs no configuration.
    from edge_agent.config import Overrides, load  # noqa: PLC0415

    options = global_options(ctx)
    return load(options.config, Overrides(options.state_dir, options.run_dir))


@contextlib.contextmanager
def hide_modules(*names: str) -> Iterator[None]:
    """Let imports of these modules fail inside the block, as if they were not installed; loaded ones stay."""
    absent = [name for name in names if name not in sys.modules]
    placeholders: dict[str, None] = dict.fromkeys(absent)
    sys.modules.update(placeholders)  # type: ignore[arg-type] # None: the import system then raises ModuleNotFoundError
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]


UNITS = {"daemon": "edge-agent", "uplink": "edge-uplink", "web": "edge-agent-web"}
SYSTEMD_RUNS = Path("/run/systemd/system")
_READERS = frozenset(("systemd-journal", "adm"))
"""Groups whose members may read the whole journal on Debian."""
Component = Literal["daemon", "uplink", "web", "all"]


def logs(
    component: Annotated[Component, typer.Argument(help="Whose log: daemon, uplink, web or all.")] = "daemon",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for new lines, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, metavar="N", help="The newest N lines.")] = 100,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Start, as journalctl reads it: '1 hour ago', '2026-11-28'.")
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the journal's entries as JSON, one per line.")] = False,
) -> None:
    """Show the log of the daemon, from the journal of systemd.

    A user who is neither root nor in the group systemd-journal sees only part of it.

    Example: [bold]sudo edge-agent logs --follow[/bold]
    """
    # The daemon also imports this module, and needs no terminal libraries.
    from edge_agent.cli.exits import ExitCode  # noqa: PLC0415
    from edge_agent.cli.output import err  # noqa: PLC0415

    journalctl = shutil.which("journalctl")
    if journalctl is None or not SYSTEMD_RUNS.is_dir():
        raise SystemdFailed(
            "systemd does not run on this machine, so there is no journal to read",
            remedy="Read the standard error of 'edge-agent serve' where you started it.",
        )
    if advice := journal_advice(os.geteuid(), _group_names()):
        err().print(f"note: {advice}", soft_wrap=True)
    result = subprocess.run(  # noqa: S603 - no shell, and each argument is one word of the command
        [journalctl, *journal_arguments(component, follow=follow, lines=lines, since=since, as_json=as_json)],
        check=False,
    )
    if result.returncode:
        raise typer.Exit(ExitCode.SITE)


def journal_advice(user_id: int, groups: Collection[str]) -> str:
    """Return how a user gets access to the whole log; empty = the user has it."""
    if user_id == 0 or not _READERS.isdisjoint(groups):
        return ""
    return (
        "this user sees only part of the log. Use 'sudo edge-agent logs', or join the group systemd-journal:"
        " 'sudo usermod --append --groups systemd-journal USER', and log in again."
    )


def _group_names() -> list[str]:
    names = []
    for group_id in {os.getegid(), *os.getgroups()}:
        with contextlib.suppress(KeyError):
            names.append(grp.getgrgid(group_id).gr_name)
    return names


def journal_arguments(component: Component, *, follow: bool, lines: int, since: str, as_json: bool) -> list[str]:
    """Return the arguments of journalctl."""
    units = UNITS.values() if component == "all" else [UNITS[component]]
    return [
        *(f"--unit={unit}" for unit in units),
        f"--lines={lines}",
        "--no-pager",
        *([f"--since={since}"] if since else []),
        *(["--follow"] if follow else []),
        "--output=json" if as_json else "--output=short-iso",
    ]
