"""`edge-agent config`, `limits` and `drop-ins`: the configuration, and the systemd settings that it needs.

`drop-ins` gives the units access to the networks and folders in agent.yaml, `limits` computes their memory limit.

The parts of MemoryMax= of the unit:

    engines     engine.memory_bytes_max, or the memory of the machine
    reserve     engine.memory_reserve_bytes, which engines leave free below any limit: they see this one too
    daemon      the program, answers that wait to be written, and the largest messages of all calls at once

It is an upper bound that protects the rest of the machine from a fault here; engines count their memory themselves.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.exits import ExitCode
from edge_agent.cli.output import AsJson, YesOption, confirm, out, print_done, print_json, print_trimmed
from edge_agent.cli.terminal import table, write_exactly
from edge_agent.config import Config, config_paths
from edge_agent.config.config_files import render_sections
from edge_agent.durable.atomic_files import stat_or_none
from edge_agent.errors import ConfigInvalid, SystemdFailed
from edge_agent.formatting import format_bytes

if TYPE_CHECKING:
    from edge_agent.enrolment.unit_drop_ins import UnitDropIn

PROGRAM_BYTES = 192 * 2**20
"""About 100 MB are resident after a day; the rest is for installing and sealing."""


@dataclass(frozen=True)
class MemoryPlan:
    """The parts of the memory limit, in bytes."""

    engines: int
    """0 = the memory of the machine."""
    reserve: int
    daemon: int
    machine: int

    @property
    def memory_max(self) -> int:
        """The limit of all processes of the unit together, which leaves memory for the rest of the machine."""
        limit = max(self.machine - self.reserve, self.machine // 2)
        return min(limit, self.engines + self.reserve + self.daemon) if self.engines else limit


def plan_memory(config: Config, machine_bytes: int) -> MemoryPlan:
    """Divide the memory of a machine."""
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
    settings = target_of(ctx).config().model_dump(mode="json")
    if as_json:
        print_json(settings, indent=2)
    else:
        write_exactly(render_sections(settings, "").decode(), end="")


@app.command("validate")
def validate_config(ctx: typer.Context, as_json: AsJson = False) -> None:
    """Check the configuration as the daemon does when it starts; ends with 3 when it is invalid.

    Example: [bold]edge-agent config validate --config ./agent.yaml && sudo cp agent.yaml /etc/edge-agent/[/bold]
    """
    target = target_of(ctx)
    target.config()
    overruled = target.files().overruled_keys()
    if as_json:
        print_json({"valid": True, "overruled": overruled}, indent=2)
        return
    print_done(ctx, f"{config_paths(target.config_path)[0]} is valid.")
    if overruled:
        print_done(ctx, f"agent.yaml overrides the enrolment file in {', '.join(overruled)}.")


@app.command("path")
def list_config_paths(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the files of the configuration, the one that wins first.

    Example: [bold]edge-agent config path[/bold]
    """
    paths = config_paths(target_of(ctx).config_path)
    files = [{"path": str(path), "exists": stat_or_none(path) is not None} for path in paths]
    if as_json:
        print_json(files, indent=2)
        return
    listing = table("file", "exists", wrap=("file",))
    for file in files:
        listing.add_row(str(file["path"]), Text("yes", "green") if file["exists"] else Text("no", "dim"))
    print_trimmed(out(), listing)


UNIT = "edge-agent.service"
SYSTEMCTL_SECONDS_MAX = 30
Apply = Annotated[bool, typer.Option("--apply", help="Set it in systemd, as root; the unit does this, too.")]


def show_limits(ctx: typer.Context, apply: Apply = False, as_json: AsJson = False) -> None:
    """Show the memory limit of the daemon and its engines, and its parts.

    Change it with 'memory_bytes_max' and 'memory_reserve_bytes' under 'engine' in agent.yaml, then
    [bold]sudo systemctl restart edge-agent[/bold].

    Example: [bold]edge-agent limits[/bold]
    """
    plan = plan_memory(target_of(ctx).config(), os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    if apply:
        changed_before = _is_changed_on_disk()
        _systemctl("set-property", "--runtime", UNIT, f"MemoryMax={plan.memory_max}")
        # systemd 252 puts the drop-in that this makes at the end of its list. Where another drop-in has a later name,
        # it considers the unit changed on disk, and reports that in every answer about it until it reloads its files.
        if _is_changed_on_disk() and not changed_before:
            _systemctl("daemon-reload")
    if as_json:
        print_json({**vars(plan), "memory_max": plan.memory_max}, indent=2)
        return
    listing = table("what", "memory", right=("memory",))
    listing.add_row("engines", format_bytes(plan.engines) if plan.engines else "no limit")
    listing.add_row("reserve", format_bytes(plan.reserve))
    listing.add_row("daemon", format_bytes(plan.daemon))
    listing.add_row("total (MemoryMax)", format_bytes(plan.memory_max), style="bold")
    listing.add_row("machine", format_bytes(plan.machine))
    print_trimmed(out(), listing)


def _is_changed_on_disk() -> bool:
    return _systemctl("show", "--property=NeedDaemonReload", "--value", UNIT) == "yes"


def _systemctl(*arguments: str) -> str:
    """Return what systemctl printed. Raises SystemdFailed."""
    try:
        result = subprocess.run(  # noqa: S603 - no word of it comes from outside
            ["systemctl", *arguments],  # noqa: S607 - root's PATH is trusted
            capture_output=True,
            text=True,
            check=False,
            timeout=SYSTEMCTL_SECONDS_MAX,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SystemdFailed(f"systemctl did not run: {error}") from None
    if result.returncode:
        raise SystemdFailed(f"'systemctl {' '.join(arguments)}' failed: {result.stderr.strip()}")
    return result.stdout.strip()


SYSTEM = Path("/etc")
UNITS = "systemd/system"
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NETWORK",
        help="Also let this network reach the TCP listener, as in 192.168.10.0/24; may be given several times. Those"
        " allowed so far stay; if none was chosen, the networks of this machine are let in.",
    ),
]
Removed = Annotated[
    list[str] | None,
    typer.Option("--remove", metavar="NETWORK", help="No longer admit this network; can be given several times."),
]
EtcOption = Annotated[Path, typer.Option(metavar="DIR", help="Write below DIR; for a trial, another folder than /etc.")]


@dataclass(kw_only=True)
class DropInsCommand:
    """Give the systemd units the networks and folders that agent.yaml needs.

    The unit of the daemon accepts connections from this machine only: a listener on the network ('tcp_address') needs
    a drop-in with the networks of its clients. The unit of the uplink writes to its own folders only: an object store
    that is a folder needs a drop-in with that folder. Shows each line that is added (+) or taken away (-), and asks
    before it writes.

    Example: [bold]sudo edge-agent drop-ins --allow 192.168.10.0/24[/bold]
    """

    # The fields are the command's arguments and options: typer reads them like a function's parameters.
    ctx: typer.Context
    allow: Networks = None
    remove: Removed = None
    check: Annotated[
        bool, typer.Option("--check", help="Show them, and change nothing; ends with 1 if one is missing.")
    ] = False
    yes: YesOption = False
    etc: EtcOption = SYSTEM

    def __post_init__(self) -> None:
        """Run the command."""
        drop_ins = needed_drop_ins(target_of(self.ctx).config(), self.etc, self.allow or [], self.remove or [])
        missing = [drop_in for drop_in in drop_ins if not drop_in.is_in_place()]
        if not missing:
            print_in_place(drop_ins)
            return
        show_drop_ins(missing)
        if self.check:
            raise typer.Exit(ExitCode.FAILED)
        units = " and ".join(drop_in.unit for drop_in in missing)
        confirm("Write this?", f"It changes what {units} may do, from the next start of the unit on.", yes=self.yes)
        write_and_reload(missing, self.etc)
        names = " ".join(drop_in.name for drop_in in missing)
        out().print(f"Next: sudo systemctl restart {names}", soft_wrap=True)


def needed_drop_ins(config: Config, etc: Path, allow: Sequence[str], remove: Sequence[str] = ()) -> list[UnitDropIn]:
    """Return the drop-ins of a configuration, on this machine.

    Raises:
        ConfigInvalid: the networks that may reach the listener are unknown, or a name cannot be written in a unit.
    """
    from edge_agent.enrolment import unit_drop_ins  # noqa: PLC0415

    units = etc.absolute() / UNITS
    attached = unit_drop_ins.read_attached_networks()
    networks = unit_drop_ins.allowed_networks(config, units, allow, attached, remove)
    if unit_drop_ins.listens_on_network(config) and not networks:
        message = f"no network of this machine belongs to service.tcp_address ({config.service.tcp_address})"
        remedy = "Name the network of the clients: 'sudo edge-agent drop-ins --allow 192.168.10.0/24'."
        raise ConfigInvalid(message, remedy=remedy)
    return unit_drop_ins.unit_drop_ins(config, units, networks)


def print_in_place(drop_ins: Sequence[UnitDropIn]) -> None:
    """Print that nothing is to be done."""
    present = [str(drop_in.path) for drop_in in drop_ins if drop_in.content]
    if not present:
        out().print("The units need no drop-in: agent.yaml has no listener on the network, and no folder for examples.")
    for path in present:
        out().print(f"In place: {path}", soft_wrap=True)


def show_drop_ins(drop_ins: Sequence[UnitDropIn]) -> None:
    """Print the files to be written or removed, with their differences."""
    for drop_in in drop_ins:
        out().print(Text(str(drop_in.path), style="bold"), soft_wrap=True)
        for line in drop_in.changes:
            out().print(f"  {line}", soft_wrap=True, markup=False)
        if not drop_in.content:
            out().print("  (no longer needed: the file is removed)")


def write_and_reload(drop_ins: Sequence[UnitDropIn], etc: Path) -> None:
    """Write drop-ins, and have systemd read them. Raises DiskFull, ConfigInvalid."""
    from edge_agent.enrolment import unit_drop_ins  # noqa: PLC0415

    written = unit_drop_ins.write_drop_ins(drop_ins)
    if etc == SYSTEM and unit_drop_ins.is_systemd_running():
        unit_drop_ins.reload_units()
    for drop_in in written:
        out().print(f"{'Wrote' if drop_in.content else 'Removed'} {drop_in.path}", soft_wrap=True)
