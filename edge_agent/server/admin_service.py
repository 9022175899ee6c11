"""AdminService: the operator's calls, on the admin socket and TCP with certificates."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_agent import __version__
from edge_agent.config.folder_access import judge_bundle_path
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.errors import BundleUnreadable, ConfigInvalid, InvalidRequest, UnknownBundle
from edge_agent.process_resources import resident_bytes
from edge_agent.server import messages, monitoring_messages
from edge_agent.server.detached_calls import caller_left
from edge_agent.server.uplink_client import uplink_message
from edge_agent.store.state_database import InstalledBundle
from edge_agent.v1 import admin_pb2 as pb
from edge_agent.v1 import admin_pb2_grpc, task_pb2

if TYPE_CHECKING:
    from edge_agent.capture.example_capture import CaptureStatus, ExampleCapture
    from edge_agent.capture.redaction_audit import AuditFigures
    from edge_agent.config import Config
    from edge_agent.durable.disk_thread import DiskThread
    from edge_agent.engine.engine import EngineStatus
    from edge_agent.engine.pool import EnginePool
    from edge_agent.metrics.metric_catalogue import AnswerCounts
    from edge_agent.monitoring.answer_observations import BundleSeries
    from edge_agent.server.client_call_limits import AdmissionControl
    from edge_agent.server.grpc_servers import GrpcServers
    from edge_agent.server.interceptor import CallContext
    from edge_agent.server.model_router import ModelRouter
    from edge_agent.server.task_modes import MonitoringAlarms, TaskModes
    from edge_agent.server.uplink_client import UplinkClient
    from edge_agent.supervision import Supervisor
    from edge_agent.update.activation import Activation
    from edge_agent.update.updater import UpdateOverview, Updater
    from edge_agent.v1.field_pb2 import FieldSeries

PROGRESS_SECONDS = 0.25
AUDIT_TEXTS, AUDIT_TEXTS_MAX = 20, 100
"""Texts of the redaction audit in one answer: by default, and at most."""
ROW_MAX = 2**63 - 1
"""The largest row number of a database."""
_NO_ROOT_REMEDY = (
    "Enrol the site with the enrolment file of the central team: 'sudo edge-agent enrol FILE'. Without one, set it to"
    " the root.json of the central team, and restart the daemon."
)


@dataclass(frozen=True)
class AdminDependencies:
    """The components that an operator inspects and changes."""

    config: Config
    activation: Activation
    store_thread: DiskThread
    engines: EnginePool
    admission: AdmissionControl
    capture: ExampleCapture
    counts: AnswerCounts
    updater: Updater
    router: ModelRouter
    uplink: UplinkClient
    task_modes: TaskModes
    alarms: MonitoringAlarms
    servers: GrpcServers
    supervisor: Supervisor
    is_managed: bool
    """systemd runs the daemon as a service, whose unit hides folders from it."""


class AdminServicer(admin_pb2_grpc.AdminServiceServicer):
    """See the module."""

    def __init__(self, components: AdminDependencies, drain: Callable[[], None]) -> None:
        """Serve an operator; `drain` makes the daemon admit no new work."""
        self._components, self._drain = components, drain
        self._started_at = time.time()

    async def GetStatus(self, request: pb.GetStatusRequest, context: CallContext) -> pb.GetStatusResponse:
        """Show the state of the daemon, its tasks and its engines."""
        components = self._components
        examples = await components.capture.status()
        audit = examples.redaction_audit if examples else None
        serving = dict(sorted(components.activation.serving.items()))
        engines = components.engines.statuses()
        warnings = self._warnings(serving, engines, examples)
        queue = components.capture.redaction
        return pb.GetStatusResponse(
            agent_version=__version__,
            serving=not components.admission.draining,
            resident_bytes=resident_bytes(os.getpid()),
            tasks=[self._task_message(bundle) for bundle in serving.values()],
            engines=[messages.engine_message(engine, serving) for engine in engines],
            warnings=[each.message for each in warnings],
            warning_details=warnings,
            store_bytes=components.activation.inventory.store_bytes,
            disk_free_bytes=shutil.disk_usage(components.config.state_dir).free,
            updates=messages.updates_message(
                components.activation, components.updater.overview, components.updater.copy_progress
            ),
            escalation=messages.large_model_message(components.uplink.message(), examples),
            counts=messages.counts_messages(components.counts),
            site=components.config.site.id,
            denied=components.servers.denied,
            alarms=[
                monitoring_messages.alarm_message(alarm, demoted=demoted)
                for task in serving
                for alarm, demoted in components.alarms.alarms_of(task)
            ],
            uplink=uplink_message(components.config),
            draining_seconds=components.admission.draining_seconds,
            redaction=None if queue is None else messages.redaction_message(queue, audit),
            examples=(
                messages.examples_message(examples, components.config.examples.collect)
                if examples and not examples.stalled_seconds
                else None
            ),
            start_time=messages.timestamp(self._started_at),
        )

    async def ListBundles(self, request: pb.ListBundlesRequest, context: CallContext) -> pb.ListBundlesResponse:
        """List the installed bundles, by task and then newest first."""
        installed = self._components.activation.inventory.bundles
        bundles = [bundle for bundle in installed if request.task in ("", bundle.manifest.task.name)]
        page, token = messages.page_slice(request.page_size, request.page_token, len(bundles))
        return pb.ListBundlesResponse(bundles=[self._bundle_message(b) for b in bundles[page]], next_page_token=token)

    async def InstallBundle(self, request: pb.InstallBundleRequest, context: CallContext) -> pb.InstallBundleResponse:
        """Verify a bundle, copy it into the store, and activate it unless told not to."""
        path = _absolute_path(request.path)
        try:
            bundle, is_new = await self._components.activation.install(
                path, activate=not request.no_activate, caller_left=caller_left.get()
            )
        except BundleUnreadable as error:
            # A fault of this machine, not of the bundle, may keep the daemon from reading it.
            code = int(error.metadata.get("errno", 0))
            problem = judge_bundle_path(path, code, managed=self._components.is_managed)
            if problem is None:
                raise error from None
            remedy = f"{problem.remedy.removesuffix('.')}: '{problem.command}'."
            raise ConfigInvalid(problem.message, remedy=remedy, path=path) from None
        self._components.updater.wake()
        return pb.InstallBundleResponse(bundle=self._bundle_message(bundle), newly_installed=is_new)

    async def ActivateBundle(
        self, request: pb.ActivateBundleRequest, context: CallContext
    ) -> pb.ActivateBundleResponse:
        """Let an installed bundle answer."""
        try:
            bundle = await self._components.activation.activate(request.task, request.bundle, caller_left.get())
        except UnknownBundle as error:
            row = self._components.updater.held_row(request.task)
            if row is not None:
                error.remedy = (
                    f"'sudo edge-agent bundles allow {row.task}' lets the plan's version {row.version} come again;"
                    " 'edge-agent bundles list' shows what is installed."
                )
            raise
        self._components.updater.wake()
        return pb.ActivateBundleResponse(bundle=self._bundle_message(bundle))

    async def RollbackTask(self, request: pb.RollbackTaskRequest, context: CallContext) -> pb.RollbackTaskResponse:
        """Activate the previous bundle again."""
        bundle = await self._components.activation.rollback(request.task, caller_left.get())
        self._components.updater.wake()
        return pb.RollbackTaskResponse(bundle=self._bundle_message(bundle))

    async def RemoveBundle(self, request: pb.RemoveBundleRequest, context: CallContext) -> pb.RemoveBundleResponse:
        """Remove an idle bundle, or a whole task."""
        freed_bytes = await self._components.activation.remove(request.task, request.bundle)
        self._components.updater.wake()
        return pb.RemoveBundleResponse(freed_bytes=freed_bytes)

    async def SealExamples(self, request: pb.SealExamplesRequest, context: CallContext) -> pb.SealExamplesResponse:
        """Seal the waiting examples."""
        config = self._components.config
        return pb.SealExamplesResponse(
            segments=await self._components.capture.seal_all(),
            site=config.site.id,
            outbox_path=str(config.outbox.absolute()),
            receipts_path=str(config.receipts.absolute()),
        )

    async def ReadReceipts(self, request: pb.ReadReceiptsRequest, context: CallContext) -> pb.ReadReceiptsResponse:
        """Delete the segments that the central team has received."""
        return pb.ReadReceiptsResponse(segments=await self._components.capture.read_receipts())

    async def ImportUpdate(self, request: pb.ImportUpdateRequest, context: CallContext) -> None:
        """Import an update from a folder."""
        path, updater = _absolute_path(request.path), self._components.updater
        if not self._components.config.update.root_file:
            message = "this site has no root of trust: 'update.root_file' in agent.yaml is not set"
            raise ConfigInvalid(message, remedy=_NO_ROOT_REMEDY)
        async with asyncio.TaskGroup() as group:
            importing = group.create_task(updater.check(path))
            while not importing.done():
                await context.write(messages.import_message(updater.copy_progress))
                await asyncio.wait([importing], timeout=PROGRESS_SECONDS)
        if problem := importing.result():
            raise problem
        updates = messages.updates_message(self._components.activation, updater.overview, updater.copy_progress)
        await context.write(pb.ImportUpdateResponse(updates=updates))

    async def AllowUpdate(self, request: pb.AllowUpdateRequest, context: CallContext) -> pb.AllowUpdateResponse:
        """Let the plan's bundle answer a task again."""
        updater = self._components.updater
        was_held = await updater.allow(request.task)
        row = updater.overview.rows.get(request.task)
        task = messages.task_update_message(request.task, self._components.activation, row)
        return pb.AllowUpdateResponse(task=task, was_held=was_held)

    async def SetMode(self, request: pb.SetModeRequest, context: CallContext) -> pb.SetModeResponse:
        """Put a task into a mode."""
        bundle = self._components.activation.bundle_of(request.task)
        new_mode = next((mode for mode, number in messages.MODES.items() if number == request.mode), None)
        if new_mode is None and request.mode:
            raise InvalidRequest(f"mode is {request.mode}, which this version does not support")
        if bundle.manifest.runtime == "upstream" and new_mode not in (None, "bootstrap"):
            message = f"task {request.task!r} has no model of its own, so only the large one can answer it"
            raise InvalidRequest(message, remedy="Install a bundle with a model first; the mode holds from then on.")
        await self._components.store_thread.run(self._components.task_modes.set_by_operator, request.task, new_mode)
        return pb.SetModeResponse(task=self._task_message(bundle))

    async def GetFieldReport(
        self, request: pb.GetFieldReportRequest, context: CallContext
    ) -> pb.GetFieldReportResponse:
        """Show the production figures of the bundles of a task, or of all."""
        components = self._components
        bundle_series, spending = await components.capture.monitoring_report(request.task)
        # On a thread, because the intervals of many shares take a moment, and no call should wait for them.
        series = await asyncio.to_thread(self._series_messages, bundle_series, dict(components.activation.serving))
        consents = components.config.examples.collect.items()
        serving = sorted(components.activation.serving.items())
        return pb.GetFieldReportResponse(
            series=series,
            tasks=[self._task_message(bundle) for task, bundle in serving if request.task in ("", task)],
            escalation=components.uplink.message(),
            collect={task: consent for task, consent in consents if consent != "off" and request.task in ("", task)},
            money=map(monitoring_messages.money_message, spending),
        )

    async def EraseValues(self, request: pb.EraseValuesRequest, context: CallContext) -> pb.EraseValuesResponse:
        """Find the examples that concern a person, and erase them."""
        erased = await self._components.capture.erasure.erase_values(tuple(request.values), dry_run=request.dry_run)
        return pb.EraseValuesResponse(**vars(erased))

    async def GetPrivacyReport(
        self, request: pb.GetPrivacyReportRequest, context: CallContext
    ) -> pb.GetPrivacyReportResponse:
        """Show figures about personal data, without any text."""
        return messages.privacy_report(await self._components.capture.privacy_report())

    def _series_messages(
        self, all_series: Iterable[BundleSeries], serving: Mapping[str, InstalledBundle]
    ) -> list[FieldSeries]:
        installed = {bundle.digest: bundle for bundle in self._components.activation.inventory.bundles}
        serving_digests = {bundle.digest for bundle in serving.values()}
        demotions = {
            (alarm.task, alarm.alarm)
            for task in serving
            for alarm, demoted in self._components.alarms.alarms_of(task)
            if demoted
        }
        return [
            monitoring_messages.series_message(
                series,
                installed.get(series.digest),
                active=series.digest in serving_digests,
                demoted=lambda alarm: (alarm.task, alarm.alarm) in demotions,
            )
            for series in all_series
        ]

    def _task_message(self, bundle: InstalledBundle) -> task_pb2.Task:
        engines, mode = self._components.engines, self._components.router.mode(bundle.manifest)
        ready, variance = engines.ready(bundle.digest), engines.score_variance(bundle.digest)
        message = messages.task_message(bundle, mode, ready=ready, score_variance=variance)
        message.mode_by = (
            "bundle" if bundle.manifest.runtime == "upstream" else self._components.task_modes.mode_by(message.name)
        )
        return message

    async def Drain(self, request: pb.DrainRequest, context: CallContext) -> pb.DrainResponse:
        """Admit no new work."""
        self._drain()
        return pb.DrainResponse()

    async def TryRedaction(self, request: pb.TryRedactionRequest, context: CallContext) -> pb.TryRedactionResponse:
        """Redact a text, and show each replaced value and the rule or model that found it."""
        characters_max = self._components.config.examples.input_characters_max
        if not 0 < len(request.text) <= characters_max:
            message = f"the text has {len(request.text)} characters; 1 to {characters_max} are allowed"
            raise InvalidRequest(message, remedy="'input_characters_max' under 'examples' in agent.yaml is the limit.")
        return messages.tried_redaction_message(await self._components.capture.text_redaction.show(request.text))

    async def ListRedactionAudit(
        self, request: pb.ListRedactionAuditRequest, context: CallContext
    ) -> pb.ListRedactionAuditResponse:
        """List texts of the redaction audit."""
        if request.count > AUDIT_TEXTS_MAX:
            raise InvalidRequest(f"count is {request.count}; 1 to {AUDIT_TEXTS_MAX} texts can be listed at once")
        count = request.count or AUDIT_TEXTS
        after = min(request.after, ROW_MAX)
        texts = await self._components.capture.redaction_audit(after, count, judged=request.judged)
        return pb.ListRedactionAuditResponse(texts=map(messages.audited_text_message, texts))

    async def JudgeRedaction(
        self, request: pb.JudgeRedactionRequest, context: CallContext
    ) -> pb.JudgeRedactionResponse:
        """Store a person's findings in a text of the redaction audit."""
        # Only a site with a redaction model loads its audit.
        from edge_agent.capture.redaction_audit import MarkedSpan  # noqa: PLC0415

        missed = [MarkedSpan(each.start, each.end, each.label) for each in request.missed]
        await self._components.capture.judge_redaction(request.prediction_id, missed, list(request.wrong))
        return pb.JudgeRedactionResponse()

    def _warnings(
        self, serving: dict[str, InstalledBundle], engines: list[EngineStatus], examples: CaptureStatus | None
    ) -> list[pb.StatusWarning]:
        components = self._components
        return [
            *engine_warnings(serving, engines),
            *revoked_warnings(serving, components.updater.overview),
            *vector_warnings(serving, components.capture),
            *task_warnings(components.activation, components.engines),
            *server_warnings(components.servers),
            *component_warnings(components.supervisor, components.engines.owner),
            *store_warnings(components.store_thread, components.config.state_dir),
            *(example_warnings(examples) if examples else ()),
            *redaction_warnings(components.capture, examples.redaction_audit if examples else None),
        ]

    def _bundle_message(self, bundle: InstalledBundle) -> pb.Bundle:
        activation = self._components.activation
        active = activation.serving.get(bundle.manifest.task.name)
        return messages.bundle_message(
            bundle,
            active=active is not None and active.digest == bundle.digest,
            previous=bundle.digest in activation.inventory.previous,
            revoked=self._components.updater.overview.is_revoked(bundle),
            score_variance=self._components.engines.score_variance(bundle.digest),
        )


def _absolute_path(path: str) -> Path:
    if not path.startswith("/") or "\0" in path:
        raise InvalidRequest(f"path {path!r} is not absolute", remedy="Give the whole path, from / on.")
    return Path(path)


STORE_STALLED_SECONDS = 120.0
"""One step takes no longer on a slow disk, except the copy of a large bundle."""
# Measures that an engine reports; a value other than "on" is the reason why the measure is not in force.
CONFINEMENT = ("seccomp", "landlock")
Serving = Mapping[str, InstalledBundle]


def _warning(kind: pb.WarningKind, message: str, about: str = "") -> pb.StatusWarning:
    return pb.StatusWarning(kind=kind, about=about, message=message)


def engine_warnings(serving: Serving, engines: list[EngineStatus]) -> Iterator[pb.StatusWarning]:
    """Report bundles without a signature, then each engine: whether it answers, how it is confined, on which device."""
    unsigned = [task for task, bundle in serving.items() if not bundle.signed]
    if unsigned:
        message = f"Without a verified signature: {', '.join(unsigned)}. Anyone could have made these bundles."
        yield _warning(pb.WARNING_KIND_UNSIGNED, message)
    for engine in engines:
        if engine.problem:
            is_ready = engine.state is EngineState.READY
            fault = "answers, but not for every task" if is_ready else f"is {engine.state.value}"
            yield _warning(pb.WARNING_KIND_ENGINE, f"Engine {engine.name} {fault}: {engine.problem}.", engine.name)
        for measure in CONFINEMENT:
            if (state := engine.details.get(measure, "on")) != "on":
                message = f"Engine {engine.name} is not fully confined: {measure}: {state}."
                yield _warning(pb.WARNING_KIND_CONFINEMENT, message, engine.name)
    for engine in engines:
        for shortfall in engine.shortfalls.values():
            message = f"Engine {engine.name} computes on {engine.device}: {shortfall}."
            yield _warning(pb.WARNING_KIND_DEVICE, message, engine.name)


def revoked_warnings(serving: Serving, overview: UpdateOverview) -> Iterator[pb.StatusWarning]:
    """Report each task that a revoked bundle answers."""
    for task, bundle in serving.items():
        if overview.is_revoked(bundle):
            message = f"Task {task} is answered by {bundle.manifest.version}, which the central team has revoked."
            message += " It continues to answer until their plan names another one: ask them."
            yield _warning(pb.WARNING_KIND_REVOKED, message, task)


def vector_warnings(serving: Serving, capture: ExampleCapture) -> Iterator[pb.StatusWarning]:
    """Report each task that is configured to be captured and cannot be."""
    for task, bundle in serving.items():
        if bundle.manifest.task.kind == "embed" and capture.consent(task) != "off":
            message = f"Task {task} answers with vectors, which are never captured."
            message += " Leave it out of 'collect' in agent.yaml."
            yield _warning(pb.WARNING_KIND_NOT_CAPTURED, message, task)


def task_warnings(activation: Activation, engines: EnginePool) -> Iterator[pb.StatusWarning]:
    """Report tasks that do not answer, bundles that cannot be used, tasks without a confident answer."""
    serving, problems = activation.serving, activation.problems
    for task, error in sorted(problems.items()):
        if task not in serving or not engines.ready(serving[task].digest):
            message = f"Task {task} does not answer: {error.message}. {error.remedy}"
            yield _warning(pb.WARNING_KIND_TASK_SILENT, message, task)
    reported = {error.message for error in problems.values()}
    for broken in activation.inventory.unreadable:
        if broken.error.message not in reported:
            message = f"Bundle {broken.name} cannot be used: {broken.error.message}. {broken.error.remedy}"
            yield _warning(pb.WARNING_KIND_BUNDLE_BROKEN, message, str(broken.name))
    for task, bundle in sorted(serving.items()):
        if why := engines.score_variance(bundle.digest):
            message = f"Task {task} answers, but no answer is confident: {why}."
            yield _warning(pb.WARNING_KIND_CONFIDENCE, message, task)


def server_warnings(servers: GrpcServers) -> Iterator[pb.StatusWarning]:
    """Report what is wrong with TCP, its certificates, and the audit log."""
    for message in servers.tcp_warnings():
        yield _warning(pb.WARNING_KIND_TCP, message)
    if servers.audit_problem:
        yield _warning(pb.WARNING_KIND_AUDIT_LOG, f"Audit log: {servers.audit_problem}.")


def component_warnings(*supervisors: Supervisor) -> Iterator[pb.StatusWarning]:
    """Report which background components have died."""
    for supervisor in supervisors:
        for name, message in supervisor.problems_by_name.items():
            yield _warning(pb.WARNING_KIND_COMPONENT, message, name)


def store_warnings(thread: DiskThread, state_dir: Path) -> Iterator[pb.StatusWarning]:
    """Report a disk that does not finish a step of an install or update."""
    if (seconds := thread.stalled_seconds) >= STORE_STALLED_SECONDS:
        message = f"The disk of {state_dir} has worked on one step of an install or update for {seconds:.0f} s."
        message += " Answers continue; installs and updates wait. Check the disk ('dmesg')."
        yield _warning(pb.WARNING_KIND_STORE_STALLED, message)


def example_warnings(examples: CaptureStatus) -> Iterator[pb.StatusWarning]:
    """Report why nothing is captured, or why segments or receipts do not move."""
    kind = pb.WARNING_KIND_EXAMPLES_EXCHANGE
    if examples.stalled_seconds:
        kind = pb.WARNING_KIND_EXAMPLES_STALLED
    elif examples.is_off:
        kind = pb.WARNING_KIND_EXAMPLES_OFF
    for message in examples.problems:
        yield _warning(kind, message)


def redaction_warnings(capture: ExampleCapture, audit: AuditFigures | None) -> Iterator[pb.StatusWarning]:
    """Report that the redaction model does not read texts, which then wait, or that it misses more than promised."""
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
