"""All checks, in the order in which they are shown: what looks, and the rule that judges what it saw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.doctor import (
    certificates,
    console,
    escalation,
    examples,
    field,
    machine,
    program,
    serving,
    settings,
    sockets,
    state,
    units,
    updates,
    uplink,
)
from edge_agent.doctor.findings import Check, Finding, Unseen
from edge_agent.doctor.probes import certificates as look_certificates
from edge_agent.doctor.probes import console as look_console
from edge_agent.doctor.probes import escalation as look_escalation
from edge_agent.doctor.probes import examples as look_examples
from edge_agent.doctor.probes import machine as look_machine
from edge_agent.doctor.probes import program as look_program
from edge_agent.doctor.probes import settings as look_settings
from edge_agent.doctor.probes import sockets as look_sockets
from edge_agent.doctor.probes import state as look_state
from edge_agent.doctor.probes import units as look_units
from edge_agent.doctor.probes import updates as look_updates
from edge_agent.doctor.probes import uplink as look_uplink
from edge_agent.doctor.probes.place import Place
from edge_agent.doctor.probes.serving import Case, ask


@dataclass(frozen=True)
class Look:
    """One look, and what it is for."""

    checks: tuple[Check, ...]
    probe: Callable[[Case], Any]
    rule: Callable[[Any], Iterator[Finding]]


LOOKS = (
    Look(
        (program.PACKAGES, program.INSTALLED, program.PREVIOUS, program.COMMAND), look_program.program, program.program
    ),
    Look((machine.CLOCK, machine.JUMP), look_machine.clock, machine.clock),
    Look((machine.DISK, machine.INODES), look_machine.disks, machine.disks),
    Look((machine.MEMORY,), look_machine.memory, machine.memory),
    Look((machine.CPU,), look_machine.cpu, machine.cpu),
    Look((machine.KERNEL, machine.HUGE_PAGES), look_machine.confinement, machine.kernel),
    Look(
        (settings.CONFIG, settings.STALE, settings.OVERRULED, settings.READABLE, settings.UNSIGNED),
        look_settings.config,
        settings.config,
    ),
    Look((settings.ENROLMENT,), look_settings.enrolment, settings.enrolment),
    Look((settings.ROOT,), look_settings.root, settings.root),
    Look((settings.SITE_KEY,), look_settings.site_key, settings.site_key),
    Look((settings.CREDENTIALS,), look_settings.credentials, settings.credentials),
    Look(
        (
            units.SYSTEMD,
            units.UNIT,
            units.BOOT,
            units.RELOAD,
            units.RESTARTS,
            units.WATCHDOG,
            units.MEMORY_LIMIT,
        ),
        look_units.units,
        units.units,
    ),
    Look((state.STATE_DIR, state.OWNERS), look_state.state_dir, state.state_dir),
    Look((state.DATABASE,), look_state.databases, state.databases),
    Look((state.EXCHANGE,), look_state.exchange, state.exchange),
    Look((sockets.SOCKET, sockets.GROUP), look_sockets.sockets, sockets.sockets),
    Look((sockets.PORT, sockets.PLAIN_TCP), look_sockets.ports, sockets.ports),
    Look((certificates.CERTIFICATE,), look_certificates.tls, certificates.certificates),
    Look(
        (
            serving.DAEMON,
            serving.VERSION,
            serving.ENGINE,
            serving.ENGINE_RESTARTS,
            serving.DEVICE,
            serving.CONFINED,
            serving.TASKS,
            serving.CONFIDENCE,
            serving.GATE,
            serving.SIGNATURES,
            serving.REVOKED,
            serving.WARNINGS,
            serving.COMPONENT,
            field.PROMISE,
            field.DRIFT,
            field.DEMOTED,
        ),
        lambda case: case.answering,
        serving.daemon,
    ),
    Look((updates.METADATA,), look_updates.metadata, updates.metadata),
    Look((updates.BELIEVED, updates.UPDATE), look_updates.updates, updates.updates),
    Look(
        (
            examples.KEEPING,
            examples.STALLED,
            examples.SPOOL,
            examples.LOSSES,
            examples.OUTBOX,
            examples.RECEIPTS,
        ),
        look_examples.examples,
        examples.examples,
    ),
    Look(
        (uplink.RUNNING, uplink.LINK, uplink.REFUSED, uplink.TROUBLE, uplink.DOWNLOADS),
        look_uplink.link,
        uplink.uplink,
    ),
    Look(
        (escalation.LARGE_MODEL, escalation.KEY, escalation.BUDGET),
        look_escalation.large_model,
        escalation.large_model,
    ),
    Look((console.CONSOLE,), look_console.console, console.console),
)
CHECKS: dict[str, Check] = {check.name: check for look in LOOKS for check in look.checks}


def examine(place: Place) -> list[Finding]:
    """Look at everything; what may not be looked at is a finding too."""
    return judge(ask(place))


def judge(case: Case, looks: Sequence[Look] = LOOKS) -> list[Finding]:
    """Likewise where the daemon was asked already."""
    return [finding for look in looks for finding in _look(look, case)]


def _look(look: Look, case: Case) -> Iterator[Finding]:
    try:
        seen = look.probe(case)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        seen = Unseen(said)
    if isinstance(seen, Unseen):
        yield look.checks[0].unseen(seen.why)
    else:
        yield from look.rule(seen)
