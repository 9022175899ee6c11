"""`edge-agent mode`."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from edge_agent.cli.output import out
from edge_agent.cli.site import TaskArgument, site_of
from edge_agent.client import Mode, Task

AS_PLANNED = "planned"
_MEANING = {
    "LOCAL": "answered by the model here, and by nobody else",
    "HYBRID": "answered by the model here where it is sure, and by the large one where not",
    "SHADOW": "answered by the large model; the one here runs beside it and is compared",
    "BOOTSTRAP": "answered by the large model; nobody here is asked",
}
_BY = {
    "operator": "so said by hand",
    "plan": "so the plan says",
    "configuration": "as agent.yaml has it",
    "bundle": "its bundle has no model of its own",
    "alarm": "an alarm did that, as the plan allows: 'edge-agent status' says which, and how to take it back",
}


def run(
    ctx: typer.Context,
    task: TaskArgument,
    mode: Annotated[
        str,
        typer.Argument(metavar="MODE", help=f"One of {', '.join(get_args(Mode))}; {AS_PLANNED} = as the plan says."),
    ] = "",
) -> None:
    """Show or set who answers a task: the model here, the large one, or both.

    What you set holds until the plan says another mode than it does now. The large model is asked only about tasks that
    'tasks' under 'escalation' in agent.yaml names.

    Example: [bold]edge-agent mode pos-intent hybrid[/bold]
    """
    with site_of(ctx).admin() as admin:
        if mode:
            known: dict[str, Mode | None] = {**{each: each for each in get_args(Mode)}, AS_PLANNED: None}
            if mode not in known:
                raise typer.BadParameter(f"{mode!r} is none of {', '.join(known)}", param_hint="MODE")
            found = admin.set_mode(task, known[mode])
        else:
            tasks = {each.name: each for each in admin.status().tasks}
            if task not in tasks:
                raise typer.BadParameter(f"there is no task {task!r}; there are: {', '.join(tasks) or 'none'}")
            found = tasks[task]
    out().print(f"'{task}' is in mode {found.mode.lower()}: {_MEANING.get(found.mode, '')}{_by(found)}.")


def _by(task: Task) -> str:
    by = _BY.get(task.mode_by)
    return f"; {by}" if by else ""
