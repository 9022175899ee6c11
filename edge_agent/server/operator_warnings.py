"""What an operator should know, a sentence each, with its kind and what it is about: `GetStatusResponse.warnings`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent.engine.child_supervisor import EngineState
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import admin_pb2 as pb

if TYPE_CHECKING:
    from edge_agent.capture.capture_status import CaptureStatus
    from edge_agent.capture.example_capture import ExampleCapture
    from edge_agent.capture.redaction_audit import AuditFigures
    from edge_agent.engine.engine import EngineStatus
    from edge_agent.engine.pool import EnginePool
    from edge_agent.server.grpc_servers import GrpcServers
    from edge_agent.supervision import Supervisor
    from edge_agent.update.activation import Activation

STORE_STALLED_SECONDS = 120.0
"""One step takes no longer on a slow disk, except the copy of a large bundle."""
# Measures that an engine reports; a value other than "on" explains why the kernel or the configuration leaves it out.
CONFINEMENT = ("seccomp", "landlock")
Serving = Mapping[str, InstalledBundle]


def _warning(kind: pb.WarningKind, message: str, about: str = "") -> pb.StatusWarning:
    return pb.StatusWarning(kind=kind, about=about, message=message)


def of_engines(serving: Serving, engines: list[EngineStatus]) -> Iterator[pb.StatusWarning]:
    """Report bundles without a signature, then each engine: whether it answers, how it is confined, on which device."""
    unsigned = [task for task, bundle in serving.items() if not bundle.signed]
    if unsigned:
        message = f"Without a verified signature: {', '.join(unsigned)}. Anyone could have made these bundles."
        yield _warning(pb.WARNING_KIND_UNSIGNED, message)
    for engine in engines:
        yield from _of_engine(engine)
    for engine in engines:
        for shortfall in engine.shortfalls.values():
            message = f"Engine {engine.name} computes on {engine.device}: {shortfall}."
            yield _warning(pb.WARNING_KIND_DEVICE, message, engine.name)


def _of_engine(engine: EngineStatus) -> Iterator[pb.StatusWarning]:
    if engine.problem and engine.state is not EngineState.READY:
        message = f"Engine {engine.name} is {engine.state.value}: {engine.problem}."
        yield _warning(pb.WARNING_KIND_ENGINE, message, engine.name)
    elif engine.problem:
        message = f"Engine {engine.name} answers, but not for every task: {engine.problem}."
        yield _warning(pb.WARNING_KIND_ENGINE, message, engine.name)
    for measure in CONFINEMENT:
        if (state := engine.details.get(measure, "on")) != "on":
            message = f"Engine {engine.name} is not fully confined: {measure}: {state}."
            yield _warning(pb.WARNING_KIND_CONFINEMENT, message, engine.name)


def of_revoked(serving: Serving, revoked: frozenset[str]) -> Iterator[pb.StatusWarning]:
    """Report each task that a revoked bundle answers."""
    for task, bundle in serving.items():
        if task in revoked:
            message = f"Task {task} is answered by {bundle.manifest.version}, which the central team has revoked."
            message += " It continues to answer until their plan names another one: ask them."
            yield _warning(pb.WARNING_KIND_REVOKED, message, task)


def of_vectors(serving: Serving, capture: ExampleCapture) -> Iterator[pb.StatusWarning]:
    """Report each task that is configured to be captured and cannot be."""
    for task, bundle in serving.items():
        if bundle.manifest.task.kind == "embed" and capture.consent(task) != "off":
            message = f"Task {task} answers with vectors, of which nothing is kept."
            message += " Leave it out of 'collect' in agent.yaml."
            yield _warning(pb.WARNING_KIND_NOT_CAPTURED, message, task)


def of_tasks(activation: Activation, engines: EnginePool) -> Iterator[pb.StatusWarning]:
    """Report tasks that do not answer, bundles that cannot be used, tasks without a confident answer."""
    serving, problems = activation.serving, activation.problems
    for task, error in sorted(problems.items()):
        if task not in serving or not engines.ready(serving[task].digest):
            message = f"Task {task} does not answer: {error.message}. {error.remedy}"
            yield _warning(pb.WARNING_KIND_TASK_SILENT, message, task)
    said = {error.message for error in problems.values()}
    for broken in activation.inventory.unreadable:
        if broken.error.message not in said:
            message = f"Bundle {broken.name} cannot be used: {broken.error.message}. {broken.error.remedy}"
            yield _warning(pb.WARNING_KIND_BUNDLE_BROKEN, message, str(broken.name))
    for task, bundle in sorted(serving.items()):
        if why := engines.score_variance(bundle.digest):
            message = f"Task {task} answers, but no answer is confident: {why}."
            yield _warning(pb.WARNING_KIND_CONFIDENCE, message, task)


def of_servers(servers: GrpcServers) -> Iterator[pb.StatusWarning]:
    """Report what is wrong with TCP, its certificates, and the audit log."""
    for message in servers.tcp_warnings():
        yield _warning(pb.WARNING_KIND_TCP, message)
    if servers.audit_problem:
        yield _warning(pb.WARNING_KIND_AUDIT_LOG, f"Audit log: {servers.audit_problem}.")


def of_components(*supervisors: Supervisor) -> Iterator[pb.StatusWarning]:
    """Report which background components have died."""
    for supervisor in supervisors:
        for name, message in supervisor.problems_by_name.items():
            yield _warning(pb.WARNING_KIND_COMPONENT, message, name)


def of_store(activation: Activation, state_dir: Path) -> Iterator[pb.StatusWarning]:
    """Report a disk that does not finish a step of an install or update."""
    if (seconds := activation.stalled_seconds) >= STORE_STALLED_SECONDS:
        message = f"The disk of {state_dir} has worked on one step of an install or update for {seconds:.0f} s."
        message += " What answers continues; installs and updates wait. Check the disk ('dmesg')."
        yield _warning(pb.WARNING_KIND_STORE_STALLED, message)


def of_examples(examples: CaptureStatus) -> Iterator[pb.StatusWarning]:
    """Report why nothing is captured, or why segments or receipts do not move."""
    kind = pb.WARNING_KIND_EXAMPLES_EXCHANGE
    if examples.stalled_seconds:
        kind = pb.WARNING_KIND_EXAMPLES_STALLED
    elif examples.is_off:
        kind = pb.WARNING_KIND_EXAMPLES_OFF
    for message in examples.problems:
        yield _warning(kind, message)


def of_redaction(capture: ExampleCapture, audit: AuditFigures | None) -> Iterator[pb.StatusWarning]:
    """Report that the redaction model does not read what should be captured or sent, or misses more than promised."""
    if audit is not None and audit.is_exceeded:
        message = (
            f"Redaction misses more than {audit.model} promises: {100 * audit.share.value:.1f}% of the"
            f" personal values in {audit.texts} audited texts remain (95% interval {100 * audit.share.low:.1f}% to"
            f" {100 * audit.share.high:.1f}%), and {100 * (audit.target or 0):g}% is promised. Stop collecting until"
            " the central team has a better bundle; 'edge-agent redact --export FILE' writes rows to train it."
        )
        yield _warning(pb.WARNING_KIND_REDACTION_MISSED, message, audit.model)
    if capture.redaction is not None and (problem := capture.redaction.problem):
        message = f"{problem} Install or allow its bundle; 'edge-agent status' shows the state of its task."
        yield _warning(pb.WARNING_KIND_REDACTION, message, capture.redaction.task)
