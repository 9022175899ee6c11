"""`edge-agent remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.byte_sizes import format_bytes
from edge_agent.cli.output import out
from edge_agent.cli.site import TaskArgument, site_of


def run(
    ctx: typer.Context,
    task: TaskArgument,
    bundle: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="A version or digest; left out: the whole task, also what answers.")
    ] = "",
) -> None:
    """Remove a bundle that neither answers nor is kept for rollback, or a whole task.

    Example: [bold]edge-agent remove pos-intent 1.0.0[/bold]
    """
    with site_of(ctx).admin() as admin:
        freed = admin.remove(task, bundle)
    out().print(f"Removed {f'{task} {bundle}' if bundle else f'the task {task}'}; {format_bytes(freed)} freed.")
