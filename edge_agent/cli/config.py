"""`edge-agent config` and `limits`: the configuration that the daemon would run with, and the memory that it allows.

The parts of MemoryMax=, which the unit is given:

    engines     engine.memory_bytes_max, or what the machine has
    reserve     engine.memory_reserve_bytes, which engines leave free below any limit: they see this one too
    daemon      its own: the program, answers that wait to be written, and the largest messages of all calls at once

It is an upper bound, which keeps a fault here from harming the rest of the machine; engines count for themselves.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.command_group import global_options
from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.output import AsJson, out, print_done, print_json, print_trimmed, table
from edge_agent.cli.terminal import write_exactly
from edge_agent.config import Config, Overrides, config_paths, load, read_files
from edge_agent.config.config_files import render_sections
from edge_agent.errors import SystemdFailed
from edge_agent.formatting import format_bytes

PROGRAM_BYTES = 192 * 2**20
"""About 100 MB are resident after a day; the rest is for what is being installed or sealed."""


@dataclass(frozen=True)
class MemoryPlan:
    """What each part may take, in bytes."""

    engines: int
    """0 = what the machine has."""
    reserve: int
    daemon: int
    machine: int

    @property
    def memory_max(self) -> int:
        """The limit of all processes of the unit together; what the rest of the machine needs stays out of it."""
        most = max(self.machine - self.reserve, self.machine // 2)
        return min(most, self.engines + self.reserve + self.daemon) if self.engines else most


def plan_memory(config: Config, machine_bytes: int) -> MemoryPlan:
    """Share out a machine with that much memory."""
    messages = config.service.calls_max * config.service.message_bytes_max
    return MemoryPlan(
        engines=config.engine.memory_bytes_max,
        reserve=config.engine.memory_reserve_bytes,
        daemon=PROGRAM_BYTES + config.examples.queue_bytes_max + messages,
        machine=machine_bytes,
    )


app = typer.Typer(no_args_is_help=True, help="Show and check the configuration.")


@app.command("show")
def show_config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Print every key with its value in force: defaults, files, environment and options together.

    It holds no secrets: those are in files of their own, whose paths are shown. 'config path' lists the files.

    Example: [bold]edge-agent config show --json | jq .engine[/bold]
    """
    given = global_options(ctx)
    config = load(given.config, Overrides(given.state_dir, given.run_dir))
    plain = config.model_dump(mode="json")
    if as_json:
        print_json(plain, indent=2)
    else:
        write_exactly(render_sections(plain, "").decode(), end="")


@app.command("validate")
def validate_config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check the configuration as the daemon does when it starts; ends with 3 when it is invalid.

    Example: [bold]edge-agent config validate --config ./agent.yaml && sudo cp agent.yaml /etc/edge-agent/[/bold]
    """
    given = global_options(ctx)
    load(given.config, Overrides(given.state_dir, given.run_dir))
    overruled = read_files(given.config).overruled()
    if as_json:
        print_json({"valid": True, "overruled": overruled}, indent=2)
        return
    print_done(ctx, f"{config_paths(given.config)[0]} is valid.")
    if overruled:
        print_done(ctx, f"agent.yaml overrides the enrolment file in {', '.join(overruled)}.")


@app.command("path")
def list_config_paths(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the files of the configuration, the one that wins first.

    Example: [bold]edge-agent config path[/bold]
    """
    files = [{"path": str(path), "exists": path.exists()} for path in config_paths(global_options(ctx).config)]
    if as_json:
        print_json(files, indent=2)
        return
    made = table("file", "exists", wrap=("file",))
    for file in files:
        made.add_row(str(file["path"]), Text("yes", "green") if file["exists"] else Text("no", "dim"))
    print_trimmed(out(), made)


UNIT = "edge-agent.service"
SYSTEMCTL_SECONDS_MAX = 30
Apply = Annotated[bool, typer.Option("--apply", help="Set it in systemd, as root; the unit does so at each start.")]


def show_limits(ctx: typer.Context, apply: Apply = False, as_json: AsJson = False) -> None:
    """Show the memory limit of the daemon and its engines, and its parts.

    Change it with 'memory_bytes_max' and 'memory_reserve_bytes' under 'engine' in agent.yaml, then
    [bold]sudo systemctl restart edge-agent[/bold].

    Example: [bold]edge-agent limits[/bold]
    """
    plan = plan_memory(target_of(ctx).config(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if apply:
        _apply_limit(plan.memory_max)
    if as_json:
        print_json({**vars(plan), "memory_max": plan.memory_max}, indent=2)
        return
    _show_plan(plan)


def _show_plan(plan: MemoryPlan) -> None:
    made = table("what", "memory", right=("memory",))
    made.add_row("engines", format_bytes(plan.engines) if plan.engines else "no limit")
    made.add_row("reserve", format_bytes(plan.reserve))
    made.add_row("daemon", format_bytes(plan.daemon))
    made.add_row("total (MemoryMax)", format_bytes(plan.memory_max), style="bold")
    made.add_row("machine", format_bytes(plan.machine))
    print_trimmed(out(), made)


def _apply_limit(memory_max: int) -> None:
    changed_before = _is_changed_on_disk()
    _systemctl("set-property", "--runtime", UNIT, f"MemoryMax={memory_max}")
    # systemd 252 puts the drop-in that this makes at the end of its list. Where another drop-in has a later name, it
    # takes the unit for changed on disk, and says so in every answer about it until it has read its files again.
    if _is_changed_on_disk() and not changed_before:
        _systemctl("daemon-reload")


def _is_changed_on_disk() -> bool:
    return _systemctl("show", "--property=NeedDaemonReload", "--value", UNIT) == "yes"


def _systemctl(*words: str) -> str:
    """Return what systemctl printed. Raises SystemdFailed."""
    try:
        done = subprocess.run(  # noqa: S603 - no word of it comes from outside
            ["systemctl", *words],  # noqa: S607 - root's PATH is trusted
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemdFailed(f"systemctl did not run: {error}") from None
    if done.returncode:
        raise SystemdFailed(f"'systemctl {' '.join(words)}' failed: {done.stderr.strip()}")
    return done.stdout.strip()
