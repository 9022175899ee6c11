"""What systemd says of the two daemons: `systemctl show`, read and judged. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.doctor.findings import Case, Check, Finding, first, otherwise

SYSTEMD = Check("systemd", "units")
UNIT = Check("unit", "units")
BOOT = Check("start-at-boot", "units")
RESTARTS = Check("unit-restarts", "units")
WATCHDOG = Check("watchdog", "units")
MEMORY_LIMIT = Check("memory-limit", "units")
RELOAD = Check("unit-files", "units")

PROPERTIES = (
    "LoadState,ActiveState,SubState,Result,UnitFileState,NRestarts,WatchdogUSec,MemoryMax,MemoryCurrent,"
    "NeedDaemonReload,ExecMainStatus,ExecMainCode,FragmentPath,MainPID"
)
SERVE, UPLINK = "edge-agent.service", "edge-uplink.service"
_INFINITE = ("infinity", str(2**64 - 1), "")
_NEARLY = 0.9
_STARTS = ("enabled", "static", "alias", "linked", "generated", "enabled-runtime")
_CREDENTIALS_STATUS = "243"  # EXIT_CREDENTIALS of systemd.exec(5)

# Why a unit failed, by systemd's word for it: what that means, what to do, with which command.
_RESULTS = {
    "watchdog": (
        "it answered no trial request for too long, and was ended for it",
        "systemd starts it again. If it repeats: which engine hangs? Roll its task back.",
        "edge-agent status; sudo journalctl -u {unit} -b | tail -100; edge-agent rollback TASK",
    ),
    "oom-kill": (
        "the kernel ended it for want of memory",
        "Raise 'memory_bytes_max' under 'engine' in agent.yaml if the machine has more, or remove a task.",
        "sudo journalctl -k -b | grep -i oom; edge-agent models",
    ),
    "start-limit-hit": (
        "it ended too often in a row, and is not started any more",
        "Find the cause in its log and mend it; then let it start again.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl reset-failed {unit}; sudo systemctl start {unit}",
    ),
    "timeout": (
        "it was not ready in time",
        "Look in its log for what it waited for; a slow disk takes longer at the first start.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl restart {unit}",
    ),
    "signal": (
        "a signal ended it (signal {status})",
        "Signal 4 means a program for another processor: install the portable one again. Otherwise send the log in.",
        "sudo journalctl -u {unit} -b | tail -100; sudo systemctl restart {unit}; sudo edge-agent support-bundle",
    ),
    "exit-code": (
        "it ended with exit code {status}",
        "The last line of its log says what is in the way and what to do.",
        "sudo journalctl -u {unit} -b | tail -30; sudo systemctl restart {unit}",
    ),
}
_CREDENTIALS = (
    "a credential that its unit names could not be read",
    "Enrol the site again, or write the credential anew: systemd opens it only on the machine that sealed it.",
    "ls -l /etc/credstore.encrypted /etc/credstore; sudo systemctl cat {unit}; sudo systemctl restart {unit}",
)


@dataclass(frozen=True)
class UnitFacts:
    """One unit."""

    name: str
    wanted: bool
    """The configuration gives it something to do."""
    shown: Mapping[str, str]

    def says(self, key: str) -> str:
        """Return a property; empty when systemd does not say."""
        return self.shown.get(key, "")

    def number(self, key: str) -> int:
        """Return a property that is a number; 0 when it is none."""
        said = self.says(key)
        return int(said) if said.isdecimal() else 0

    @property
    def load(self) -> str:
        """Whether systemd has read its file: loaded, not-found, masked, bad-setting or error."""
        return self.says("LoadState")

    @property
    def loaded(self) -> bool:
        """It has."""
        return self.load == "loaded"

    @property
    def state(self) -> str:
        """active, inactive, failed, activating, ..."""
        return self.says("ActiveState")

    @property
    def active(self) -> bool:
        """It runs."""
        return self.state == "active"

    @property
    def failed(self) -> bool:
        """It ended by itself, and waits for the next try or for somebody."""
        return self.state == "failed" or self.says("SubState") == "auto-restart"

    @property
    def pid(self) -> str:
        """Of its main process."""
        return self.says("MainPID")

    @property
    def restarts(self) -> int:
        """How often systemd started it again."""
        return self.number("NRestarts")

    @property
    def enabled(self) -> str:
        """Whether it starts with the machine, in systemd's words."""
        return self.says("UnitFileState") or "not enabled"

    @property
    def starts(self) -> bool:
        """It does."""
        return self.enabled in _STARTS

    @property
    def watchdog(self) -> str:
        """How long it may be silent, in systemd's words."""
        return self.says("WatchdogUSec")

    @property
    def memory(self) -> str:
        """What it takes, for people."""
        return f"{format_bytes(self.number('MemoryCurrent'))} of {format_bytes(self.number('MemoryMax'))}"

    @property
    def end(self) -> tuple[str, ...]:
        """Why it ended, what to do, and with which command."""
        if self.says("ExecMainStatus") == _CREDENTIALS_STATUS:
            found = _CREDENTIALS
        else:
            found = _RESULTS.get(self.says("Result"), _RESULTS["exit-code"])
        return tuple(part.format(unit=self.name, status=self.says("ExecMainStatus")) for part in found)

    @property
    def why(self) -> str:
        """The first of it."""
        return self.end[0]

    @property
    def remedy(self) -> str:
        """The second of it."""
        return self.end[1]

    @property
    def command(self) -> str:
        """The third of it."""
        return self.end[2]


def properties(text: str) -> dict[str, str]:
    """Read what `systemctl show` prints."""
    return {key: value for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals}


def units(facts: tuple[UnitFacts, ...] | None) -> Iterator[Finding]:
    """Judge both units; None = this machine was not started by systemd."""
    if facts is None:
        yield SYSTEMD.note("this machine is not run by systemd: nothing starts the daemon again when it ends")
        return
    yield SYSTEMD.ok("systemd runs this machine")
    for unit in facts:
        yield from _unit(unit)


def _unit(unit: UnitFacts) -> Iterator[Finding]:
    yield from first(UNIT, _STATE, unit, about=unit.name)
    if unit.loaded:
        yield from first(BOOT, _BOOT, unit, about=unit.name)
        yield from first(RELOAD, _RELOAD, unit, about=unit.name)
    if unit.active:
        yield from first(RESTARTS, _RESTARTS, unit, about=unit.name)
    if unit.active and unit.name == SERVE:
        yield from first(WATCHDOG, _WATCHDOG, unit, about=unit.name)
        yield from first(MEMORY_LIMIT, _LIMIT, unit, about=unit.name)


_STATE: tuple[Case[UnitFacts], ...] = (
    Case(
        "fault",
        lambda f: f.load == "masked",
        "{f.name} is masked: it cannot start",
        "Somebody has forbidden it. Allow it again.",
        "sudo systemctl unmask {f.name}",
    ),
    Case(
        "fault",
        lambda f: f.load in ("error", "bad-setting"),
        "{f.name} cannot be read by systemd",
        "Run the installer again.",
        "systemd-analyze verify {f.name}",
    ),
    Case("note", lambda f: not f.loaded, "{f.name} is not installed", "The installer brings it.", "edge-agent doctor"),
    Case("ok", lambda f: f.active, "{f.name} runs (pid {f.pid})"),
    Case("fault", lambda f: f.failed, "{f.name} failed: {f.why}", "{f.remedy}", "{f.command}"),
    Case(
        "warning",
        lambda f: f.state in ("activating", "reloading", "deactivating"),
        "{f.name} is {f.state}",
        "Run doctor again in a minute.",
        "edge-agent doctor",
    ),
    Case("ok", lambda f: not f.wanted, "{f.name} is stopped, and has nothing to do"),
    Case(
        "fault",
        otherwise,
        "{f.name} is stopped ({f.state})",
        "Somebody stopped it. Start it.",
        "sudo systemctl enable --now {f.name}",
    ),
)
_BOOT: tuple[Case[UnitFacts], ...] = (
    Case("ok", lambda f: f.starts, "{f.name} starts with the machine"),
    Case(
        "warning",
        lambda f: f.wanted,
        "{f.name} is {f.enabled}: it will not run after a reboot",
        "Have it started with the machine.",
        "sudo systemctl enable {f.name}",
    ),
)
_RELOAD: tuple[Case[UnitFacts], ...] = (
    Case(
        "warning",
        lambda f: f.says("NeedDaemonReload") == "yes",
        "{f.name} was changed on the disk since systemd read it",
        "Let systemd read it.",
        "sudo systemctl daemon-reload && sudo systemctl restart {f.name}",
    ),
)
_RESTARTS: tuple[Case[UnitFacts], ...] = (
    Case(
        "warning",
        lambda f: f.restarts,
        "{f.name} was started again {f.restarts} times by systemd",
        "Look in its log why it ended.",
        'sudo journalctl -u {f.name} -b | grep -v \'"level": "info"\' | tail -50',
    ),
    Case("ok", otherwise, "{f.name} did not end by itself since it was started"),
)
_WATCHDOG: tuple[Case[UnitFacts], ...] = (
    Case(
        "warning",
        lambda f: f.watchdog in ("0", "infinity", ""),
        "{f.name} has none: a daemon that hangs stays so",
        "A drop-in or an old unit file turned it off. Take it out.",
        "sudo systemctl revert {f.name}",
    ),
    Case("ok", otherwise, "every {f.watchdog}"),
)
_LIMIT: tuple[Case[UnitFacts], ...] = (
    Case(
        "note",
        lambda f: f.says("MemoryMax") in _INFINITE,
        "{f.name} has none: a daemon that takes too much takes the machine with it",
        "Set 'memory_bytes_max' under 'engine' in agent.yaml, and restart the daemon.",
        "sudo systemctl restart {f.name}",
    ),
    Case(
        "warning",
        lambda f: f.number("MemoryCurrent") > _NEARLY * f.number("MemoryMax"),
        "{f.memory}",
        "At the limit the kernel ends an engine. Raise 'memory_bytes_max' under 'engine', or remove a task.",
        "edge-agent status",
    ),
    Case("ok", otherwise, "{f.memory}"),
)
