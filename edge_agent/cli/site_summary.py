"""`edge-agent status --code`: the state of a site, to be read out to the central team. docs/state-code.md."""

from __future__ import annotations

from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from edge_agent.cli.output import print_trimmed
from edge_agent.client import Status, Task, TaskUpdate
from edge_agent.formats.state_code import (
    GROUP_CHARACTERS,
    SiteSummary,
    TaskSummary,
    attention_first,
    encode,
    spoken_groups,
)

GROUPS_A_LINE = 5


def summarize(status: Status, now: datetime) -> SiteSummary:
    """Return what a code says of a site: names, versions and states, and nothing of inputs or answers."""
    return SiteSummary(
        site=status.site,
        agent_version=status.agent_version,
        minutes=int(now.timestamp() // 60),
        serving=status.serving,
        link=status.uplink.state.lower() if status.uplink else "",
        tasks=attention_first([_summarize_task(task, status) for task in status.tasks]),
    )


def _summarize_task(task: Task, status: Status) -> TaskSummary:
    update = _update_of(task.name, status)
    wanted = update.candidate.version if update and update.candidate else ""
    return TaskSummary(
        task=task.name,
        version=task.bundle.version,
        state="ready" if task.ready else _engine_state(task.name, status),
        update=update.state.lower() if update else "",
        to_version="" if wanted == task.bundle.version else wanted,
        alarms=tuple(alarm.alarm for alarm in status.alarms if alarm.task == task.name),
    )


def _engine_state(task: str, status: Status) -> str:
    states = [engine.state.lower() for engine in status.engines if task in engine.tasks]
    return next((state for state in states if state != "ready"), "not_ready")


def _update_of(task: str, status: Status) -> TaskUpdate | None:
    updates = status.updates.tasks if status.updates else ()
    return next((one for one in updates if one.task == task and one.candidate), None)


def print_code(console: Console, status: Status, now: datetime) -> None:
    """Print the code in groups that can be read out."""
    groups = spoken_groups(encode(summarize(status, now)))
    site = status.site or "this machine, which is not enrolled"
    last = f"the last of each checks the {GROUP_CHARACTERS} before"
    print_trimmed(
        console, f"State of {site}, {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC, in {len(groups)} groups; {last}:"
    )
    for start in range(0, len(groups), GROUPS_A_LINE):
        line = groups[start : start + GROUPS_A_LINE]
        numbers = f"{start + 1}-{start + len(line)}"
        print_trimmed(console, Text.assemble((f"  {numbers:>6}:  ", "dim"), ("  ".join(line), "bold")))
    print_trimmed(console, "0 and 1 are digits: no code has the letters I, L, O and U.")
    print_trimmed(console, "The central team reads it with: edge-convert sites decode GROUPS")
