"""`edge-agent serve`: the components of the daemon, what each depends on, and the order of start and stop.

Start: state directory (locked), engines, listeners, then the models in the background. So the daemon serves at once,
and each task becomes ready on its own. Stop, on SIGTERM or SIGINT: health turns NOT_SERVING, new work is refused,
running calls get `drain_seconds`, then the children end and the lock is released. A second signal stops at once.

`_components` lists the background components, which `supervision.py` runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import functools
import os
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING

import structlog
import uvloop

from edge_agent import __version__, logs, process_resources, supervision
from edge_agent.capture.capture_values import SpoolWorkerDependencies
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.config import Config, sections
from edge_agent.engine.pool import EnginePool
from edge_agent.metrics.metric_catalogue import AnswerCounts
from edge_agent.metrics.metrics_listener import MetricsListener
from edge_agent.metrics.site_metrics import SiteMetrics, SiteMetricsDependencies
from edge_agent.refusal_log import HANDSHAKE, CoreLog
from edge_agent.server import task_modes
from edge_agent.server.admin_service import AdminDependencies, AdminServicer
from edge_agent.server.admission_control import AdmissionControl
from edge_agent.server.engine_access import ModelRedactor, activation_engines, open_tuning_cache, update_engines
from edge_agent.server.feedback import FeedbackServicer
from edge_agent.server.grpc_servers import FEEDBACK, GrpcServers
from edge_agent.server.inference import InferenceDependencies
from edge_agent.server.model_router import DeferredEscalations, ModelRouter
from edge_agent.server.task_modes import MonitoringAlarms, TaskModes
from edge_agent.server.uplink_client import UplinkClient, download_blocker
from edge_agent.store.bundle_archive import StoreLimits
from edge_agent.store.bundle_store import Store
from edge_agent.supervision import Component, DeathPolicy, RunWrapper, Supervisor, run_unwrapped
from edge_agent.update.activation import Activation
from edge_agent.update.updater import Updater

if TYPE_CHECKING:
    from edge_agent.capture.spool_worker import SpoolWorker
    from edge_agent.capture.text_redaction import RedactionDependencies
    from edge_agent.formats.status_object import TaskStatus
    from edge_agent.update.ingest import BundleIngest

STOP_SECONDS = 20.0
"""Time after the last call for models to end and for pending writes."""
CAPTURE_CHECK_SECONDS = 2.0
"""Time between two checks whether examples can be written to the disk."""
LARGE_MODEL = "large-model"
"""The component that ends after the last call."""
EXIT_FAILED = 1
"""On this code systemd starts the daemon again (Restart=on-failure)."""

log = structlog.get_logger("edge_agent.daemon")


class Daemon:
    """The composition root: makes every component and passes in its dependencies."""

    def __init__(
        self,
        config: Config,
        store: Store,
        supervisor: Supervisor | None = None,
        spool_worker: type[SpoolWorker] | None = None,
        core_log: CoreLog | None = None,
    ) -> None:
        """Make the components over an open store; `spool_worker` opens the spool of examples.

        `core_log` reads the messages of gRPC's C library; None without TLS.

        Raises:
            CertificateUnusable: the TLS files cannot be used.
            ConfigInvalid: a redaction rule of the site is not valid.
        """
        self.closed = True
        """Whether every pending write was completed at the end."""
        self._config, self._supervisor = config, supervisor or Supervisor()
        self._store_thread = store.thread
        self._changed, self._update_revision = asyncio.Event(), 0
        self._counts = AnswerCounts()
        self._admission = AdmissionControl(config.service.calls_max, config.access.client_calls_max)
        self._servers = GrpcServers(config)
        self._core_log = core_log
        if core_log:
            core_log.on_failed_handshake = lambda cause: self._servers.refusals.record(HANDSHAKE, "", cause)
        self._engines = EnginePool(config.engine, self._changed.set, store.readable)
        self._engines.tuning_cache = open_tuning_cache(store.settings, store.thread)
        self._activation = Activation(
            store,
            activation_engines(self._engines, self._report),
            allow_unsigned=config.store.allow_unsigned,
            drain_seconds=config.service.drain_seconds,
            swap=config.engine.swap,
        )
        self._task_modes = TaskModes(config, store, self._activation)
        self._alarms = MonitoringAlarms(self._activation, self._task_modes, store.thread)
        updates = update_engines(
            self._engines,
            self._activation,
            self._count_update_change,
            self._alarms.apply_plan,
            functools.partial(download_blocker, config),
        )
        self._updater = Updater(config, store, self._activation, updates, _bundle_ingest(config, store))
        redactor = ModelRedactor(config.redaction, self._activation, self._engines).dependencies()
        self._capture = ExampleCapture(config, self._spool_worker_dependencies(redactor), spool_worker, reader=redactor)
        self._uplink = UplinkClient(config, self._capture)
        self._router = ModelRouter(self._uplink, self._task_modes, self._capture, config.escalation.audit_share)
        self._deferred = DeferredEscalations(
            self._uplink, self._capture, self._activation, self._router, config.escalation
        )
        self._servers.add_services(
            InferenceDependencies(
                self._activation, self._engines, self._admission, self._capture, self._counts, self._router
            ),
            AdminServicer(self._admin_dependencies(), self.drain),
            FeedbackServicer(self._capture, self._activation),
        )

    def drain(self) -> None:
        """Admit no new work."""
        self._admission.draining = True
        self._engines.drain()
        self._changed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve inside the block; stop in order at its end."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._engines.stop)
            stack.push_async_callback(self._close_store)
            self._capture.start()
            stack.push_async_callback(self._close_capture)
            await self._activation.resume()
            await self._report()  # so that health is right at the first call
            stack.push_async_callback(self._supervisor.stop)
            await self._servers.start()
            stack.push_async_callback(self._close_servers)
            for component in self._components():
                self._supervisor.add(component)
            self._supervisor.start()
            # Running calls may wait for the large model's answer, which this component receives.
            stack.push_async_callback(self._supervisor.stop, except_for=LARGE_MODEL)
            yield
            self.drain()
            await self._report()

    def _components(self) -> Iterator[Component]:
        """Yield the background components, each with its policy for its death; they end in reverse order."""
        restart = DeathPolicy.RESTART
        if self._capture.is_enabled:
            why = "answers are stored and feedback is acknowledged without it; sealing and receipts wait"
            yield Component("examples", self._capture.run, restart, why)
        if self._capture.redaction is not None:
            why = "answers that wait for the redaction model keep waiting in memory"
            yield Component("redaction", self._capture.redaction.run, restart, why)
        if self._config.metrics.address:
            host, port = sections.split_host_port(self._config.metrics.address)
            listener = MetricsListener(host, port, SiteMetrics(self._metrics_dependencies()).page)
            yield Component("metrics", listener.run, restart, "no answer depends on the metrics page")
        why = "calls are answered without it; health keeps the last state of each task"
        yield Component("health", self._report_changes, restart, why)
        if self._uplink.configured:
            why = "the large model counts as offline meanwhile, and the local answers stand"
            yield Component(LARGE_MODEL, self._uplink.run, restart, why)
            yield Component("questions", self._deferred.run, restart, "no caller waits for these questions")
        why = "refusals are counted and logged without it; only the summaries wait"
        yield Component("refusals", self._servers.refusals.run, restart, why)
        if self._core_log:
            why = "calls are answered without it; failed handshakes are counted and logged later"
            yield Component("handshakes", self._core_log.run, restart, why)
        why = "alarms are shown without it; only putting a task into shadow waits"
        yield Component("alarms", lambda: self._alarms.run(self._uplink, self._count_update_change), restart, why)
        why = "active bundles keep answering; each check begins with the state in the journal"
        yield Component("updates", self._updater.run, restart, why, self._updater.stop)
        if supervision.watchdog_seconds():
            why = "without its ping systemd kills the daemon and cuts its calls, so it ends in order instead"
            yield Component("watchdog", lambda: supervision.ping_watchdog(self._is_computing), DeathPolicy.STOP, why)
        why = "memory is returned later"
        yield Component("memory", process_resources.trim_periodically, restart, why, may_return=True)

    def _spool_worker_dependencies(self, redactor: RedactionDependencies) -> SpoolWorkerDependencies:
        return SpoolWorkerDependencies(
            tasks=self._task_statuses,
            version=__version__,
            updates=lambda: task_modes.site_updates(self._activation, self._updater.overview),
            revision=lambda: self._update_revision,
            replace_alarms=self._alarms.replace_alarms,
            redactor=lambda: (redactor.model(), redactor.bound()),
        )

    def _admin_dependencies(self) -> AdminDependencies:
        return AdminDependencies(
            config=self._config,
            activation=self._activation,
            store_thread=self._store_thread,
            engines=self._engines,
            admission=self._admission,
            capture=self._capture,
            counts=self._counts,
            updater=self._updater,
            router=self._router,
            uplink=self._uplink,
            task_modes=self._task_modes,
            alarms=self._alarms,
            servers=self._servers,
            supervisor=self._supervisor,
            is_managed=supervision.is_managed_by_systemd(),
        )

    def _metrics_dependencies(self) -> SiteMetricsDependencies:
        return SiteMetricsDependencies(
            config=self._config,
            activation=self._activation,
            engines=self._engines,
            admission=self._admission,
            capture=self._capture,
            counts=self._counts,
            updater=self._updater,
            uplink=self._uplink,
            alarms=self._alarms,
            servers=self._servers,
            supervisor=self._supervisor,
        )

    def _task_statuses(self) -> list[TaskStatus]:
        """Describe the tasks for the site's status document; called on the spool's thread."""
        overview = self._updater.overview
        return task_modes.task_statuses(self._engines, self._activation, overview, self._capture, self._alarms)

    def _count_update_change(self) -> None:
        self._update_revision += 1

    def _is_computing(self, every_seconds: float) -> bool:
        """Tell whether no engine is stuck; see docs/decisions/0024."""
        stuck = self._engines.stuck(every_seconds)
        for name in stuck:
            log.error("engine_stuck", engine=name)
        return not stuck

    async def _report(self) -> None:
        """Report to the health service which tasks are ready, and whether feedback can be stored."""
        self._alarms.reconsider()
        broken = dict.fromkeys(self._activation.problems, False)
        ready = {task: self._engines.ready(bundle.digest) for task, bundle in self._activation.serving.items()}
        feedback = {FEEDBACK: self._capture.calls.is_writable} if self._capture.is_enabled else {}
        await self._servers.report(broken | ready | feedback, serving=not self._admission.draining)

    async def _report_changes(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # a stalled disk sets no event
                async with asyncio.timeout(CAPTURE_CHECK_SECONDS if self._capture.is_enabled else None):
                    await self._changed.wait()
            self._changed.clear()
            await self._report()

    async def _close_servers(self) -> None:
        await self._servers.drain(self._config.service.drain_seconds)
        await self._admission.wait_until_quiet()
        self.closed &= await self._servers.stop()

    async def _close_capture(self) -> None:
        await self._capture.finish_redaction()
        self.closed &= await asyncio.to_thread(self._capture.stop)

    async def _close_store(self) -> None:
        self.closed &= await self._activation.stop()


def _bundle_ingest(config: Config, store: Store) -> BundleIngest | None:
    """Return the source of updates; None if the site has no root of trust."""
    if not config.update.root_file:
        return None
    # The libraries that verify signatures are loaded only on a site with a root of trust.
    from edge_agent.update.ingest import BundleIngest  # noqa: PLC0415
    from edge_agent.update.repository_acceptance import RepositoryTrust  # noqa: PLC0415

    return BundleIngest(config, store, RepositoryTrust(config, store.trusted))


def serve(config: Config, wrap: RunWrapper = run_unwrapped, spool_worker: type[SpoolWorker] | None = None) -> int:
    """Run the daemon until it is told to stop; return the exit code.

    `wrap` is for the supervisor; `spool_worker` opens the spool of examples.

    Raises:
        SiteError: the daemon cannot start on this machine.
    """
    # Before the logs are configured: they keep the standard error of that moment.
    core_log = CoreLog() if config.has_tls_listener else None
    logs.configure(config.log)
    faulthandler.enable()  # the watchdog's SIGABRT then logs where every thread was
    process_resources.limit_malloc_arenas()
    process_resources.raise_descriptor_limit(config.access.connections_max)
    limits = StoreLimits(
        bundle_bytes_max=config.store.bundle_bytes_max,
        file_bytes_max=config.store.bundle_bytes_max,
        bundles_per_task_max=config.store.bundles_per_task_max,
        disk_reserve_bytes=config.store.disk_reserve_bytes,
    )
    store = Store.open(config.state_dir, limits)
    try:
        failed_component, closed = uvloop.run(_serve(config, store, wrap, spool_worker, core_log))
        if not closed:
            os._exit(EXIT_FAILED)  # Python would wait for the thread that is blocked by the disk
    finally:
        store.close()
        if core_log:
            core_log.close()
    return EXIT_FAILED if failed_component else 0


async def _serve(
    config: Config, store: Store, wrap: RunWrapper, spool_worker: type[SpoolWorker] | None, core_log: CoreLog | None
) -> tuple[str, bool]:
    """Run until a signal or the death of a component.

    Returns the component, empty after a signal, and whether every pending write was completed.
    """
    stop = asyncio.Event()
    supervision.stop_on_signals(stop)
    supervisor = Supervisor(stop.set, wrap=wrap)
    daemon = Daemon(config, store, supervisor, spool_worker, core_log)
    async with daemon.running():
        supervision.notify_systemd("READY=1")
        log.info("serving", version=__version__, state_dir=str(config.state_dir), run_dir=str(config.run_dir))
        process_resources.freeze_startup_objects()
        if config.service.tcp_address and config.service.insecure:
            log.warning("listening_without_tls", address=config.service.tcp_address)
        await stop.wait()
        supervision.announce_stop(config.service.drain_seconds + STOP_SECONDS)
        log.info("stopping", failed=supervisor.failed_component)
    log.info("stopped", failed=supervisor.failed_component)
    return supervisor.failed_component, daemon.closed
