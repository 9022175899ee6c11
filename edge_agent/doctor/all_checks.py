"""All checks, in the order in which doctor shows them, and the commands of their findings as they run here.

The rules contain the commands for an installed appliance. They are adapted on a machine without systemd, without a
program, or for a user who works through sudo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from edge_agent.doctor import (
    capture_checks,
    certificate_checks,
    configuration_checks,
    console_checks,
    daemon_checks,
    enrolment_checks,
    machine_checks,
    program_checks,
    socket_checks,
    state_checks,
    unit_checks,
    update_checks,
    uplink_checks,
)
from edge_agent.doctor.findings import Check, Finding, ProbeFailure
from edge_agent.doctor.installation import MEDIA_FOLDER, Installation
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, query_daemon
from edge_agent.errors.base import commands_with_sudo

SEPARATOR = "; "
OPTIONAL_PROGRAMS = frozenset({"ip", "getent", "ping", "findmnt", "lsblk", "dmesg", "ss", "free", "ps", "timedatectl"})
"""System programs that a small machine may lack; not our own, and not those that every machine has."""
_SUBSTITUTES = {"timedatectl": "date", "findmnt": "cat /proc/mounts", "free": "cat /proc/meminfo"}
_SET_CLOCK = "sudo date --set 'YYYY-MM-DD HH:MM'"
_UNIT_COMMAND = re.compile(r"sudo systemctl (start|restart|try-restart|stop) ([a-z-]+(?:\.service)?(?: edge-uplink)?)")
_SYSTEMD_COMMAND = re.compile(r"(sudo )?(journalctl|systemctl|systemd-\w+) ")


@dataclass(frozen=True)
class LocalMachine:
    """The properties of this machine that decide which commands can run."""

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
        machine: the properties of this machine.
    """
    command = command.replace(MEDIA_FOLDER, machine.drive)
    if not machine.managed:
        command = _UNIT_COMMAND.sub(lambda match: _without_systemd(match[1], match[2], machine), command)
    parts = [_adapt_part(part, machine) for part in command.split(SEPARATOR)]
    if machine.by_sudo:
        parts = [commands_with_sudo(part) for part in parts]
    return SEPARATOR.join(filter(None, dict.fromkeys(parts)))


def _without_systemd(verb: str, units: str, machine: LocalMachine) -> str:
    """Return the equivalent commands for programs that a person starts."""
    commands = {
        "edge-agent": {"start": machine.start, "stop": machine.stop}.get(verb, machine.restart),
        "edge-uplink": "" if verb == "stop" else "edge-agent serve uplink",
        "edge-agent-web": "" if verb == "stop" else "edge-agent serve web",
    }
    return SEPARATOR.join(commands[unit.removesuffix(".service")] for unit in units.split())


def _adapt_part(part: str, machine: LocalMachine) -> str:
    if not machine.managed and _SYSTEMD_COMMAND.match(part):
        return ""
    program = next((word for word in part.split() if word != "sudo"), "")
    if program not in OPTIONAL_PROGRAMS or machine.has_program(program):
        return part
    if program == "timedatectl" and "set-time" in part:
        return _SET_CLOCK
    return _SUBSTITUTES.get(program, "")


CHECK_GROUPS: tuple[CheckGroup, ...] = (
    *program_checks.GROUPS,
    *machine_checks.GROUPS,
    *configuration_checks.GROUPS,
    *enrolment_checks.GROUPS,
    *unit_checks.GROUPS,
    *state_checks.GROUPS,
    *socket_checks.GROUPS,
    *certificate_checks.GROUPS,
    *unit_checks.ACCESS_GROUPS,
    *daemon_checks.GROUPS,
    *update_checks.GROUPS,
    *capture_checks.GROUPS,
    *uplink_checks.GROUPS,
    *console_checks.GROUPS,
)
CHECKS: dict[str, Check] = {check.name: check for group in CHECK_GROUPS for check in group.checks}


def run_checks(installation: Installation) -> list[Finding]:
    """Run every check. A check that this user may not run yields a finding too."""
    return evaluate(query_daemon(installation))


def evaluate(context: ProbeContext, groups: Sequence[CheckGroup] = CHECK_GROUPS) -> list[Finding]:
    """Run checks on an installation whose daemon was asked already."""
    return [finding for group in groups for finding in _run_group(group, context)]


def _run_group(group: CheckGroup, context: ProbeContext) -> Iterator[Finding]:
    try:
        facts = group.probe(context)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        facts = ProbeFailure(why, needs_rights=isinstance(error, PermissionError))
    if isinstance(facts, ProbeFailure):
        yield group.checks[0].unseen(facts)
        return
    daemon, installation = context.daemon, context.installation
    machine = LocalMachine(
        managed=daemon.managed,
        start=daemon.start,
        restart=daemon.restart,
        stop=daemon.stop,
        drive=installation.media_folder,
        by_sudo=installation.by_sudo,
        has_program=installation.has_program,
    )
    for finding in group.judge(facts):
        yield replace(finding, command=command_here(finding.command, machine))


def unchecked(findings: Iterable[Finding]) -> list[str]:
    """Return the names of the checks that this user was not allowed to make: all of a group whose probe was refused."""
    refused_checks = {finding.check for finding in findings if finding.verdict == "unseen" and finding.command}
    groups = [group for group in CHECK_GROUPS if refused_checks & {check.name for check in group.checks}]
    return [check.name for group in groups for check in group.checks]
