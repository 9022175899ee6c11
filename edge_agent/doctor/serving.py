"""What the running daemon says of itself: whether it answers, its engines, its tasks. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.client import Engine, Status
from edge_agent.doctor import field
from edge_agent.doctor.examples import NOT_KEPT
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise
from edge_agent.doctor.sockets import log_of, start

DAEMON = Check("daemon", "daemon")
VERSION = Check("daemon-version", "daemon")
ENGINE = Check("engine", "daemon")
ENGINE_RESTARTS = Check("engine-restarts", "daemon")
DEVICE = Check("device", "daemon")
COMPONENT = Check("component", "daemon")
CONFINED = Check("confinement", "daemon")
TASKS = Check("tasks", "daemon")
CONFIDENCE = Check("confidence", "daemon")
GATE = Check("gate", "daemon")
SIGNATURES = Check("signatures", "daemon")
REVOKED = Check("revoked", "daemon")
WARNINGS = Check("daemon-warnings", "daemon")

_LOG = "sudo journalctl -u edge-agent -b | tail -100"
_STOPPED_STATES = {"T": "its process is stopped", "D": "it waits for the disk", "Z": "its process has ended"}
# How sentences of status.warnings begin that other checks judge.
_SAID_ELSEWHERE = ("Without a verified signature", "Engine ", "Task ", "Component ", *NOT_KEPT)


@dataclass(frozen=True)
class Answering:
    """What came of asking the daemon for its status."""

    path: str
    """The admin socket."""
    managed: bool
    """systemd runs it."""
    status: Status | None
    reason: str = ""
    """Why there is none: UNREACHABLE, DEADLINE_EXPIRED, FORBIDDEN or another code."""
    said: str = ""
    pid: int = 0
    """Of whoever listens there; 0 = nobody, or it cannot be seen."""
    process_state: str = ""
    """R, S, D, T or Z of proc(5)."""
    up_seconds: float = 0.0
    version: str = ""
    """Of this command."""

    @property
    def how(self) -> str:
        """How its process is, for people."""
        return _STOPPED_STATES.get(self.process_state, "it hangs")

    @property
    def begin(self) -> str:
        """The command that starts it, and the one that shows its log."""
        return start(self.managed) + log_of(self.managed)

    @property
    def restart(self) -> str:
        """The command that starts it again."""
        return start(self.managed, "restart")


def daemon(facts: Answering) -> Iterator[Finding]:
    """Judge whether the daemon answers, and what it says."""
    if facts.status is None:
        yield from first(DAEMON, _SILENT, facts)
        return
    status = facts.status
    said = f"version {status.agent_version}, up {lasting(facts.up_seconds)}, {format_bytes(status.resident_bytes)}"
    if status.serving:
        yield DAEMON.ok(f"answers: {said}")
    else:
        remedy = "It is stopping, or somebody drained it. Start it again if it should not."
        yield DAEMON.warning(f"takes no new work: {said}", remedy, start(facts.managed, "restart"))
    yield _version(status, facts)
    yield from _components(status, facts)
    for engine in status.engines:
        yield from _engine(engine)
    yield from _tasks(status)
    yield from _confidence(status)
    yield from _gate(status)
    yield from _provenance(status)
    yield from field.alarms(status.alarms)


_SILENT: tuple[Case[Answering], ...] = (
    Case(
        "unseen",
        lambda f: f.reason == "FORBIDDEN",
        "could not look: this user may not use {f.path}",
        "Run doctor as root to see more.",
        "sudo edge-agent doctor",
    ),
    Case(
        "fault",
        lambda f: f.reason in ("DEADLINE_EXPIRED", "UNREACHABLE") and f.pid and f.process_state == "D",
        "pid {f.pid} listens at {f.path} and does not answer: {f.how}",
        "No signal ends it before the disk answers. Look at the disk; start the machine again if it stays.",
        "sudo edge-agent support-bundle; sudo dmesg | tail -50",
    ),
    Case(
        "fault",
        lambda f: f.reason in ("DEADLINE_EXPIRED", "UNREACHABLE") and f.pid,
        "pid {f.pid} listens at {f.path} and does not answer: {f.how}",
        "Keep a support bundle first if it happened before; then end it and start it again.",
        "sudo edge-agent support-bundle; sudo kill -KILL {f.pid}; {f.restart}",
    ),
    Case(
        "fault",
        lambda f: f.reason == "DEADLINE_EXPIRED",
        "it does not answer at {f.path}",
        "Start it again.",
        "sudo edge-agent support-bundle; {f.restart}",
    ),
    Case(
        "fault",
        lambda f: f.reason == "UNREACHABLE",
        "nobody answers at {f.path}: it does not run",
        "Start it; its log says why it ended.",
        "{f.begin}",
    ),
    Case("fault", otherwise, "{f.said} ({f.reason})", "Its log says more.", _LOG),
)


def _components(status: Status, facts: Answering) -> Iterator[Finding]:
    """Judge what has died in the background."""
    for said in status.warnings:
        if said.startswith("Component "):
            remedy = (
                "It is started again by itself. If that happens again, send the log in, and start the daemon again."
            )
            name = said.removeprefix("Component ").partition(" stopped ")[0].partition(" returned ")[0]
            yield COMPONENT.fault(said, remedy, f"{_LOG}; {facts.restart}", about=name)


def _version(status: Status, facts: Answering) -> Finding:
    if status.agent_version == facts.version:
        return VERSION.ok(f"command and daemon are {facts.version}")
    said = f"the daemon is {status.agent_version}, this command is {facts.version}"
    remedy = "It was upgraded and not restarted, or two versions are installed."
    return VERSION.warning(said, remedy, start(facts.managed, "restart"))


@dataclass(frozen=True)
class _Model:
    """An engine, in words."""

    engine: Engine

    @property
    def well(self) -> str:
        code = self.engine.details.get("cpu_variant")
        named = f", code for {code} processors" if code else ""
        return f"ready on {self.engine.device or 'cpu'}, {format_bytes(self.engine.resident_bytes)}{named}"

    @property
    def shown(self) -> str:
        layers, about = (self.engine.details.get(each, "unknown") for each in ("gpu_layers", "device_description"))
        return f"{self.engine.device}, {about}; layers: {layers}"

    @property
    def said(self) -> str:
        return f"{self.engine.state.lower().replace('_', ' ')}: {self.engine.problem or 'no reason given'}"


_ENGINE: tuple[Case[_Model], ...] = (
    Case("ok", lambda f: f.engine.state == "READY" and not f.engine.problem, "{f.well}"),
    Case(
        "warning",
        lambda f: f.engine.state == "READY",
        "{f.said}",
        "It answers, but not for every task: roll that task back, or install its bundle again.",
        "edge-agent status; edge-agent rollback TASK",
    ),
    Case(
        "warning",
        lambda f: f.engine.state in ("STARTING", "STOPPING"),
        "{f.said}",
        "Run doctor again in a minute.",
        "edge-agent doctor",
    ),
    Case(
        "fault",
        lambda f: f.engine.state == "BACKING_OFF",
        "{f.said}",
        "It died and is started again after a pause. If it goes on: roll its task back, and send the log in.",
        f"edge-agent rollback TASK; {_LOG}",
    ),
    Case(
        "fault",
        otherwise,
        "{f.said}",
        "It is given up: installing its bundle again starts it anew; 'rollback' goes back to the one before.",
        f"edge-agent rollback TASK; {_LOG}",
    ),
)


# The CPU by choice is nothing to tell.
_DEVICE: tuple[Case[_Model], ...] = (
    Case(
        "warning",
        lambda f: f.engine.shortfall,
        "computes on {f.engine.device}: {f.engine.shortfall}",
        "docs/devices.md says what each device needs; 'device: cpu' under 'engine' in agent.yaml ends the wish.",
        "edge-agent status; ls -l /dev/dri /dev/nvidia*",
    ),
    Case("ok", lambda f: f.engine.device not in ("", "cpu"), "{f.shown}"),
)


def _engine(engine: Engine) -> Iterator[Finding]:
    about = engine.name
    yield from first(ENGINE, _ENGINE, _Model(engine), about=about)
    yield from first(DEVICE, _DEVICE, _Model(engine), about=about)
    if engine.restarts:
        remedy = "An input that kills an engine is refused for a while by itself. If the number grows, send the log in."
        yield ENGINE_RESTARTS.warning(f"was started again {engine.restarts} times", remedy, _LOG, about=about)
    yield from _confined(engine)


def _confined(engine: Engine) -> Iterator[Finding]:
    """Judge what an engine's child reports; one that is not loaded reports nothing."""
    found = {name: engine.details[name] for name in ("seccomp", "landlock") if name in engine.details}
    missing = [f"{measure}: {said}" for measure, said in found.items() if said != "on"]
    if missing:
        remedy = "Use a kernel with seccomp and Landlock (5.13 or newer); until then install only bundles you trust."
        yield CONFINED.warning("; ".join(missing), remedy, "uname -r", about=engine.name)
    elif found:
        limit = engine.details.get("memory", "unknown")
        yield CONFINED.ok(f"seccomp and Landlock on; memory limit: {limit}", about=engine.name)


def _tasks(status: Status) -> Iterator[Finding]:
    if not status.tasks:
        remedy = "Import an update from a stick, or install a bundle."
        command = "sudo edge-agent import /media/stick"
        yield TASKS.warning("nothing is installed", remedy, command)
    problems = [said for said in status.warnings if said.startswith("Task ")]
    for task in status.tasks:
        if task.ready:
            yield TASKS.ok(f"{task.bundle.version} answers", about=task.name)
            continue
        why = next((said for said in problems if said.startswith(f"Task {task.name} ")), "it does not answer")
        remedy = "Wait a minute if its engine is starting. Otherwise go back, or install its bundle again."
        yield TASKS.fault(why, remedy, f"edge-agent rollback {task.name}", about=task.name)
    named = {task.name for task in status.tasks}
    for said in problems:
        name = said.split()[1]
        if "does not answer" in said and name not in named:
            yield TASKS.fault(said, "Go back, or install its bundle again.", f"edge-agent rollback {name}", about=name)


def _confidence(status: Status) -> Iterator[Finding]:
    """Judge whether the threshold of each task holds on this machine."""
    for task in status.tasks:
        if task.confidence_blocker:
            said = f"no answer of {task.bundle.version} is confident: {task.confidence_blocker}"
            remedy = (
                "Ask whoever made the bundle to convert it to another format: 'edge-convert quantize' measures each."
            )
            yield CONFIDENCE.warning(said, remedy, "edge-agent status", about=task.name)


def _gate(status: Status) -> Iterator[Finding]:
    """Name the tasks that answer inputs unlike their training data as confidently as others."""
    named = [task.name for task in status.tasks if task.gate == "none" and task.threshold is not None]
    if named:
        said = f"without a gate: {', '.join(named)}; an input unlike the training data can get a confident answer"
        remedy = (
            "Nothing is wrong. Ask the team that made the bundles for new ones, which edge-convert makes with a gate."
        )
        yield GATE.note(said, remedy, "edge-agent models")


def _provenance(status: Status) -> Iterator[Finding]:
    unsigned = [task.name for task in status.tasks if not task.signed]
    if unsigned:
        said = f"without a verified signature: {', '.join(unsigned)}"
        remedy = (
            "Anyone could have made these bundles. Install signed ones, and remove 'allow_unsigned' from agent.yaml."
        )
        yield SIGNATURES.warning(said, remedy, "edge-agent models")
    elif status.tasks:
        yield SIGNATURES.ok("every task is answered by a signed bundle")
    for said in status.warnings:
        if "which the central team has revoked" in said:
            yield REVOKED.warning(
                said, "It goes on answering. Ask the central team what comes next.", "edge-agent status"
            )
        elif not said.startswith(_SAID_ELSEWHERE):
            yield WARNINGS.warning(said, "The sentence says what to do.", "edge-agent status")
