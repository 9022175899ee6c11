"""`edge-agent serve`."""

from __future__ import annotations

import typer

from edge_agent.cli.configured import config_of
from edge_agent.cli.hidden_imports import SCREEN_LIBRARIES, SIGNING_LIBRARIES, hidden


def run(ctx: typer.Context) -> None:
    """Run the daemon in the foreground, until SIGTERM or Ctrl-C.

    Example: [bold]edge-agent --state-dir ./state --run-dir ./run serve[/bold]
    """
    # Only this process loads the daemon, which has no use for what draws on a screen.
    with hidden(*SCREEN_LIBRARIES):
        from edge_agent.daemon import serve  # noqa: PLC0415

    with hidden(*SIGNING_LIBRARIES):
        raise typer.Exit(serve(config_of(ctx)))
