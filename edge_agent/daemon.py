"""`edge-agent serve`: builds the rooms, starts them in order, stops them in reverse.

Start: state directory (locked), engines, listeners, then the models in the background: the daemon serves at once, and
each task turns ready by itself. Stop, on SIGTERM or SIGINT: health turns NOT_SERVING, new work is refused, running
calls get `drain_seconds`, then the children end and the lock is given back. A second signal stops at once.

What runs in the background is in the table of `_components`, and `supervision.py` owns it.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
import uvloop

from edge_agent import __version__, logs, systemd
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.capture.spool_worker import SpoolWorker, SpoolWorkerDependencies
from edge_agent.config import Config, StoreConfig, addresses
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.trial import Asked, Loadable, trying
from edge_agent.engine.tuned import Settings, Tuned
from edge_agent.errors import EdgeAgentError
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.plan import TaskPlan
from edge_agent.formats.status_object import TaskStatus
from edge_agent.metrics.answer_counts import AnswerCounts
from edge_agent.metrics.metrics_listener import MetricsListener
from edge_agent.metrics.site_metrics import SiteMetrics, SiteMetricsDependencies
from edge_agent.server import process_limits, site_status
from edge_agent.server.admin_service import AdminDependencies, AdminServicer
from edge_agent.server.admission_control import AdmissionControl
from edge_agent.server.deferred_escalations import DeferredEscalationDependencies, DeferredEscalations
from edge_agent.server.feedback import FeedbackDependencies, FeedbackServicer
from edge_agent.server.grpc_servers import FEEDBACK, GrpcServers
from edge_agent.server.inference import InferenceDependencies
from edge_agent.server.model_router import ModelRouter, ModelRouterDependencies
from edge_agent.server.task_modes import MonitoringAlarms, TaskModes
from edge_agent.server.uplink_client import UplinkClient
from edge_agent.store.limits import StoreLimits
from edge_agent.store.settings import SettingsFile
from edge_agent.store.state import InstalledBundle
from edge_agent.store.store import Store
from edge_agent.supervision import Component, DeathPolicy, RunWrapper, Supervisor, run_unwrapped
from edge_agent.update import hardware
from edge_agent.update.activation import Activation, ActivationDependencies
from edge_agent.update.probation import BundleActivity
from edge_agent.update.selftest import BundleUnderTest
from edge_agent.update.updater import Source, Updater
from edge_agent.update.updater import UpdaterDependencies as UpdateAround

STOP_SECONDS = 20.0
"""For what comes after the last call: models end, what waits is written."""
STORE_STALLED_SECONDS = 120.0
"""More than one step takes on a slow disk, but for the copy of a large bundle."""
LOOK_SECONDS = 2.0
"""Between two looks whether the disk takes examples."""
EXIT_FAILED = 1
"""systemd starts the daemon again (Restart=on-failure)."""

log = structlog.get_logger("edge_agent.daemon")


class Daemon:
    """The composition root: the only place that knows every room."""

    def __init__(
        self,
        config: Config,
        store: Store,
        supervisor: Supervisor | None = None,
        worker: type[SpoolWorker] = SpoolWorker,
    ) -> None:
        """Build the rooms over an open store; the spool of examples is opened with a `worker`."""
        self._config = config
        self._supervisor = supervisor or Supervisor()
        self.closed = True
        """Whether the disk took at the end what waited to be written."""
        self._changed = asyncio.Event()
        self._serving = True
        self._engines = EnginePool(config.engine, self._changed.set, store.readable)
        self._engines.tuned = open_tuning_cache(store.settings)
        self._activation = Activation(
            store,
            self._handles(),
            allow_unsigned=config.store.allow_unsigned,
            drain_seconds=config.service.drain_seconds,
            swap=config.engine.swap,
        )
        self._link = UplinkClient(config, paid=lambda task, micros: self._collection.add_charge(task, micros))
        modes = TaskModes(config, store, self._digest)
        self._alarms = MonitoringAlarms(self._activation, modes, self._can_ask)
        around = _update_dependencies(self._engines, self._activation, self._update_changed, self._alarms.plan)
        self._updater = Updater(config, store, self._activation, around, _source(config, store))
        self._counts, self._revision = AnswerCounts(), 0
        self._admission = _admission(config)
        self._collection = ExampleCapture(config, self._surroundings(), worker)
        escalation, self._later = self._escalating(modes)
        admin = AdminServicer(self._operated(modes, escalation))
        rooms = InferenceDependencies(
            self._activation, self._engines, self._admission, self._collection, self._counts, escalation
        )
        feedback = FeedbackServicer(FeedbackDependencies(self._collection, self._activation))
        self._edge = GrpcServers(config, rooms, admin, feedback)

    def _operated(self, modes: TaskModes, escalation: ModelRouter) -> AdminDependencies:
        return AdminDependencies(
            activation=self._activation,
            engines=self._engines,
            collection=self._collection,
            counts=self._counts,
            updater=self._updater,
            escalation=escalation,
            link=self._link,
            set_mode=modes.say,
            mode_by=modes.by,
            alarms=self._alarms.of,
            config=self._config,
            serving=lambda: self._serving,
            drain=self.drain,
            disk_free_bytes=lambda: shutil.disk_usage(self._config.state_dir).free,
            access_warnings=lambda: self._edge.warnings(),
            troubles=self._troubles,
        )

    def _escalating(self, modes: TaskModes) -> tuple[ModelRouter, DeferredEscalations]:
        """Return what asks the large model while somebody waits, and what asks when nobody does."""
        kept, settings = self._collection, self._config.escalation
        escalation = ModelRouter(
            ModelRouterDependencies(self._link, modes.of, kept.start_redaction, kept.can_defer, settings.audit_share)
        )

        def manifest(task: str) -> Manifest | None:
            bundle = self._activation.serving.get(task)
            return bundle.manifest if bundle else None

        seconds = float(settings.seconds_max)
        return escalation, DeferredEscalations(
            DeferredEscalationDependencies(self._link, kept, settings.tasks, manifest, escalation.mode, seconds)
        )

    def _handles(self) -> ActivationDependencies:
        engines = self._engines
        return ActivationDependencies(engines.attach, engines.detach, engines.ready, self._report, engines.replaces)

    def _surroundings(self) -> SpoolWorkerDependencies:
        return SpoolWorkerDependencies(
            tasks=self._task_statuses,
            version=__version__,
            updates=lambda: site_status.site_updates(self._activation, self._updater.overview),
            revision=lambda: self._revision,
            alarmed=self._alarms.heard,
        )

    def _digest(self, task: str) -> str:
        """Return the digest of the bundle that answers a task; empty = none does."""
        bundle = self._activation.serving.get(task)
        return bundle.digest if bundle else ""

    def _can_ask(self, task: str) -> bool:
        """Tell whether a task may ask the large model at all."""
        standing = self._link.standing(task)
        return standing.configured and standing.allowed

    def drain(self) -> None:
        """Take no new work."""
        self._serving = False
        self._admission.draining = True
        self._engines.drain()
        self._changed.set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve inside the block; stop in order at its end."""
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._engines.stop)
            stack.push_async_callback(self._close_store)
            self._collection.start()
            stack.push_async_callback(self._close_examples)
            await self._activation.resume()
            await self._report()  # before the first call can ask
            await self._edge.start()
            stack.push_async_callback(self._close_edge)
            for component in self._components():
                self._supervisor.add(component)
            self._supervisor.start()
            stack.push_async_callback(self._supervisor.stop)
            yield
            self.drain()
            await self._report()

    def _components(self) -> Iterator[Component]:
        """Yield what runs in the background, with what follows when it dies; ended in the opposite order."""
        restart = DeathPolicy.RESTART
        if self._collection.is_enabled:
            why = "answers are kept and feedback is acknowledged without it; sealing and receipts wait"
            yield Component("examples", self._collection.run, restart, why)
        if listener := self._metrics():
            yield Component("metrics", listener.run, restart, "nothing that answers depends on who reads the figures")
        why = "calls are answered without it; health says of each task what it said last"
        yield Component("health", self._report_changes, restart, why)
        if self._link.configured:
            why = "the large model counts as offline meanwhile, and the local answers stand"
            yield Component("large-model", self._link.run, restart, why)
            yield Component("questions", self._later.run, restart, "nobody waits for what it asks")
        why = "alarms are shown without it; only putting a task into shadow waits"
        yield Component("alarms", lambda: self._alarms.run(self._update_changed), restart, why)
        why = "what answers goes on; each look begins with what the journal says"
        yield Component("updates", self._updater.run, restart, why, self._updater.stop)
        if systemd.watchdog_seconds():
            why = "without its ping systemd kills the daemon and cuts its calls: better it ends in order"
            yield Component("watchdog", lambda: systemd.keep_alive(self._computes), DeathPolicy.STOP, why)
        why = "memory is given back later"
        yield Component("memory", process_limits.trim_periodically, restart, why, may_return=True)

    async def _close_edge(self) -> None:
        await self._edge.drain(self._config.service.drain_seconds)
        await self._admission.until_quiet()
        self.closed &= await self._edge.stop()

    async def _close_examples(self) -> None:
        self.closed &= await asyncio.to_thread(self._collection.stop)

    async def _close_store(self) -> None:
        self.closed &= await self._activation.stop()

    def _troubles(self) -> list[str]:
        """Say which components have died, and whether the store's disk stands."""
        said = [*self._supervisor.problems, *self._engines.owner.problems]
        if (seconds := self._activation.stalled_seconds) >= STORE_STALLED_SECONDS:
            said.append(
                f"The disk of {self._config.state_dir} has worked on one step of an install or update"
                f" for {seconds:.0f} s. What answers goes on; installs and updates wait. Check the disk ('dmesg')."
            )
        return said

    def _computes(self, every_seconds: float) -> bool:
        """Tell whether every engine that should compute does; see docs/decisions/0024."""
        stuck = self._engines.stuck(every_seconds)
        for name in stuck:
            log.error("engine_stuck", engine=name)
        return not stuck

    def _metrics(self) -> MetricsListener | None:
        """Return what Prometheus reads from; None = nobody is to read it."""
        if not self._config.metrics.address:
            return None
        watched = SiteMetricsDependencies(
            config=self._config,
            activation=self._activation,
            engines=self._engines,
            collection=self._collection,
            admission=self._admission,
            counts=self._counts,
            link=self._link,
            alarms=self._alarms.of,
            denied=lambda: self._edge.denied,
            overview=lambda: self._updater.overview,
            serving=lambda: self._serving,
            up=lambda: {**self._supervisor.up, **self._engines.owner.up},
            deaths=lambda: self._supervisor.deaths + self._engines.owner.deaths,
        )
        return MetricsListener(*addresses.split_host_port(self._config.metrics.address), SiteMetrics(watched).page)

    def _task_statuses(self) -> list[TaskStatus]:
        """Describe the tasks for the centre; called by the thread that writes examples."""
        overview, consent = self._updater.overview, self._collection.consent
        return site_status.task_statuses(self._engines, self._activation, overview, consent, self._alarms.raised)

    def _update_changed(self) -> None:
        self._revision += 1

    async def _report(self) -> None:
        self._alarms.look_again()
        silent = dict.fromkeys(self._activation.problems, False)
        ready = {task: self._engines.ready(bundle.digest) for task, bundle in self._activation.serving.items()}
        keeping = {FEEDBACK: self._collection.is_writable} if self._collection.is_enabled else {}
        await self._edge.report(silent | ready | keeping, serving=self._serving)

    async def _report_changes(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):  # a disk that stands tells nobody
                async with asyncio.timeout(LOOK_SECONDS if self._collection.is_enabled else None):
                    await self._changed.wait()
            self._changed.clear()
            await self._report()


def _source(config: Config, store: Store) -> Source | None:
    """Return trust and intake; None = this site was given no root of trust."""
    if not config.update.root_file:
        return None
    # Only a site with a root of trust loads the libraries that verify.
    from edge_agent.update.ingest import BundleIngest  # noqa: PLC0415
    from edge_agent.update.trust import RepositoryTrust  # noqa: PLC0415

    intake = BundleIngest(config, store, RepositoryTrust(config, store.trusted))
    return Source(intake.refresh, intake.missing, intake.admit, intake.ask, lambda: intake.copied)


def serve(config: Config, around: RunWrapper = run_unwrapped, worker: type[SpoolWorker] = SpoolWorker) -> int:
    """Run the daemon until it is told to stop; return the exit code.

    `around` is for the supervisor; the spool of examples is opened with a `worker`.

    Raises:
        SiteError: something on this machine is in the way.
    """
    logs.configure(config.log)
    faulthandler.enable()  # the watchdog's SIGABRT then says in the log where every thread was
    process_limits.limit_malloc_arenas()
    process_limits.raise_descriptor_limit(config.access.connections_max)
    store = Store.open(config.state_dir, _limits(config.store))
    try:
        ended = uvloop.run(_serve(config, store, around, worker))
        if not ended.closed:
            os._exit(EXIT_FAILED)  # otherwise Python waits for the thread that waits for the disk
    finally:
        store.close()
    return EXIT_FAILED if ended.failed else 0


@dataclass(frozen=True)
class DaemonOutcome:
    """How a daemon ended."""

    failed: str
    """The component whose death ended it; empty = it was told to stop."""
    closed: bool
    """The disk took what waited to be written."""


def _admission(config: Config) -> AdmissionControl:
    return AdmissionControl(config.service.calls_max, config.access.client_calls_max)


def _limits(config: StoreConfig) -> StoreLimits:
    return StoreLimits(
        bundle_bytes_max=config.bundle_bytes_max,
        file_bytes_max=config.bundle_bytes_max,
        bundles_per_task_max=config.bundles_per_task_max,
        disk_reserve_bytes=config.disk_reserve_bytes,
    )


async def _serve(config: Config, store: Store, around: RunWrapper, worker: type[SpoolWorker]) -> DaemonOutcome:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop_at_once() -> None:
        os._exit(1)

    def stop_gently() -> None:
        stop.set()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, stop_at_once)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stop_gently)
    supervisor = Supervisor(stop.set, around=around)
    daemon = Daemon(config, store, supervisor, worker)
    async with daemon.running():
        systemd.notify("READY=1")
        log.info("serving", version=__version__, state_dir=str(config.state_dir), run_dir=str(config.run_dir))
        process_limits.freeze_startup_objects()
        if config.service.tcp_address and config.service.insecure:
            log.warning("listening_without_tls", address=config.service.tcp_address)
        await stop.wait()
        systemd.stopping(config.service.drain_seconds + STOP_SECONDS)
        log.info("stopping", failed=supervisor.failed)
    log.info("stopped", failed=supervisor.failed)
    return DaemonOutcome(supervisor.failed, daemon.closed)


def open_tuning_cache(file: SettingsFile) -> Tuned:
    """Return the settings that suit this machine, stored in a file; a write that fails is only logged."""
    tuned = Tuned(file.read())

    def keep(settings: Settings) -> None:
        try:
            file.write(settings)
        except EdgeAgentError as error:
            log.warning("settings_not_kept", message=error.message)

    tuned.keep = keep
    return tuned


def _update_dependencies(
    engines: EnginePool,
    activation: Activation,
    changed: Callable[[], None],
    planned: Callable[[Mapping[str, TaskPlan]], None],
) -> UpdateAround:
    """Return what updates need of the engines and the machine."""

    @contextlib.asynccontextmanager
    async def tried(
        bundle: InstalledBundle, paths: Mapping[str, Path], seconds_max: float
    ) -> AsyncIterator[BundleUnderTest]:
        loadable = Loadable(bundle.manifest, bundle.manifest_bytes, paths)
        async with trying(engines, bundle.digest, loadable, seconds_max) as asked:
            yield _subject(asked)

    def serving(bundle: InstalledBundle) -> BundleUnderTest | None:
        ready = engines.ready(bundle.digest) and bundle.manifest.runtime != "upstream"
        return _subject(Asked(engines, bundle.digest, bundle.manifest)) if ready else None

    def seen(digest: str) -> BundleActivity:
        tally = engines.tally(digest)
        problem = engines.failure(digest) if engines.holds(digest) else _not_loaded(activation, digest)
        return BundleActivity(tally.calls, tally.failures, tally.crashes, tally.timed, tally.median_ms, problem)

    return UpdateAround(tried, serving, seen, hardware.read_machine(engines.devices), changed, planned)


def _subject(asked: Asked) -> BundleUnderTest:
    return BundleUnderTest(asked.answer, asked.resident_bytes, asked.estimated_bytes, asked.crashes)


def _not_loaded(activation: Activation, digest: str) -> str:
    """Return why a bundle that should answer was not even loaded."""
    tasks = (task for task, bundle in activation.serving.items() if bundle.digest == digest)
    return next((activation.problems[task].message for task in tasks if task in activation.problems), "")
