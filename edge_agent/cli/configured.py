"""The configuration that a command's options lead to; for commands that call no daemon."""

from __future__ import annotations

import typer

from edge_agent.cli.options import GlobalOptions
from edge_agent.config import Config, Overrides, load


def given_options(ctx: typer.Context) -> GlobalOptions:
    """Return the options that stand before the command."""
    found = ctx.find_object(GlobalOptions)
    assert found is not None, "the root command sets it; this is a bug"
    return found


def config_of(ctx: typer.Context) -> Config:
    """Read the configuration. Raises ConfigInvalid, SocketPathTooLong."""
    given = given_options(ctx)
    return load(given.config, Overrides(given.state_dir, given.run_dir))
