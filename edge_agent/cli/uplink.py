"""`edge-agent uplink`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.configured import config_of
from edge_agent.cli.hidden_imports import SCREEN_LIBRARIES, hidden

Once = Annotated[bool, typer.Option("--once", help="Do what is due and end, as for cron.")]


def run(ctx: typer.Context, once: Once = False) -> None:
    """Bring sealed examples to the centre, its receipts and updates back, until SIGTERM or Ctrl-C.

    Needs 'url' or 'updates_url' under 'uplink' in agent.yaml. Runs beside the daemon, as a user of its own that can
    read the outbox and nothing else: docs/uplink.md.

    Example: [bold]edge-agent uplink --once[/bold]
    """
    # Only this process loads what can open a connection to the outside.
    with hidden(*SCREEN_LIBRARIES):
        from edge_agent.uplink.uplink_daemon import uplink  # noqa: PLC0415

    raise typer.Exit(uplink(config_of(ctx), once=once))
