"""`edge-agent erase`."""

from __future__ import annotations

from typing import Annotated

import typer

from edge_agent.cli.output import out
from edge_agent.cli.site import site_of


def run(
    ctx: typer.Context,
    prediction_id: Annotated[str, typer.Argument(metavar="PREDICTION_ID", help="The answer's; every answer has one.")],
) -> None:
    """Forget one answer: its input and what was said of it, here and, if any of it may have left, at the centre.

    Example: [bold]edge-agent erase 4b1f7c1e-6a0f-4d0c-9a53-0b6f0a2b7a11[/bold]
    """
    with site_of(ctx).reviewer() as client:
        was_kept, tombstoned = client.erase(prediction_id)
    here = "Erased here" if was_kept else "It is not kept here, or not any more"
    there = (
        "the centre is told to forget it with the next segment" if tombstoned else "nothing of it has left this site"
    )
    out().print(f"{here}; {there}.", soft_wrap=True)
