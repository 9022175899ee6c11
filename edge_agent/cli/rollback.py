"""`edge-agent rollback`."""

from __future__ import annotations

import typer

from edge_agent.cli.install import named
from edge_agent.cli.output import err, out
from edge_agent.cli.site import TaskArgument, site_of


def run(ctx: typer.Context, task: TaskArgument) -> None:
    """Go back to the bundle that answered before. It stays so until the plan wants something else of the task.

    Example: [bold]edge-agent rollback pos-intent[/bold]
    """
    with site_of(ctx).admin() as admin, err().status(f"Rolling back {task}: loading the model"):
        active = admin.rollback(task)
    out().print(f"{named(active)} answers '{task}' again.")
