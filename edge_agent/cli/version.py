"""`edge-agent version`."""

from __future__ import annotations

import platform
import sys

import typer

from edge_agent import __version__
from edge_agent.cli.command_group import global_options
from edge_agent.cli.output import AsJson, out, print_facts, print_json


def run(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Show the version of the program and of what it runs on.

    Example: [bold]edge-agent version --json[/bold]
    """
    facts = {
        "edge-agent": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "program": sys.prefix,
    }
    if as_json:
        print_json(facts, indent=2)
    elif global_options(ctx).quiet:
        out().print(__version__)
    else:
        print_facts(out(), facts)
