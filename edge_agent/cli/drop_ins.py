"""`edge-agent drop-ins`: what the systemd units must allow, so that agent.yaml can work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from edge_agent.cli.daemon_target import target_of
from edge_agent.cli.exits import ExitCode
from edge_agent.cli.output import YesOption, confirm, out
from edge_agent.config import Config
from edge_agent.enrolment import unit_drop_ins
from edge_agent.enrolment.unit_drop_ins import UnitDropIn
from edge_agent.errors import ConfigInvalid

SYSTEM = Path("/etc")
UNITS = "systemd/system"
Networks = Annotated[
    list[str] | None,
    typer.Option(
        "--allow",
        metavar="NETWORK",
        help="Also let this network reach the TCP listener, as in 192.168.10.0/24; may be given several times. Those"
        " allowed so far stay; where none was chosen, the networks of this machine are let in.",
    ),
]
Removed = Annotated[
    list[str] | None,
    typer.Option("--remove", metavar="NETWORK", help="No longer let this network in; may be given several times."),
]


@dataclass(kw_only=True)
class Command:
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
    etc: Annotated[
        Path, typer.Option(metavar="DIR", help="Write below DIR; for a trial, another folder than /etc.")
    ] = SYSTEM

    def __post_init__(self) -> None:
        """Run the command."""
        needed = needed_drop_ins(target_of(self.ctx).config(), self.etc, self.allow or [], self.remove or [])
        missing = [each for each in needed if not each.is_in_place()]
        if not missing:
            print_in_place(needed)
            return
        show_drop_ins(missing)
        if self.check:
            raise typer.Exit(ExitCode.FAILED)
        units = " and ".join(each.unit for each in missing)
        confirm("Write this?", f"It changes what {units} may do, from the next start of the unit on.", yes=self.yes)
        write_and_reload(missing, self.etc)
        changed = " ".join(each.name for each in missing)
        out().print(f"Next: sudo systemctl restart {changed}", soft_wrap=True)


def needed_drop_ins(config: Config, etc: Path, allow: Sequence[str], remove: Sequence[str] = ()) -> list[UnitDropIn]:
    """Return the drop-ins of a configuration, on this machine.

    Raises:
        ConfigInvalid: it is not known which networks may reach the listener, or a name cannot stand in a unit.
    """
    units = etc.absolute() / UNITS
    attached = unit_drop_ins.read_attached_networks()
    networks = unit_drop_ins.allowed_networks(config, units, allow, attached, remove)
    if unit_drop_ins.listens_on_network(config) and not networks:
        said = f"no network of this machine belongs to service.tcp_address ({config.service.tcp_address})"
        remedy = "Name the network of the clients: 'sudo edge-agent drop-ins --allow 192.168.10.0/24'."
        raise ConfigInvalid(said, remedy=remedy)
    return unit_drop_ins.unit_drop_ins(config, units, networks)


def print_in_place(needed: Sequence[UnitDropIn]) -> None:
    """Print that nothing is to be done."""
    present = [str(each.path) for each in needed if each.content]
    if not present:
        out().print("The units need no drop-in: agent.yaml has no listener on the network, and no folder for examples.")
    for path in present:
        out().print(f"In place: {path}", soft_wrap=True)


def show_drop_ins(missing: Sequence[UnitDropIn]) -> None:
    """Print files that are to be written, or removed, and how they differ from what is there."""
    for each in missing:
        out().print(Text(str(each.path), style="bold"), soft_wrap=True)
        for line in each.changes:
            out().print(f"  {line}", soft_wrap=True, markup=False)
        if not each.content:
            out().print("  (no longer needed: the file is removed)")


def write_and_reload(missing: Sequence[UnitDropIn], etc: Path) -> None:
    """Write drop-ins, and have systemd read them. Raises DiskFull, ConfigInvalid."""
    changed = unit_drop_ins.write_drop_ins(missing)
    if etc == SYSTEM and unit_drop_ins.is_systemd_running():
        unit_drop_ins.reload_units()
    for each in changed:
        out().print(f"{'Wrote' if each.content else 'Removed'} {each.path}", soft_wrap=True)
