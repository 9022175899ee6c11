"""All engines of the daemon: bundles with the same base and settings share one.

Activation and updates attach bundles and detach them. The pool starts an engine for the first bundle of a base and
stops it after the last. It uses digests and manifests, and no disk or network.

`TuningCache` stores the settings that suit this machine, as children have measured them: by weights, threads and cache
type. The child itself compares the processor and the build of the library, and measures again if one has changed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import machine_limits
from edge_agent.engine.child_supervisor import ChildSupervisor, EngineDependencies, EngineState
from edge_agent.engine.engine import EngineStatus, SupervisedEngine
from edge_agent.engine.job_dispatch import BundleStats, EngineAnswer, JobDispatcher
from edge_agent.engine.job_queue import Reservation
from edge_agent.engine.machine_limits import (
    CPU,
    AcceleratorPolicy,
    DeviceSupport,
    EngineMemoryUse,
    available_cores,
    available_memory,
    candidate_devices,
    threads_per_engine,
)
from edge_agent.engine.protocol import TUNING_DETAILS, AttachRequest, JobRequest, LoadRequest, Ping, TextChunk
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.errors import EngineNotReady
from edge_agent.formats.manifest import Manifest
from edge_agent.process_resources import resident_bytes
from edge_agent.supervision import Supervisor

ENTRIES_MAX = 64
"""Beyond this number, the settings that were measured longest ago are dropped."""

TuningSettings = dict[str, dict[str, str]]


class TuningCache:
    """See the module. Calls `on_change`, which must not fail, with all settings after every change."""

    def __init__(self, stored: Mapping[str, Mapping[str, str]] | None = None) -> None:
        """Start with the settings that were stored before."""
        self._settings: TuningSettings = {key: dict(settings) for key, settings in (stored or {}).items()}
        self.on_change: Callable[[TuningSettings], None] = lambda _: None

    def lookup(self, load: LoadRequest) -> dict[str, str]:
        """Return the settings for an engine that is about to load; empty = none were measured."""
        return self._settings.get(_settings_key(load), {})

    def remember(self, load: LoadRequest, details: Mapping[str, str]) -> None:
        """Store the settings in `details`, if the engine has just measured them."""
        if details.get("tuned") != "measured":
            return
        settings = {name: details[name] for name in TUNING_DETAILS if name in details}
        key = _settings_key(load)
        if self._settings.get(key) == settings:
            return
        self._settings.pop(key, None)
        self._settings[key] = settings
        for oldest in list(self._settings)[:-ENTRIES_MAX]:
            del self._settings[oldest]
        self.on_change(self._settings)


def _settings_key(load: LoadRequest) -> str:
    """Return the key of an engine's settings. The name of a weights file is the hash of its content."""
    return f"{Path(load.weights).name} {load.kv_type} {load.threads}"


log = structlog.get_logger("edge_agent.engine")


class EngineFactory:
    """Makes the engine for a bundle: what its child loads and may read, and on which devices."""

    def __init__(
        self,
        config: EngineConfig,
        readable: Sequence[Path],
        dependencies: EngineDependencies,
        detect_support: Callable[[str], DeviceSupport],
    ) -> None:
        """Take what all engines share; `detect_support` returns what a runtime could compute on."""
        self._config, self._dependencies = config, dependencies
        self.readable, self.detect_support = readable, detect_support
        self._quarantine = Quarantine(config.quarantine_seconds)

    @property
    def devices(self) -> frozenset[str]:
        """The devices that some runtime may use here, by the settings, its build and the machine."""
        support = map(self.detect_support, machine_limits.LIBRARIES)
        usable = (set(candidate_devices(self._config.device, "any", each)).intersection(each.built) for each in support)
        return frozenset({CPU}.union(*usable))

    def create(self, manifest: Manifest, paths: Mapping[str, Path]) -> SupervisedEngine:
        """Return the engine for the base of a bundle, not started. Raises EngineNotReady."""
        config = self._config
        try:
            support = self.detect_support(manifest.runtime)
        except OSError as error:
            raise EngineNotReady(f"the devices of this machine cannot be listed: {error}") from None
        candidates = candidate_devices(config.device, manifest.requires.device, support)
        accelerators = AcceleratorPolicy(candidates, config.device_failures_max, config.device_retry_seconds)
        for device in candidates:
            if device not in support.built:
                accelerators.rule_out(device, f"the installed {manifest.runtime} library is not built for it")
        weights = paths.get("weights")
        load = LoadRequest(
            runtime=manifest.runtime,
            weights=str(weights) if weights else "",
            context_tokens=manifest.engine.context_tokens,
            kv_type=manifest.engine.kv_type,
            sequences_max=config.sequences_max,
            prompt_cache_bytes_max=config.prompt_cache_bytes_max,
            tune=config.tune,
            readable=tuple(map(str, self.readable)),
            memory_bytes_wanted=manifest.requires.memory_bytes,
            device_index=_number_or_auto(config.gpu_index),
            device_memory_bytes_max=config.gpu_memory_bytes_max,
            gpu_layers=_number_or_auto(config.gpu_layers),
        )
        name = f"{manifest.runtime}-{manifest.engine_key()[:8]}"
        return SupervisedEngine(name, load, config, self._quarantine, self._dependencies, accelerators)


class EnginePool:
    """See the module. One event loop owns it."""

    def __init__(
        self,
        config: EngineConfig,
        on_change: Callable[[], None],
        readable: Sequence[Path] = (),
        parent: EnginePool | None = None,
        detect_support: Callable[[str], DeviceSupport] = machine_limits.detect_support,
    ) -> None:
        """Start with no engines; children may read only `readable` of the site's files.

        `on_change` is called whenever a bundle may have become ready or not ready. The engines of `parent`, the pool of
        which this is a sandbox, share the memory with these. `detect_support` returns what a runtime could compute on.
        """
        self._parent = parent
        self._sandbox: EnginePool | None = None
        """The latest one; its child may not be gone yet."""
        self._config = config
        self._on_change = on_change
        self._engines: dict[str, SupervisedEngine] = {}
        self._unused_engines: list[SupervisedEngine] = []
        """Engines without bundles whose child may not be gone yet."""
        self._stopped = False
        self._by_digest: dict[str, SupervisedEngine] = {}
        self._tasks: dict[str, str] = {}
        """The task of each digest in _by_digest."""
        self._without_model: set[str] = set()
        """Digests of bundles that only the large model answers."""
        self._threads = config.cpu_threads or available_cores()
        self.tuning_cache = TuningCache()
        self._loading = asyncio.Lock()
        self.owner = Supervisor()
        """Owns the tasks that supervise the children."""
        dependencies = EngineDependencies(self.owner, self._prepare_load, self._available_memory, self._handle_change)
        self.factory = EngineFactory(config, readable, dependencies, detect_support)

    async def attach(
        self, digest: str, manifest: Manifest, manifest_bytes: bytes, paths: Mapping[str, Path], keep: bool = False
    ) -> None:
        """Make a bundle ready to answer; the first bundle on a base starts its engine.

        With `keep`, a bundle that fails stays attached, and the engine tries again by its own rules.

        Raises:
            ModelLoadFailed, EngineCrashed: it does not load.
            MemoryShort: there is not enough memory for its engine.
            EngineNotReady: its engine cannot be started now, or is stopping.
        """
        if manifest.runtime == "upstream":
            self._without_model.add(digest)
            return
        if digest in self._by_digest and not keep:
            await self.detach(digest, drain_seconds=0)
        if self._stopped:
            raise EngineNotReady("the daemon is stopping")
        key = manifest.engine_key()
        if key not in self._engines:
            self._engines[key] = self.factory.create(manifest, paths)
        engine = self._by_digest[digest] = self._engines[key]
        self._tasks[digest] = manifest.task.name
        self._assign_threads()
        message = AttachRequest(
            digest=digest,
            manifest=manifest_bytes,
            paths={role: str(path) for role, path in paths.items()},
            seconds_max=self._config.attach_seconds_max,
        )
        try:
            # When the daemon starts, models load one after the other, so that each measures its settings undisturbed.
            async with self._loading if keep else contextlib.nullcontext():
                await self._attach(engine, message)
        except BaseException:
            if not keep:
                await self.detach(digest, drain_seconds=0)
            raise

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Remove a bundle, whose running jobs get `drain_seconds` to finish; stop an engine left without bundles."""
        self._without_model.discard(digest)
        engine = self._by_digest.pop(digest, None)
        if engine is None:
            return
        del self._tasks[digest]
        self._assign_threads()
        try:
            await engine.detach(digest, drain_seconds)
        finally:  # also where the caller is cancelled: an engine without bundles ends
            unused = engine not in self._by_digest.values()
            if unused:
                self._engines = {key: other for key, other in self._engines.items() if other is not engine}
                self._unused_engines = [each for each in (*self._unused_engines, engine) if not each.child.ended]
                engine.child.request_stop()
        if unused:
            await engine.child.stop()

    async def _attach(self, engine: SupervisedEngine, message: AttachRequest) -> None:
        if engine.ready(message.digest):
            return
        if engine.bundles.has_failed(message.digest):
            await engine.child.restart()  # its files may have changed, and the child has the old ones open
        if self._by_digest.get(message.digest) is not engine:
            raise EngineNotReady("the bundle was removed while it waited for another one to load")
        await engine.attach(message)
        if reason := engine.jobs.score_variances.get(message.digest):
            task = self._tasks.get(message.digest, "")
            log.warning("scores_vary", task=task, digest=message.digest, engine=engine.name, message=reason)

    def _prepare_load(self, child: ChildSupervisor) -> LoadRequest:
        """Return what the next child of an engine loads, with its settings and the memory that is available now."""
        settings = self.tuning_cache.lookup(child.load)
        return msgspec.structs.replace(child.load, settings=settings, memory_bytes_max=self._available_memory(child))

    def _available_memory(self, child: ChildSupervisor) -> int:
        """Measure how much memory the child of an engine may take in all, in bytes.

        Memory granted to one child that loads is not available to another that loads at the same time.
        """
        pools = (self, self._parent, self._sandbox)
        children = [each for pool in pools if pool for each in pool.children]
        uses = [EngineMemoryUse(resident_bytes(each.pid), each.granted_bytes) for each in children if each is not child]
        limits = self._config.memory_reserve_bytes, self._config.memory_bytes_max
        return available_memory(*limits, resident_bytes(child.pid), uses)

    def _handle_change(self) -> None:
        """Store the settings that engines have measured, and report that readiness may have changed."""
        for engine in self._engines.values():
            self.tuning_cache.remember(engine.child.loaded, engine.child.details)
        self._on_change()

    @contextlib.asynccontextmanager
    async def sandbox_pool(self, seconds_max: float) -> AsyncIterator[EnginePool]:
        """Yield a pool for testing a bundle: its child ends with the block, and serves no caller. One at a time.

        It has as many threads as an engine of this pool, tries no load twice, quarantines no input, and kills a child
        that is silent for `seconds_max`.
        """
        config = self._config.model_copy(
            update={
                "cpu_threads": threads_per_engine(self._threads, max(1, len(self._engines))),
                "load_failures_max": 1,
                "quarantine_seconds": 0.0,
                "heartbeat_seconds_max": min(seconds_max, self._config.heartbeat_seconds_max),
                "load_seconds_max": min(seconds_max, self._config.load_seconds_max),
                "attach_seconds_max": min(seconds_max, self._config.attach_seconds_max),
            }
        )
        factory = self.factory
        pool = EnginePool(config, lambda: None, factory.readable, self, detect_support=factory.detect_support)
        pool.tuning_cache, self._sandbox = self.tuning_cache, pool
        try:
            yield pool
        finally:
            await pool.stop()

    @property
    def children(self) -> list[ChildSupervisor]:
        """The supervised children of all engines, those that are ending included."""
        return [engine.child for engine in (*self._engines.values(), *self._unused_engines)]

    def stats(self, digest: str) -> BundleStats:
        """Return the counts of the inputs of a bundle since it was attached."""
        engine = self._by_digest.get(digest)
        return engine.jobs.stats.get(digest, BundleStats()) if engine else BundleStats()

    def failure(self, digest: str) -> str | None:
        """Return why a bundle does not answer, and will not without intervention; empty = it does, or may yet.

        None = it was not attached.
        """
        engine = self._by_digest.get(digest)
        if engine is None:
            return "" if digest in self._without_model else None
        return engine.failure(digest)

    def score_variance(self, digest: str) -> str:
        """Return why scores of a bundle depend on what else is computed; empty = no such dependence is known."""
        engine = self._by_digest.get(digest)
        return engine.jobs.score_variances.get(digest, "") if engine else ""

    def resident_bytes(self, digest: str) -> int:
        """Return the memory of the engine behind a bundle, in bytes; 0 without one."""
        engine = self._by_digest.get(digest)
        return resident_bytes(engine.child.pid) if engine else 0

    def estimated_bytes(self, digest: str) -> int:
        """Return what the engine behind a bundle was computed to need, in bytes; 0 = that is not known."""
        engine = self._by_digest.get(digest)
        return int(engine.child.details.get("memory_estimated_bytes", 0)) if engine else 0

    def replaces(self, digest: str, manifest: Manifest) -> bool:
        """Tell whether detaching that bundle would stop an engine, and attaching that manifest start another."""
        engine = self._by_digest.get(digest)
        is_only_bundle = engine is not None and list(engine.bundles) == [digest]
        return is_only_bundle and manifest.engine_key() not in self._engines

    def ready(self, digest: str) -> bool:
        """Tell whether that bundle answers now."""
        engine = self._by_digest.get(digest)
        return digest in self._without_model if engine is None else engine.ready(digest)

    def reserve(self, digest: str, jobs: int, client: str = "") -> Reservation:
        """Reserve places for `jobs` more inputs of this client until the end of a `with` block.

        Raises:
            CapacityError, ModelLoadFailed: the engine would not take all of them now.
        """
        return self._ready_jobs(digest).reserve(jobs, client)

    def events(
        self, request: JobRequest, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[TextChunk | EngineAnswer, None]:
        """Compute one input: yield its chunks, then its EngineAnswer. Leaving early cancels it.

        `deadline` is on the loop's clock; `priority` 0 comes first.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended, or because the bundle does not answer now.
        """
        return self._ready_jobs(request.digest).events(request, deadline, priority, client)

    def answer(
        self,
        request: JobRequest,
        deadline: float,
        priority: int = 0,
        client: str = "",
        reservation: Reservation | None = None,
    ) -> Awaitable[EngineAnswer]:
        """Compute one input of a task that writes no chunks; like `events`, at less cost."""
        return self._ready_jobs(request.digest).answer(request, deadline, priority, client, reservation)

    def request_figures(self) -> None:
        """Ask the children for the use of their caches; `statuses` shows it when they have answered."""
        for engine in self._engines.values():
            if engine.child.state is EngineState.READY:
                engine.child.send(Ping())

    def statuses(self) -> list[EngineStatus]:
        """Describe every engine."""
        return [engine.status() for engine in self._engines.values()]

    def stuck(self, every_seconds: float) -> list[str]:
        """Name the engines that should compute and do not; see SupervisedEngine.is_alive."""
        return [engine.name for engine in self._engines.values() if not engine.is_alive(every_seconds)]

    def drain(self) -> None:
        """Start no more children; those that run finish their jobs."""
        for engine in self._engines.values():
            engine.child.drain()

    async def stop(self) -> None:
        """Stop every engine, for good."""
        self._stopped = True
        await asyncio.gather(*(child.stop() for child in self.children))

    def _ready_jobs(self, digest: str) -> JobDispatcher:
        """Return the jobs of the engine of a bundle that answers now; see `SupervisedEngine.require_ready`."""
        engine = self._by_digest.get(digest)
        if engine is None:
            raise EngineNotReady("the model is not loaded yet")
        engine.require_ready(digest)
        return engine.jobs

    def _assign_threads(self) -> None:
        """Set the threads with which each engine starts next; a running child keeps its own until then."""
        # While a task moves from one engine to another, only the newer one counts.
        child_by_task = {self._tasks[digest]: engine.child for digest, engine in self._by_digest.items()}
        children = {child for child in child_by_task.values() if child.load.runtime != "echo"}  # echo computes nothing
        for child in children:
            child.load = msgspec.structs.replace(child.load, threads=threads_per_engine(self._threads, len(children)))


def _number_or_auto(setting: int | str) -> int:
    """Return a setting as LoadRequest has it: -1 = auto."""
    return setting if isinstance(setting, int) else -1
