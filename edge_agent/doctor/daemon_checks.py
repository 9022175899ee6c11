"""What the running daemon reports: whether it answers, its engines, its tasks, alarms against what answers.

The daemon was asked once, for all checks: see probe_context.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from edge_agent.client import Engine, FieldAlarm, Status, Task
from edge_agent.doctor.findings import (
    RIGHTS_COMMAND,
    RIGHTS_REMEDY,
    Check,
    Finding,
    FindingRule,
    first_match,
    otherwise,
)
from edge_agent.doctor.probe_context import CheckGroup, DaemonFacts
from edge_agent.formatting import counted, format_bytes, format_duration

DAEMON = Check("daemon", "daemon")
VERSION = Check("daemon-version", "daemon")
ENGINE = Check("engine", "daemon")
ENGINE_RESTARTS = Check("engine-restarts", "daemon")
DEVICE = Check("device", "daemon")
CONFINED = Check("confinement", "daemon")
TASKS = Check("tasks", "daemon")
CONFIDENCE = Check("confidence", "daemon")
GATE = Check("gate", "daemon")
SIGNATURES = Check("signatures", "daemon")
REVOKED = Check("revoked", "daemon")
WARNINGS = Check("daemon-warnings", "daemon")
COMPONENT = Check("component", "daemon")
RISK = Check("field-promise", "daemon")
DRIFT = Check("field-drift", "daemon")
DEMOTED = Check("field-demoted", "daemon")

_LOG = "sudo journalctl -u edge-agent -b | tail -100"
_RISK_ALARMS = ("errors", "opinions")
RESTARTS_SECONDS = 86_400.0
"""Fewer restarts of an engine than one in this time are something to know, and no warning."""
# Kinds of the daemon's warnings that checks of this or another subject judge by what else the daemon reports.
_JUDGED_ELSEWHERE = (
    *("UNSIGNED", "ENGINE", "CONFINEMENT", "DEVICE", "REVOKED", "TASK_SILENT", "CONFIDENCE", "COMPONENT"),
    *("EXAMPLES_OFF", "EXAMPLES_STALLED", "REDACTION_MISSED"),
)


def judge_daemon(facts: DaemonFacts) -> Iterator[Finding]:
    """Judge whether the daemon answers, then what it reports."""
    if facts.status is None:
        yield from first_match(DAEMON, _SILENT, facts)
        return
    status = facts.status
    seen = (
        f"version {status.agent_version}, up {format_duration(facts.up_seconds)}, {format_bytes(status.resident_bytes)}"
    )
    if status.serving:
        yield DAEMON.ok(f"answers: {seen}")
    elif facts.is_draining:
        yield DAEMON.note(f"draining for {status.draining_seconds:.0f} s: it finishes what runs, then ends. {seen}")
    else:
        since = f" for {format_duration(status.draining_seconds)}" if status.draining_seconds else ""
        remedy = "An operator drained it. Restart it if it should take work."
        yield DAEMON.warning(f"takes no new work{since}: {seen}", remedy, facts.restart)
    if status.agent_version == facts.version:
        yield VERSION.ok(f"command and daemon are {facts.version}")
    else:
        seen = f"the daemon is {status.agent_version}, this command is {facts.version}"
        remedy = "The daemon was not restarted after an upgrade, or two versions are installed. Restart it."
        yield VERSION.warning(seen, remedy, facts.restart)
    for warning in status.warning_details:
        if warning.kind == "COMPONENT":
            remedy = "It restarts automatically. If it fails again, restart the daemon, and send a support bundle."
            yield COMPONENT.fault(warning.message, remedy, f"{_LOG}; {facts.restart}", about=warning.about)
    for engine in status.engines:
        yield from _judge_engine(_EngineView(engine, facts))
    yield from _judge_tasks(status, facts)
    yield from _judge_thresholds(status)
    yield from _judge_provenance(status)
    yield from judge_alarms(status.alarms)


_SILENT: tuple[FindingRule[DaemonFacts], ...] = (
    FindingRule(
        "unseen",
        lambda f: f.reason == "FORBIDDEN",
        "not checked: this user may not use {f.path}",
        RIGHTS_REMEDY,
        RIGHTS_COMMAND,
    ),
    FindingRule(
        "note",
        lambda f: f.reason in ("DEADLINE_EXPIRED", "UNREACHABLE") and f.phase.name and not f.pid,
        "{f.phase.summary}",
        "Wait; then run doctor again.",
        "edge-agent doctor",
    ),
    FindingRule(
        "fault",
        lambda f: f.reason in ("DEADLINE_EXPIRED", "UNREACHABLE") and f.pid and f.process_state == "D",
        "pid {f.pid} listens at {f.path} and does not answer: {f.why_silent}",
        "No signal ends it until the disk answers. Check the disk; restart the machine if it stays like this.",
        "sudo edge-agent support-bundle; sudo dmesg | tail -50",
    ),
    FindingRule(
        "fault",
        lambda f: f.reason in ("DEADLINE_EXPIRED", "UNREACHABLE") and f.pid,
        "pid {f.pid} listens at {f.path} and does not answer: {f.why_silent}",
        "Make a support bundle first if it happened before. Then end the process, and start the daemon again.",
        "sudo edge-agent support-bundle; sudo kill -KILL {f.pid}; {f.restart_killed}",
    ),
    FindingRule(
        "fault",
        lambda f: f.reason == "DEADLINE_EXPIRED" or (f.reason == "UNREACHABLE" and f.is_hidden),
        "it does not answer at {f.path}, and its process is not visible from here",
        "It runs where this command cannot see it, such as in another container. End it there, and start it again.",
        "sudo edge-agent support-bundle{f.restart_unseen}",
    ),
    FindingRule(
        "fault",
        lambda f: f.reason == "UNREACHABLE",
        "no process answers at {f.path}: the daemon does not run",
        "Start it; its log shows why it ended.",
        "{f.start}",
    ),
    FindingRule(
        "fault",
        otherwise,
        "{f.message} ({f.reason})",
        "Start it again. If the finding comes back, send a support bundle.",
        f"{_LOG}; {{f.restart}}",
    ),
)


@dataclass(frozen=True)
class _EngineView:
    """An engine, as text."""

    engine: Engine
    daemon: DaemonFacts

    @property
    def is_moving(self) -> bool:
        """It starts or stops, which the daemon bounds: 'load_seconds_max', 'drain_seconds'."""
        return self.engine.state in ("STARTING", "STOPPING")

    @property
    def movement(self) -> str:
        is_first = self.engine.state == "STARTING" and not self.engine.restarts and self.daemon.is_young
        since = f" for {self.daemon.up_seconds:.0f} s" if is_first else ""
        return f"{self.engine.state.lower()}{since}{f': {self.engine.problem}' if self.engine.problem else ''}"

    @property
    def health(self) -> str:
        code = self.engine.details.get("cpu_variant")
        variant = f", code for {code} processors" if code else ""
        return f"ready on {self.engine.device or 'cpu'}, {format_bytes(self.engine.resident_bytes)}{variant}"

    @property
    def accelerator(self) -> str:
        layers, description = (self.engine.details.get(key, "unknown") for key in ("gpu_layers", "device_description"))
        return f"{self.engine.device}, {description}; layers: {layers}"

    @property
    def problem(self) -> str:
        return f"{self.engine.state.lower().replace('_', ' ')}: {self.engine.problem or 'no reason given'}"


_ENGINE: tuple[FindingRule[_EngineView], ...] = (
    FindingRule("ok", lambda f: f.engine.state == "READY" and not f.engine.problem, "{f.health}"),
    FindingRule(
        "warning",
        lambda f: f.engine.state == "READY",
        "{f.problem}",
        "It does not answer for every task. Roll the failing task back, or install its bundle again.",
        "edge-agent status; edge-agent rollback TASK",
    ),
    FindingRule(
        "note",
        lambda f: f.is_moving,
        "{f.movement}",
        "Wait; then run doctor again.",
        "edge-agent doctor",
    ),
    FindingRule(
        "fault",
        lambda f: f.engine.state == "BACKING_OFF",
        "{f.problem}",
        "It died or did not load, and restarts after a pause. If that repeats: roll back, and send a support bundle.",
        f"edge-agent rollback TASK; {_LOG}",
    ),
    FindingRule(
        "fault",
        otherwise,
        "{f.problem}",
        "The daemon no longer restarts it. Install its bundle again, or roll the task back to the previous one.",
        f"edge-agent rollback TASK; {_LOG}",
    ),
)


# A CPU that was chosen needs no finding.
_DEVICE: tuple[FindingRule[_EngineView], ...] = (
    FindingRule(
        "warning",
        lambda f: f.engine.shortfall,
        "computes on {f.engine.device}: {f.engine.shortfall}",
        "Install what the accelerator needs, or set 'device: cpu' under 'engine' in agent.yaml.",
        "edge-agent status; ls -l /dev/dri /dev/nvidia*",
    ),
    FindingRule("ok", lambda f: f.engine.device not in ("", "cpu"), "{f.accelerator}"),
)


def _judge_engine(view: _EngineView) -> Iterator[Finding]:
    engine, about = view.engine, view.engine.name
    yield from first_match(ENGINE, _ENGINE, view, about=about)
    yield from first_match(DEVICE, _DEVICE, view, about=about)
    if engine.restarts:
        seen = f"was restarted {counted(engine.restarts, 'time')} since the daemon started"
        remedy = (
            "The daemon refuses an input that killed an engine for a while. If the number grows, send a support bundle."
        )
        if engine.restarts * RESTARTS_SECONDS > view.daemon.up_seconds:
            yield ENGINE_RESTARTS.warning(seen, remedy, _LOG, about=about)
        else:
            yield ENGINE_RESTARTS.note(seen, remedy, _LOG, about=about)
    # An engine that is not loaded reports no confinement of its child.
    measures = {name: engine.details[name] for name in ("seccomp", "landlock") if name in engine.details}
    missing = [f"{measure}: {state}" for measure, state in measures.items() if state != "on"]
    if missing:
        remedy = "Use a kernel with seccomp and Landlock (5.13 or newer); until then install only bundles you trust."
        yield CONFINED.warning("; ".join(missing), remedy, "uname -r", about=about)
    elif measures:
        limit = engine.details.get("memory", "unknown")
        yield CONFINED.ok(f"seccomp and Landlock on; memory limit: {limit}", about=about)


def _judge_tasks(status: Status, facts: DaemonFacts) -> Iterator[Finding]:
    silent = {warning.about: warning.message for warning in status.warning_details if warning.kind == "TASK_SILENT"}
    if not status.tasks and not silent:
        yield TASKS.warning("nothing is installed", *_first_steps(facts))
    remedy = "Roll it back, or install its bundle again."
    for task in status.tasks:
        if task.ready:
            yield TASKS.ok(f"{task.bundle.version} answers", about=task.name)
        elif task.name not in silent and (movement := _waiting_reason(task, status, facts)):
            yield TASKS.note(movement, "Wait; then run doctor again.", "edge-agent doctor", about=task.name)
        else:
            seen = silent.get(task.name, "it does not answer")
            yield TASKS.fault(seen, remedy, f"edge-agent rollback {task.name}", about=task.name)
    listed_tasks = {task.name for task in status.tasks}
    for name, message in silent.items():
        if name not in listed_tasks:
            yield TASKS.fault(message, remedy, f"edge-agent rollback {name}", about=name)


def _first_steps(facts: DaemonFacts) -> tuple[str, str]:
    """Return how to install the first bundle, as a sentence and as a command."""
    if facts.takes_updates:
        return "Import an update from a USB drive.", "sudo edge-agent media import /media/usb"
    remedy = "Enrol this machine with the file that the central team made for it, then import an update."
    return remedy, "sudo edge-agent enrol FILE; sudo edge-agent media import /media/usb"


def _waiting_reason(task: Task, status: Status, facts: DaemonFacts) -> str:
    """Return what a task that does not answer waits for; empty when waiting does not help."""
    if facts.is_draining:
        return "it does not answer: the daemon is draining"
    engines = [engine for engine in status.engines if task.name in engine.tasks]
    if not all(engine.state in ("STARTING", "READY") and not engine.problem for engine in engines):
        return ""
    if facts.is_young:
        return f"starting for {facts.up_seconds:.0f} s"
    return "its engine is starting" if any(engine.state == "STARTING" for engine in engines) else ""


def _judge_thresholds(status: Status) -> Iterator[Finding]:
    """Report thresholds that do not hold on this machine, and tasks that can answer inputs unlike their training data
    with confidence.
    """
    for task in status.tasks:
        if task.confidence_blocker:
            seen = f"no answer of {task.bundle.version} is confident: {task.confidence_blocker}"
            remedy = "Ask the team that made the bundle for another format: 'edge-convert quantize' measures each."
            yield CONFIDENCE.warning(seen, remedy, "edge-agent status", about=task.name)
    ungated = [task.name for task in status.tasks if task.gate == "none" and _can_be_confident(task)]
    if ungated:
        seen = f"without a gate: {', '.join(ungated)}; an input unlike the training data can get a confident answer"
        remedy = (
            "Nothing is wrong. Ask the team that made the bundles for new ones, which edge-convert makes with a gate; "
            "a language model that answers several questions cannot have one, an encoder can."
        )
        yield GATE.note(seen, remedy, "edge-agent bundles list")


def _can_be_confident(task: Task) -> bool:
    """Return whether the task, or one of its questions, has a threshold."""
    return task.threshold is not None or any(question.threshold is not None for question in task.questions)


def _judge_provenance(status: Status) -> Iterator[Finding]:
    unsigned = [task.name for task in status.tasks if not task.signed]
    if unsigned:
        seen = f"without a verified signature: {', '.join(unsigned)}"
        remedy = "Their origin is unknown. Install signed bundles, and remove 'allow_unsigned' from agent.yaml."
        yield SIGNATURES.warning(seen, remedy, "edge-agent bundles list")
    elif status.tasks:
        yield SIGNATURES.ok("a signed bundle answers every task")
    for warning in status.warning_details:
        if warning.kind == "REVOKED":
            remedy = "It keeps answering. Ask the central team for its replacement."
            yield REVOKED.warning(warning.message, remedy, "edge-agent status", about=warning.about)
        elif warning.kind not in _JUDGED_ELSEWHERE:
            yield WARNINGS.warning(warning.message, "The warning itself names what to do.", "edge-agent status")


def judge_alarms(alarms: Iterable[FieldAlarm]) -> Iterator[Finding]:
    """Report alarms of production monitoring; no alarm yields no finding."""
    for alarm in alarms:
        if alarm.alarm in _RISK_ALARMS:
            yield RISK.fault(alarm.message, alarm.remedy, f"edge-agent mode {alarm.task} shadow", about=alarm.task)
        else:
            yield DRIFT.warning(f"{alarm.alarm}: {alarm.message}", alarm.remedy, "edge-agent review", about=alarm.task)
        if alarm.demoted:
            seen = f"in shadow because of the alarm '{alarm.alarm}', as the plan allows"
            remedy = "The large model answers meanwhile. Take the task out of shadow when the alarm is understood."
            yield DEMOTED.warning(seen, remedy, f"edge-agent mode {alarm.task} planned", about=alarm.task)


GROUPS = (
    CheckGroup(
        (
            *(DAEMON, VERSION, ENGINE, ENGINE_RESTARTS, DEVICE, CONFINED, TASKS, CONFIDENCE, GATE, SIGNATURES, REVOKED),
            *(WARNINGS, COMPONENT, RISK, DRIFT, DEMOTED),
        ),
        lambda context: context.daemon,
        judge_daemon,
    ),
)
