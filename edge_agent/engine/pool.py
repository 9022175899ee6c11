"""All engines of the daemon: bundles with the same base and settings share one.

The pool is told which bundles to attach and detach; it starts an engine for the first bundle of a base and stops it
after the last. It knows digests and manifests, nothing of tasks, disks or networks.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import accelerator_detection
from edge_agent.engine.accelerator_policy import CPU, AcceleratorPolicy, DeviceSupport, candidate_devices
from edge_agent.engine.bundle_stats import BundleStats
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.engine import Engine
from edge_agent.engine.job_dispatch import EngineAnswer, Quarantine
from edge_agent.engine.job_queue import Reservation
from edge_agent.engine.machine_limits import EngineMemoryUse, available_cores, available_memory, threads_per_engine
from edge_agent.engine.protocol import AttachRequest, CacheUse, JobRequest, LoadRequest, TextChunk, concurrent_jobs
from edge_agent.engine.tuning_cache import TuningCache
from edge_agent.errors import EngineNotReady
from edge_agent.formats.manifest import Manifest
from edge_agent.process_memory import resident_bytes
from edge_agent.supervision import Supervisor

log = structlog.get_logger("edge_agent.engine")


@dataclass(frozen=True)
class EngineStatus:
    """What status shows of an engine."""

    name: str
    runtime: str
    state: EngineState
    pid: int
    resident_bytes: int
    pending: int
    restarts: int
    problem: str
    device: str
    shortfalls: Mapping[str, str]
    """What is wanting of the device: DEVICE_FALLBACK or DEVICE_PARTIAL, and why."""
    digests: tuple[str, ...]
    details: Mapping[str, str]
    running: int = 0
    """Inputs that the child computes."""
    running_max: int = 0
    waiting: int = 0
    waiting_max: int = 0
    loads: int = 0
    load_failures: int = 0
    threads: int = 0
    cache: CacheUse | None = None


class EnginePool:
    """See the module. One event loop owns it."""

    def __init__(
        self,
        config: EngineConfig,
        on_change: Callable[[], None],
        readable: Sequence[Path] = (),
        beside: EnginePool | None = None,
        offered: Callable[[str], DeviceSupport] = accelerator_detection.detect_support,
    ) -> None:
        """Start with no engines; children may read `readable` and nothing else of the site.

        `on_change` is called whenever a bundle may have become ready or not ready. The memory that the engines of
        `beside` take is not there for these, and the other way round. `offered` tells what a runtime could compute on.
        """
        self._offered = offered
        self._readable = tuple(map(str, readable))
        self._beside = beside
        self._trial: EnginePool | None = None
        """The last one: its child may still be ending."""
        self._quarantine = Quarantine(config.quarantine_seconds)
        self._config = config
        self._on_change = on_change
        self._engines: dict[str, Engine] = {}
        self._leaving: list[Engine] = []
        """Engines without bundles whose child may not be gone yet."""
        self._stopped = False
        self._by_digest: dict[str, Engine] = {}
        self._tasks: dict[str, str] = {}
        """The task of each digest in _by_digest."""
        self._without_model: set[str] = set()
        """Digests of bundles that only the large model answers."""
        self._threads = config.cpu_threads or available_cores()
        self.tuning_cache = TuningCache()
        self._loading = asyncio.Lock()
        self.owner = Supervisor()
        """Of what watches the children."""

    async def attach(
        self, digest: str, manifest: Manifest, manifest_bytes: bytes, paths: Mapping[str, Path], keep: bool = False
    ) -> None:
        """Make a bundle ready to answer, starting its engine when it is the first on its base.

        With `keep`, a bundle that fails stays wanted: the engine tries again by its own rules.

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
        engine = self._by_digest[digest] = self._engine_for(manifest, paths)
        self._tasks[digest] = manifest.task.name
        self._assign_threads()
        message = AttachRequest(
            digest=digest,
            manifest=manifest_bytes,
            paths={role: str(path) for role, path in paths.items()},
            seconds_max=self._config.attach_seconds_max,
        )
        try:
            if not keep:
                await self._attach(engine, message)
                return
            # At the start of the daemon one after the other: a model that measures what suits it is not disturbed.
            async with self._loading:
                await self._attach(engine, message)
        except BaseException:
            if not keep:
                await self.detach(digest, drain_seconds=0)
            raise

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Forget a bundle after its running jobs had that long to finish; stop an engine without bundles."""
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
                self._leaving = [each for each in (*self._leaving, engine) if not each.ended]
                engine.request_stop()
        if unused:
            await engine.stop()

    async def _attach(self, engine: Engine, message: AttachRequest) -> None:
        if engine.ready(message.digest):
            return
        if engine.bundles.has_failed(message.digest):
            await engine.restart()  # its files may be others now: the child holds the old ones
        if self._by_digest.get(message.digest) is not engine:
            raise EngineNotReady("the bundle was taken off while it waited for another to load")
        await engine.attach(message)
        if why := engine.jobs.score_variances.get(message.digest):
            task = self._tasks.get(message.digest, "")
            log.warning("scores_vary", task=task, digest=message.digest, engine=engine.name, message=why)

    def _prepare(self, engine: Engine) -> None:
        """Note what there is for an engine that is about to start, and whose last child is gone."""
        engine.load = msgspec.structs.replace(
            engine.load, settings=self.tuning_cache.lookup(engine.load), memory_bytes_max=self._available(engine)
        )

    def _available(self, engine: Engine) -> int:
        """Measure what there is for an engine, in bytes, what it has already included.

        What is granted to one that loads is not there for another that loads at the same time.
        """
        pools = (self, self._beside, self._trial)
        others = [each for pool in pools if pool for each in (*pool._engines.values(), *pool._leaving)]
        uses = [EngineMemoryUse(resident_bytes(each.pid), _granted(each)) for each in others if each is not engine]
        limits = self._config.memory_reserve_bytes, self._config.memory_bytes_max
        return available_memory(*limits, resident_bytes(engine.pid), uses)

    @contextlib.asynccontextmanager
    async def sandbox_pool(self, seconds_max: float) -> AsyncIterator[EnginePool]:
        """Yield a pool for a bundle that is to be tried: its child ends with the block, and serves nobody.

        It has the threads that an engine here has, tries no load twice, forgets what killed it, and kills what is
        silent for `seconds_max`. One at a time.
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
        readable = [Path(each) for each in self._readable]
        trial = self._trial = EnginePool(config, lambda: None, readable, beside=self, offered=self._offered)
        trial.tuning_cache = self.tuning_cache
        try:
            yield trial
        finally:
            await trial.stop()

    @property
    def pids(self) -> list[int]:
        """The process ids of the engines, those that are ending included; 0 for one that has none."""
        return [engine.pid for engine in (*self._engines.values(), *self._leaving)]

    def stats(self, digest: str) -> BundleStats:
        """Return what came of the inputs of a bundle since it was attached."""
        engine = self._by_digest.get(digest)
        return engine.jobs.stats.get(digest, BundleStats()) if engine else BundleStats()

    def failure(self, digest: str) -> str:
        """Return why a bundle does not answer and will not by itself; empty = it does, or may yet."""
        engine = self._by_digest.get(digest)
        if engine is None or not (
            engine.state is EngineState.FAILED
            or (engine.state is EngineState.READY and engine.bundles.has_failed(digest))
        ):
            return ""
        return engine.problem or "it does not load"

    def score_variance(self, digest: str) -> str:
        """Return why scores of a bundle depend on what else is computed; empty = they do not, as far as is known."""
        engine = self._by_digest.get(digest)
        return engine.jobs.score_variances.get(digest, "") if engine else ""

    def holds(self, digest: str) -> bool:
        """Tell whether a bundle was attached, be it ready or not."""
        return digest in self._by_digest or digest in self._without_model

    def resident_bytes(self, digest: str) -> int:
        """Return the memory of the engine behind a bundle, in bytes; 0 without one."""
        engine = self._by_digest.get(digest)
        return resident_bytes(engine.pid) if engine else 0

    def estimated_bytes(self, digest: str) -> int:
        """Return what the engine behind a bundle was computed to need, in bytes; 0 = that is not known."""
        engine = self._by_digest.get(digest)
        return int(engine.details.get("memory_estimated_bytes", 0)) if engine else 0

    def replaces(self, digest: str, manifest: Manifest) -> bool:
        """Tell whether detaching that bundle would stop an engine, and attaching that manifest start another."""
        engine = self._by_digest.get(digest)
        alone = engine is not None and list(engine.bundles) == [digest]
        return alone and manifest.engine_key() not in self._engines

    def ready(self, digest: str) -> bool:
        """Tell whether that bundle answers now."""
        engine = self._by_digest.get(digest)
        return digest in self._without_model if engine is None else engine.ready(digest)

    def reserve(self, digest: str, jobs: int, client: str = "") -> Reservation:
        """Keep places for `jobs` more inputs of this client until the end of a `with` block.

        Raises:
            CapacityError, ModelLoadFailed: they would not be taken now, not all of them.
        """
        return self._engine_of(digest).reserve(digest, jobs, client)

    def events(
        self, run: JobRequest, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[TextChunk | EngineAnswer, None]:
        """Compute one input; see Engine.events. `deadline` is on the event loop's clock, in seconds; 0 comes first."""
        return self._engine_of(run.digest).events(run, deadline, priority, client)

    def answer(
        self,
        run: JobRequest,
        deadline: float,
        priority: int = 0,
        client: str = "",
        reservation: Reservation | None = None,
    ) -> Awaitable[EngineAnswer]:
        """Compute one input of a task that writes no chunks; see Engine.answer."""
        return self._engine_of(run.digest).answer(run, deadline, priority, client, reservation)

    def in_flight(self, digest: str) -> int:
        """Return how many inputs the child behind a bundle is computing."""
        return self._engine_of(digest).jobs.in_flight

    @property
    def devices(self) -> frozenset[str]:
        """The devices that some runtime may use here, by the settings, its build and the machine."""
        every = map(self._offered, accelerator_detection.LIBRARIES)
        usable = (set(candidate_devices(self._config.device, "any", each)).intersection(each.built) for each in every)
        return frozenset({CPU}.union(*usable))

    def ask(self) -> None:
        """Let the children say how they stand; a later `statuses` has it."""
        for engine in self._engines.values():
            engine.ask()

    def statuses(self) -> list[EngineStatus]:
        """Describe every engine."""
        return [
            EngineStatus(
                name=engine.name,
                runtime=engine.load.runtime,
                state=engine.state,
                pid=engine.pid,
                resident_bytes=resident_bytes(engine.pid),
                pending=len(engine.jobs),
                restarts=engine.restarts,
                problem=engine.problem,
                device=engine.device,
                shortfalls=engine.shortfalls,
                digests=tuple(engine.bundles),
                details=engine.details,
                running=engine.jobs.in_flight,
                running_max=concurrent_jobs(engine.loaded, engine.details),
                waiting=max(0, len(engine.jobs) - engine.jobs.in_flight),
                waiting_max=self._config.queue_requests_max,
                loads=engine.loads,
                load_failures=engine.load_failures,
                threads=engine.loaded.threads,
                cache=engine.cache,
            )
            for engine in self._engines.values()
        ]

    def stuck(self, every_seconds: float) -> list[str]:
        """Name the engines that should compute and do not; see Engine.alive."""
        return [engine.name for engine in self._engines.values() if not engine.alive(every_seconds)]

    def drain(self) -> None:
        """Start no further child: those that run finish what they have."""
        for engine in self._engines.values():
            engine.drain()

    async def stop(self) -> None:
        """Stop every engine, for good."""
        self._stopped = True
        await asyncio.gather(*(engine.stop() for engine in (*self._engines.values(), *self._leaving)))

    def _engine_of(self, digest: str) -> Engine:
        engine = self._by_digest.get(digest)
        if engine is None:
            raise EngineNotReady("the model is not loaded yet")
        return engine

    def _engine_for(self, manifest: Manifest, paths: Mapping[str, Path]) -> Engine:
        key = manifest.engine_key()
        if key not in self._engines:
            weights = paths.get("weights")
            load = LoadRequest(
                runtime=manifest.runtime,
                weights=str(weights) if weights else "",
                context_tokens=manifest.engine.context_tokens,
                kv_type=manifest.engine.kv_type,
                sequences_max=self._config.sequences_max,
                prompt_cache_bytes_max=self._config.prompt_cache_bytes_max,
                tune=self._config.tune,
                readable=self._readable,
                memory_bytes_wanted=manifest.requires.memory_bytes,
                device_index=_or_all(self._config.gpu_index),
                device_memory_bytes_max=self._config.gpu_memory_bytes_max,
                gpu_layers=_or_all(self._config.gpu_layers),
            )
            name = f"{manifest.runtime}-{key[:8]}"
            accelerators = self._accelerators_for(manifest)
            engine = Engine(name, load, self._config, self._quarantine, self._changed, accelerators, self.owner)
            engine.before_start = partial(self._prepare, engine)
            engine.available = partial(self._available, engine)
            self._engines[key] = engine
        return self._engines[key]

    def _changed(self) -> None:
        for engine in self._engines.values():
            self.tuning_cache.remember(engine.loaded, engine.details)
        self._on_change()

    def _accelerators_for(self, manifest: Manifest) -> AcceleratorPolicy:
        config = self._config
        try:
            offered = self._offered(manifest.runtime)
        except OSError as error:
            raise EngineNotReady(f"the devices of this machine cannot be looked at: {error}") from None
        wanted = candidate_devices(config.device, manifest.requires.device, offered)
        accelerators = AcceleratorPolicy(wanted, config.device_failures_max, config.device_retry_seconds)
        for device in wanted:
            if device not in offered.built:
                accelerators.rule_out(device, f"what is installed of {manifest.runtime} is not built for it")
        return accelerators

    def _assign_threads(self) -> None:
        """Set the threads with which each engine starts next; one that runs keeps what it has until then."""
        # While a task moves from one engine to another, the newer is counted and not both.
        latest = {self._tasks[digest]: engine for digest, engine in self._by_digest.items()}
        engines = {engine for engine in latest.values() if engine.load.runtime != "echo"}  # echo computes nothing
        for engine in engines:
            engine.load = msgspec.structs.replace(engine.load, threads=threads_per_engine(self._threads, len(engines)))


def _or_all(setting: int | str) -> int:
    """Return a setting as a child is told it: -1 = auto."""
    return setting if isinstance(setting, int) else -1


def _granted(engine: Engine) -> int | None:
    """Return what a child that loads was granted, in bytes; None = none loads."""
    return engine.cap.granted_bytes if engine.state is EngineState.STARTING else None
