"""`edge-agent limits`: the memory of the daemon and its engines, as systemd limits it."""

from __future__ import annotations

import os
import subprocess
from typing import Annotated

import typer

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import AsJson, out, print_json, print_trimmed, table
from edge_agent.config.memory_plan import MemoryPlan, plan_memory
from edge_agent.errors import SystemdFailed
from edge_agent.formatting import format_bytes

UNIT = "edge-agent.service"
SYSTEMCTL_SECONDS_MAX = 30
Apply = Annotated[bool, typer.Option("--apply", help="Set it in systemd, as root; the unit does so at each start.")]


def run(ctx: typer.Context, apply: Apply = False, as_json: AsJson = False) -> None:
    """Show the memory limit of the daemon and its engines, and its parts.

    Change it with 'memory_bytes_max' and 'memory_reserve_bytes' under 'engine' in agent.yaml, then
    [bold]sudo systemctl restart edge-agent[/bold].

    Example: [bold]edge-agent limits[/bold]
    """
    plan = plan_memory(target_of(ctx).config(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if apply:
        _apply(plan.memory_max)
    if as_json:
        print_json({**vars(plan), "memory_max": plan.memory_max}, indent=2)
        return
    _show(plan)


def _show(plan: MemoryPlan) -> None:
    made = table("what", "memory", right=("memory",))
    made.add_row("engines", format_bytes(plan.engines) if plan.engines else "no limit")
    made.add_row("reserve", format_bytes(plan.reserve))
    made.add_row("daemon", format_bytes(plan.daemon))
    made.add_row("total (MemoryMax)", format_bytes(plan.memory_max), style="bold")
    made.add_row("machine", format_bytes(plan.machine))
    print_trimmed(out(), made)


def _apply(memory_max: int) -> None:
    command = ["systemctl", "set-property", "--runtime", UNIT, f"MemoryMax={memory_max}"]
    try:
        done = subprocess.run(  # noqa: S603 - no word of it comes from outside
            command, capture_output=True, text=True, check=False, timeout=SYSTEMCTL_SECONDS_MAX
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemdFailed(f"systemctl did not run: {error}") from None
    if done.returncode:
        raise SystemdFailed(f"systemd did not take MemoryMax={memory_max}: {done.stderr.strip()}")
