"""The commands of findings as this machine can run them. Pure.

The rules name commands as they are on an installed appliance. On a machine without systemd, without a program, or for a
user who works through sudo, they are others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge_agent.doctor.installation import MEDIA_FOLDER
from edge_agent.errors.remedy_commands import commands_with_sudo

SEPARATOR = "; "
OPTIONAL_PROGRAMS = frozenset({"ip", "getent", "ping", "findmnt", "lsblk", "dmesg", "ss", "free", "ps", "timedatectl"})
"""Programs of the system that a small machine may lack; ours, and those that every machine has, are not among them."""
_SUBSTITUTES = {"timedatectl": "date", "findmnt": "cat /proc/mounts", "free": "cat /proc/meminfo"}
_SET_CLOCK = "sudo date --set 'YYYY-MM-DD HH:MM'"
_UNIT_COMMAND = re.compile(r"sudo systemctl (start|restart|try-restart|stop) ([a-z-]+(?:\.service)?(?: edge-uplink)?)")
_OF_SYSTEMD = re.compile(r"(sudo )?(journalctl|systemctl|systemd-\w+) ")


@dataclass(frozen=True)
class LocalMachine:
    """What decides which commands run here."""

    managed: bool
    """systemd runs the daemons."""
    start: str
    """The command that starts the daemon where systemd does not run it."""
    restart: str
    """The command that ends it, if it runs, and starts it again."""
    stop: str
    """The command that ends it; empty when it does not run."""
    drive: str
    """The folder where the USB drive is mounted."""
    by_sudo: bool
    """The user works through sudo."""
    has_program: Callable[[str], bool]


def command_here(command: str, machine: LocalMachine) -> str:
    """Return the commands of a finding as this machine can run them; empty when none can be run.

    Args:
        command: shell commands, separated by "; ".
        machine: what is here.
    """
    command = command.replace(MEDIA_FOLDER, machine.drive)
    if not machine.managed:
        command = _UNIT_COMMAND.sub(lambda found: _without_systemd(found[1], found[2], machine), command)
    parts = [_part_here(part, machine) for part in command.split(SEPARATOR)]
    if machine.by_sudo:
        parts = [commands_with_sudo(part) for part in parts]
    return SEPARATOR.join(filter(None, dict.fromkeys(parts)))


def _without_systemd(verb: str, units: str, machine: LocalMachine) -> str:
    """Return what does the same for programs that a person starts."""
    return SEPARATOR.join(_for_unit(verb, unit.removesuffix(".service"), machine) for unit in units.split())


def _for_unit(verb: str, unit: str, machine: LocalMachine) -> str:
    if unit == "edge-agent":
        return {"start": machine.start, "stop": machine.stop}.get(verb, machine.restart)
    program = {"edge-uplink": "edge-agent serve uplink", "edge-agent-web": "edge-agent serve web"}[unit]
    return "" if verb == "stop" else program


def _part_here(part: str, machine: LocalMachine) -> str:
    if not machine.managed and _OF_SYSTEMD.match(part):
        return ""
    program = next(_programs(part), "")
    if program not in OPTIONAL_PROGRAMS or machine.has_program(program):
        return part
    if program == "timedatectl" and "set-time" in part:
        return _SET_CLOCK
    return _SUBSTITUTES.get(program, "")


def _programs(part: str) -> Iterator[str]:
    return (word for word in part.split() if word != "sudo")
