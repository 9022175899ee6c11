"""The systemd units of daemon and uplink, as `systemctl show` reports them, and what they must allow.

Beyond their hardening they must allow the network for a TCP listener, and a folder that is a store.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config.folder_access import UPLINK_USER, FolderFacts, judge_folder, store_folder
from edge_agent.config.sections import is_loopback, split_host_port
from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.installation import ENTER, READ, WRITE, Installation, can_reach, stat_file, stat_parents
from edge_agent.doctor.probe_context import (
    NO_PHASE,
    CheckGroup,
    ProbeContext,
    UnitPhase,
    is_failing,
    parse_phase,
    parse_properties,
    show_unit,
)
from edge_agent.formatting import counted, format_bytes, format_duration

SYSTEMD = Check("systemd", "units")
UNIT = Check("unit", "units")
BOOT = Check("start-at-boot", "units")
RESTARTS = Check("unit-restarts", "units")
WATCHDOG = Check("watchdog", "units")
MEMORY_LIMIT = Check("memory-limit", "units")
RELOAD = Check("unit-files", "units")

PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,WatchdogUSec,MemoryMax,MemoryCurrent,"
    "NeedDaemonReload,ExecMainStatus,ExecMainCode,FragmentPath,MainPID,StateChangeTimestampMonotonic"
)
SERVE, UPLINK = "edge-agent.service", "edge-uplink.service"
INSTALLER = "sudo sh edge-agent-*-linux-x86_64.run"
_INFINITE = ("infinity", str(2**64 - 1), "")
_NEARLY_FULL = 0.9
_BOOT_STATES = ("enabled", "static", "alias", "linked", "generated", "enabled-runtime")
_CREDENTIALS_STATUS = "243"  # EXIT_CREDENTIALS of systemd.exec(5)
_NOT_RUN = "0"  # ExecMainCode of a program that did not run

# By systemd's word for why a unit failed: what it means, what to do, with which command.
_FAILURES = {
    "watchdog": (
        "it did not answer the watchdog's trial request in time, and systemd ended it",
        "systemd starts it again. If it happens again, find the engine that hangs, and roll its task back.",
        "edge-agent status; sudo journalctl -u {unit} -b | tail -100; edge-agent rollback TASK",
    ),
    "oom-kill": (
        "the kernel ended it because memory was exhausted",
        "Raise 'memory_bytes_max' under 'engine' in agent.yaml if the machine has more, or remove a task.",
        "sudo journalctl -k -b | grep -i oom; edge-agent bundles list",
    ),
    "start-limit-hit": (
        "it ended too often in a row, and systemd no longer starts it",
        "Find the cause in its log and fix it; then start it again.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl reset-failed {unit}; sudo systemctl start {unit}",
    ),
    "timeout": (
        "it was not ready in time",
        "Find in its log what it waited for. A slow disk takes longer at the first start.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl restart {unit}",
    ),
    "signal": (
        "a signal ended it (signal {status})",
        "Signal 4 means a program for another processor: install the portable one. Otherwise send a support bundle.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl restart {unit}; sudo edge-agent support-bundle",
    ),
    "exit-code": (
        "it ended with exit code {status}",
        "The last line of its log shows the reason and what to do.",
        "sudo journalctl -u {unit} -b | tail -30; sudo systemctl restart {unit}",
    ),
}
_CREDENTIALS_FAILURE = (
    "systemd could not read a credential of the unit",
    "Enrol the site again, or write the credential again: systemd opens it only on the machine that sealed it.",
    "ls -l /etc/credstore.encrypted /etc/credstore; sudo systemctl cat {unit}; sudo systemctl restart {unit}",
)
# There is no exit code then: what failed is a command before the program, or the preparation of its process.
_NOT_RUN_FAILURE = (
    "systemd could not start its program",
    "The last lines of its log show the step that failed, such as a command of a drop-in.",
    _FAILURES["exit-code"][2],
)
# While systemd starts a unit again, it no longer reports why the unit failed.
_RETRY_FAILURE = (
    "systemd has started it {times} after a failure, and starts it now",
    "The last line of its log before the start shows the reason and what to do. Restart it after that.",
    _FAILURES["exit-code"][2],
)


@dataclass(frozen=True)
class UnitFacts:
    """One unit."""

    name: str
    needed: bool
    """The configuration needs it."""
    properties: Mapping[str, str]
    phase: UnitPhase = NO_PHASE

    def value(self, key: str) -> str:
        """Return a property; empty when systemd does not report it."""
        return self.properties.get(key, "")

    def number(self, key: str) -> int:
        """Return a property as a number; 0 when it is not a number."""
        text = self.value(key)
        return int(text) if text.isdecimal() else 0

    @property
    def load(self) -> str:
        """loaded, not-found, masked, bad-setting or error."""
        return self.value("LoadState")

    @property
    def loaded(self) -> bool:
        """systemd has read its file."""
        return self.load == "loaded"

    @property
    def state(self) -> str:
        """active, inactive, failed, activating, ..."""
        return self.value("ActiveState")

    @property
    def active(self) -> bool:
        """It runs."""
        return self.state == "active"

    @property
    def failed(self) -> bool:
        """It ended with an error, and systemd starts it again, or has given up."""
        return is_failing(self.properties)

    @property
    def pid(self) -> str:
        """Its main process."""
        return self.value("MainPID")

    @property
    def restarts(self) -> int:
        """Number of restarts by systemd."""
        return self.number("NRestarts")

    @property
    def restarts_text(self) -> str:
        """The same, as text."""
        return counted(self.restarts, "time")

    @property
    def enabled(self) -> str:
        """UnitFileState: enabled, disabled, ..."""
        return self.value("UnitFileState") or "not enabled"

    @property
    def starts_at_boot(self) -> bool:
        """It starts with the machine."""
        return self.enabled in _BOOT_STATES

    @property
    def age(self) -> str:
        """How long it has been in its state, as text."""
        return format_duration(self.phase.seconds)

    @property
    def watchdog(self) -> str:
        """Time limit of the watchdog, as systemd writes it."""
        return self.value("WatchdogUSec")

    @property
    def memory(self) -> str:
        """Memory in use and its limit, as text."""
        return f"{format_bytes(self.number('MemoryCurrent'))} of {format_bytes(self.number('MemoryMax'))}"

    @property
    def failure(self) -> tuple[str, ...]:
        """Why it failed, what to do, and the command that does it."""
        if self.value("ExecMainStatus") == _CREDENTIALS_STATUS:
            parts = _CREDENTIALS_FAILURE
        elif self.state == "activating" and not self.value("SubState").startswith("auto-restart"):
            parts = _RETRY_FAILURE
        else:
            parts = _FAILURES.get(self.value("Result"), _FAILURES["exit-code"])
            if "{status}" in parts[0] and self.value("ExecMainCode") == _NOT_RUN:
                parts = _NOT_RUN_FAILURE
        values = {"unit": self.name, "status": self.value("ExecMainStatus"), "times": self.restarts_text}
        return tuple(part.format_map(values) for part in parts)

    @property
    def why(self) -> str:
        """Why it failed."""
        return self.failure[0]

    @property
    def remedy(self) -> str:
        """What to do."""
        return self.failure[1]

    @property
    def command(self) -> str:
        """The command that does it."""
        return self.failure[2]

    @property
    def start_if_needed(self) -> str:
        """The end of a remedy: 'systemctl unmask' removes the link that starts the unit at boot."""
        return f"; sudo systemctl enable --now {self.name}" if self.needed else ""


def judge_units(facts: tuple[UnitFacts, ...] | None) -> Iterator[Finding]:
    """Judge both units; None when systemd does not run this machine."""
    if facts is None:
        yield SYSTEMD.note("systemd does not run this machine: nothing restarts the daemon when it ends")
        return
    yield SYSTEMD.ok("systemd runs this machine")
    for unit in facts:
        yield from first_match(UNIT, _STATE, unit, about=unit.name)
        if unit.loaded:
            yield from first_match(BOOT, _BOOT, unit, about=unit.name)
            yield from first_match(RELOAD, _RELOAD, unit, about=unit.name)
        if unit.active:
            yield from first_match(RESTARTS, _RESTARTS, unit, about=unit.name)
        if unit.active and unit.name == SERVE:
            yield from first_match(WATCHDOG, _WATCHDOG, unit, about=unit.name)
            yield from first_match(MEMORY_LIMIT, _LIMIT, unit, about=unit.name)


_STATE: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.load == "masked",
        "{f.name} is masked: it cannot start",
        "A link to /dev/null replaced its file. Unmask it; the installer writes its file again.",
        f"sudo systemctl unmask {{f.name}}; {INSTALLER}{{f.start_if_needed}}",
    ),
    FindingRule(
        "fault",
        lambda f: f.load in ("error", "bad-setting"),
        "systemd cannot read {f.name}",
        "systemd-analyze names the line. Remove the drop-in that has it, or run the installer again.",
        f"systemd-analyze verify {{f.name}}; {INSTALLER}",
    ),
    FindingRule("note", lambda f: not f.loaded, "{f.name} is not installed", "The installer installs it.", INSTALLER),
    FindingRule("ok", lambda f: f.active, "{f.name} runs (pid {f.pid})"),
    FindingRule("fault", lambda f: f.failed, "{f.name} failed: {f.why}", "{f.remedy}", "{f.command}"),
    FindingRule(
        "note",
        lambda f: f.phase.name,
        "{f.name} is {f.phase.summary}",
        "Wait; then run doctor again.",
        "edge-agent doctor",
    ),
    FindingRule(
        "warning",
        lambda f: f.state in ("activating", "reloading", "deactivating"),
        "{f.name} has been {f.state} for {f.age}",
        "Find in its log what it waits for.",
        "sudo journalctl -u {f.name} -b | tail -100",
    ),
    FindingRule("ok", lambda f: not f.needed, "{f.name} is stopped, and is not needed"),
    FindingRule(
        "fault",
        otherwise,
        "{f.name} is stopped ({f.state})",
        "It was stopped by hand. Start it.",
        "sudo systemctl enable --now {f.name}",
    ),
)
_BOOT: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule("ok", lambda f: f.starts_at_boot, "{f.name} starts with the machine"),
    FindingRule(
        "warning",
        lambda f: f.needed,
        "{f.name} is {f.enabled}: it will not run after a reboot",
        "Enable it.",
        "sudo systemctl enable {f.name}",
    ),
)
_RELOAD: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.value("NeedDaemonReload") == "yes",
        "{f.name} was changed on disk after systemd read it",
        "Let systemd read it again.",
        "sudo systemctl daemon-reload && sudo systemctl restart {f.name}",
    ),
)
_RESTARTS: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.restarts,
        "systemd restarted {f.name} {f.restarts_text}",
        "Find in its log why it ended. 'systemctl reset-failed' then sets the count to zero.",
        'sudo journalctl -u {f.name} -b | grep -v \'"level": "info"\' | tail -50; sudo systemctl reset-failed {f.name}',
    ),
    FindingRule("ok", otherwise, "{f.name} has not failed since it was started"),
)
_WATCHDOG: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule(
        "warning",
        lambda f: f.watchdog in ("0", "infinity", ""),
        "{f.name} has none: nothing ends a daemon that hangs",
        "A drop-in or an old unit file turned it off. Remove that drop-in, or run the installer again.",
        "systemctl cat {f.name}; sudo systemctl daemon-reload; sudo systemctl restart {f.name}",
    ),
    FindingRule("ok", otherwise, "every {f.watchdog}"),
)
_LIMIT: tuple[FindingRule[UnitFacts], ...] = (
    FindingRule(
        "note",
        lambda f: f.value("MemoryMax") in _INFINITE,
        "{f.name} has none: a daemon that uses too much memory stops the whole machine",
        "Set 'memory_bytes_max' under 'engine' in agent.yaml, and restart the daemon.",
        "sudo systemctl restart {f.name}",
    ),
    FindingRule(
        "warning",
        lambda f: f.number("MemoryCurrent") > _NEARLY_FULL * f.number("MemoryMax"),
        "{f.memory}",
        "At the limit the kernel ends an engine. Raise 'memory_bytes_max' under 'engine', or remove a task.",
        "edge-agent status",
    ),
    FindingRule("ok", otherwise, "{f.memory}"),
)


def probe_units(context: ProbeContext) -> tuple[UnitFacts, ...] | ProbeFailure | None:
    """Ask systemd about both units; return None when systemd does not run this machine."""
    installation = context.installation
    if not installation.has_systemd:
        return None
    units = []
    for name, needed in ((SERVE, True), (UPLINK, installation.config.needs_uplink)):
        text = show_unit(installation, name, PROPERTIES)
        if text is None:
            return ProbeFailure("systemctl does not answer")
        units.append(UnitFacts(name, needed, parse_properties(text), parse_phase(text)))
    return tuple(units)


GROUPS = (CheckGroup((SYSTEMD, UNIT, BOOT, RELOAD, RESTARTS, WATCHDOG, MEMORY_LIMIT), probe_units, judge_units),)


LISTENER_NETWORK = Check("listener-network", "sockets")
FOLDER_STORE = Check("folder-store", "uplink")

_DROP_INS_COMMAND = "sudo edge-agent drop-ins --yes; sudo systemctl restart edge-agent"


@dataclass(frozen=True)
class ListenerNetworkFacts:
    """A TCP listener for other machines, and what the daemon's unit lets in."""

    address: str
    denied: tuple[str, ...]
    """IPAddressDeny= of the unit."""
    allowed: tuple[str, ...]
    """IPAddressAllow= of the unit."""

    @property
    def networks(self) -> str:
        """The networks that it lets in, without this machine itself."""
        return ", ".join(each for each in self.allowed if not _is_loopback_network(each))

    @property
    def is_closed(self) -> bool:
        """The unit denies every address, and allows this machine alone."""
        return any(each in ("0.0.0.0/0", "::/0", "any") for each in self.denied) and not self.networks


_LISTENER: tuple[FindingRule[ListenerNetworkFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.is_closed,
        f"no other machine reaches {{f.address}}: {SERVE} accepts connections from this machine only",
        "Write the drop-in that lets the networks of this machine in; for others add '--allow NETWORK'.",
        _DROP_INS_COMMAND,
    ),
    FindingRule("ok", lambda f: f.networks, f"{SERVE} lets in {{f.networks}}"),
    FindingRule("ok", otherwise, f"{SERVE} denies no network"),
)


def judge_listener_network(facts: ListenerNetworkFacts | None) -> Iterator[Finding]:
    """Judge the unit of a TCP listener; None when there is no such listener, or systemd does not run it."""
    if facts is not None:
        yield from first_match(LISTENER_NETWORK, _LISTENER, facts)


def judge_folder_stores(folders: tuple[FolderFacts, ...]) -> Iterator[Finding]:
    """Judge each folder that is an object store."""
    for facts in folders:
        problem = judge_folder(facts)
        if problem is None:
            yield FOLDER_STORE.ok(f"the uplink can use {facts.path}", about=str(facts.path))
        else:
            yield FOLDER_STORE.fault(problem.message, problem.remedy, problem.command, about=str(facts.path))


def probe_listener_network(context: ProbeContext) -> ListenerNetworkFacts | ProbeFailure | None:
    """Ask systemd what the daemon's unit lets in."""
    address = context.installation.config.service.tcp_address
    if not address or is_loopback(split_host_port(address)[0]) or not context.daemon.managed:
        return None
    text = show_unit(context.installation, SERVE, "IPAddressDeny,IPAddressAllow")
    if text is None:
        return ProbeFailure("systemctl does not answer")
    properties = parse_properties(text)
    denied, allowed = (tuple(properties.get(key, "").split()) for key in ("IPAddressDeny", "IPAddressAllow"))
    return ListenerNetworkFacts(address, denied, allowed)


def probe_folder_stores(context: ProbeContext) -> tuple[FolderFacts, ...] | ProbeFailure:
    """Look at each folder that is an object store."""
    installation, managed = context.installation, context.daemon.managed
    uplink = installation.config.uplink
    folders = []
    for url, is_written in ((uplink.url, True), (uplink.updates_url, False)):
        if folder := store_folder(url):
            text = show_unit(installation, UPLINK, "ReadWritePaths") if managed and is_written else ""
            if text is None:
                return ProbeFailure("systemctl does not answer")
            writable = parse_properties(text).get("ReadWritePaths", "").split()
            unit_allows = any(folder.is_relative_to(path.strip('"').lstrip("-+")) for path in writable)
            folders.append(_probe_folder(installation, folder, unit_allows, written=is_written, managed=managed))
    return tuple(folders)


def _probe_folder(
    installation: Installation, folder: Path, unit_allows: bool, *, written: bool, managed: bool
) -> FolderFacts:
    file, user = stat_file(folder), installation.find_user(UPLINK_USER) if managed else None
    if not file.kind:
        return FolderFacts(folder, "", written, managed, unit_allows=unit_allows)
    rights = READ | ENTER | (WRITE if written else 0)
    usable = can_reach(user, stat_parents(folder), file, rights) if user else None
    return FolderFacts(folder, file.kind, written, managed, usable, file.owner_and_mode, unit_allows)


def _is_loopback_network(network: str) -> bool:
    try:
        return ipaddress.ip_network(network, strict=False).is_loopback
    except ValueError:
        return network in ("localhost", "")


ACCESS_GROUPS = (
    CheckGroup((LISTENER_NETWORK,), probe_listener_network, judge_listener_network),
    CheckGroup((FOLDER_STORE,), probe_folder_stores, judge_folder_stores),
)
