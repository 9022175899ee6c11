"""All checks, in the order in which doctor shows them, and the function that runs them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from edge_agent.doctor import (
    capture_checks,
    certificate_checks,
    configuration_checks,
    console_checks,
    daemon_checks,
    enrolment_checks,
    large_model_checks,
    machine_checks,
    program_checks,
    redaction_checks,
    socket_checks,
    state_checks,
    unit_access_checks,
    unit_checks,
    update_checks,
    uplink_checks,
)
from edge_agent.doctor.findings import Check, Finding, ProbeFailure
from edge_agent.doctor.installation import Installation
from edge_agent.doctor.local_commands import LocalMachine, command_here
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, query_daemon

MODULES = (
    program_checks,
    machine_checks,
    configuration_checks,
    enrolment_checks,
    unit_checks,
    state_checks,
    socket_checks,
    certificate_checks,
    unit_access_checks,
    daemon_checks,
    update_checks,
    capture_checks,
    redaction_checks,
    uplink_checks,
    large_model_checks,
    console_checks,
)
CHECK_GROUPS: tuple[CheckGroup, ...] = tuple(group for module in MODULES for group in module.GROUPS)
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
    machine = _local_machine(context)
    for finding in group.judge(facts):
        yield replace(finding, command=command_here(finding.command, machine))


def _local_machine(context: ProbeContext) -> LocalMachine:
    daemon, installation = context.daemon, context.installation
    return LocalMachine(
        managed=daemon.managed,
        start=daemon.start,
        restart=daemon.restart,
        stop=daemon.stop,
        drive=installation.media_folder,
        by_sudo=installation.by_sudo,
        has_program=installation.has_program,
    )


def unchecked(found: Iterable[Finding]) -> list[str]:
    """Return the names of the checks that this user was not allowed to make: all of a group whose probe was refused."""
    refused = {finding.check for finding in found if finding.verdict == "unseen" and finding.command}
    groups = [group for group in CHECK_GROUPS if refused & {check.name for check in group.checks}]
    return [check.name for group in groups for check in group.checks]
