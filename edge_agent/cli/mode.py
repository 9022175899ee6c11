"""`edge-agent mode`: which model answers a task."""

from __future__ import annotations

from typing import Annotated, get_args

import typer

from edge_agent.cli.daemon_target import TaskArgument, target_of
from edge_agent.cli.output import AsJson, out, print_json
from edge_agent.client import Mode, Task

AS_PLANNED = "planned"
_MEANING = {
    "LOCAL": "the local model answers, and no other",
    "HYBRID": "the local model answers where it is confident, and the large one elsewhere",
    "SHADOW": "the large model answers; the local one runs next to it for comparison",
    "BOOTSTRAP": "the large model answers; the local one is not asked",
}
_BY = {
    "operator": "set by hand",
    "plan": "set by the plan",
    "configuration": "set in agent.yaml",
    "bundle": "its bundle has no local model",
    "alarm": "set by an alarm, as the plan allows: 'edge-agent status' shows which, and how to undo it",
}


def run(
    ctx: typer.Context,
    task: TaskArgument,
    mode: Annotated[
        str,
        typer.Argument(
            metavar="MODE", help=f"One of {', '.join(get_args(Mode))}; {AS_PLANNED} = the mode in the plan."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Show or set which model answers a task: the local one, the large one, or both.

    A mode that you set holds until the plan names another mode than it does now. The large model is asked only about
    the tasks that 'tasks' under 'escalation' in agent.yaml names.

    Example: [bold]edge-agent mode pos-intent hybrid[/bold]
    """
    with target_of(ctx).admin() as admin:
        if mode:
            known: dict[str, Mode | None] = {**{each: each for each in get_args(Mode)}, AS_PLANNED: None}
            if mode not in known:
                raise typer.BadParameter(f"{mode!r} is not one of {', '.join(known)}", param_hint="MODE")
            found = admin.set_mode(task, known[mode])
        else:
            tasks = {each.name: each for each in admin.status().tasks}
            if task not in tasks:
                raise typer.BadParameter(f"there is no task {task!r}; there are: {', '.join(tasks) or 'none'}")
            found = tasks[task]
    if as_json:
        print_json({"task": task, "mode": found.mode, "set_by": found.mode_by}, indent=2)
        return
    out().print(f"'{task}' is in mode {found.mode.lower()}: {_MEANING.get(found.mode, '')}{_set_by(found)}.")


def _set_by(task: Task) -> str:
    by = _BY.get(task.mode_by)
    return f"; {by}" if by else ""
