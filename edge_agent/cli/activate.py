"""`edge-agent activate`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.install import named
from edge_agent.cli.output import err, out
from edge_agent.cli.site import TaskArgument, site_of

BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="A version, a digest, or at least 8 characters of its start.")
]


def run(ctx: typer.Context, task: TaskArgument, bundle: BundleArgument) -> None:
    """Let an installed bundle answer its task.

    Example: [bold]edge-agent activate pos-intent 1.2.0[/bold]
    """
    with site_of(ctx).admin() as admin, err().status(f"Activating {task} {bundle}: loading the model"):
        active = admin.activate(task, bundle)
    out().print(f"{named(active)} answers '{task}' now.")
