"""`edge-agent web`."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Annotated

import typer

from edge_agent.cli.output import out
from edge_agent.cli.site import site_of
from edge_agent.config.web_section import token_path
from edge_agent.errors import ConfigInvalid

Link = Annotated[bool, typer.Option("--link", help="Print the link that lets a browser in, and end.")]
_NEEDS = ("starlette", "uvicorn")


def run(ctx: typer.Context, link: Link = False) -> None:
    """Serve a page for people: health, tasks, charts, and the review queue; until SIGTERM or Ctrl-C.

    Listens on this machine alone, at 'address' under 'web' in agent.yaml; whoever opens the printed link is let in.
    On a network it wants certificates, like the daemon: docs/console.md. It sees what the sockets let its user see.

    Example: [bold]sudo edge-agent web[/bold]
    """
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        remedy = "Install it, in your clone: pip install '.[web]'."
        raise ConfigInvalid(f"the console needs {' and '.join(missing)}", remedy=remedy)
    # An extra: no other command needs what it loads.
    from edge_agent import logs  # noqa: PLC0415
    from edge_agent.web import serving  # noqa: PLC0415
    from edge_agent.web.daemon import Way  # noqa: PLC0415

    site = site_of(ctx)
    config = site.config()
    if config.web.remote_file and not site.remote_path:
        site = dataclasses.replace(site, remote_path=Path(config.web.remote_file))
    if link:
        out().print(serving.printed_link(config.web, token_path(config.web)), soft_wrap=True)
        return
    ways = {role: Way(*site.way(role)) for role in config.web.roles}
    logs.configure(config.log)
    settings = serving.Settings(config.web, ways, config.access.roles, token_path(config.web))
    raise typer.Exit(serving.serve(settings, _tell))


def _tell(address: str) -> None:
    """Print the address; a log is no place for the token in it."""
    if sys.stdout.isatty():
        out().print(f"Open in a browser: {address}", soft_wrap=True)
    else:
        out().print(f"listening: {address.partition('?')[0]}", soft_wrap=True)
