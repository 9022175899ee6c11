"""One engine: a loaded base in a supervised child, the bundles on it, and the jobs on their way through it.

The engine owns all its state and lives on one event loop. `child_supervisor.py` runs the child. `LivenessProbe` tells
the daemon's watchdog whether the engine computes: an engine that was idle for a while gets a small probe job, and is
stuck if neither the probe nor any other job makes progress in time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.attached_bundles import AttachedBundles
from edge_agent.engine.child_process_watch import loop_time
from edge_agent.engine.child_supervisor import STATE_WORDS, ChildSupervisor, EngineDependencies, EngineState
from edge_agent.engine.job_dispatch import BundleStats, JobDispatcher
from edge_agent.engine.machine_limits import AcceleratorPolicy
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.errors import EngineNotReady, ModelLoadFailed
from edge_agent.process_resources import resident_bytes

ANSWERING = (EngineState.STARTING, EngineState.READY)
"""An attached bundle answers while others are still being attached."""
# Longer than the engine takes to kill a silent child: the engine replaces that child before the watchdog acts.
PATIENCE_HEARTBEATS = 1.5
PATIENCE_SECONDS_MIN = 2.0


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
    """Reasons why it uses less of a device than is configured, by DEVICE_FALLBACK or DEVICE_PARTIAL."""
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
    cache: protocol.CacheUse | None = None


class LivenessProbe:
    """Whether an engine computes. Pure."""

    def __init__(self, patience_seconds: float) -> None:
        """Start with no probe due."""
        self._patience = patience_seconds
        self._worked_at = 0.0
        self._due_since: float | None = None

    def record_work(self, now: float) -> None:
        """Note a sign of work, or that none can be expected."""
        self._worked_at, self._due_since = now, None

    def is_due(self, now: float, every_seconds: float, *, exempt: bool = False) -> bool:
        """Tell whether a probe is due: there was no sign of work for `every_seconds`. Never while `exempt`."""
        if exempt:
            self.record_work(now)
        elif self._due_since is None and now - self._worked_at >= every_seconds:
            self._due_since = now
        return self._due_since is not None

    def is_stuck(self, now: float) -> bool:
        """Tell whether a probe has been due for longer than the patience."""
        return self._due_since is not None and now - self._due_since > self._patience


def patience_seconds(heartbeat_seconds_max: float) -> float:
    """Return how long a due probe may go without a sign of work."""
    return PATIENCE_HEARTBEATS * heartbeat_seconds_max + PATIENCE_SECONDS_MIN


class SupervisedEngine:
    """A supervised child that answers for its bundles."""

    def __init__(
        self,
        name: str,
        load: protocol.LoadRequest,
        config: EngineConfig,
        quarantine: Quarantine,
        dependencies: EngineDependencies,
        accelerators: AcceleratorPolicy | None = None,
    ) -> None:
        """Prepare; the first `attach` starts the child. Without `accelerators` it computes on the CPU."""
        self.name, self._config = name, config
        self.jobs = JobDispatcher(config.queue_requests_max, protocol.concurrent_jobs(load, {}), quarantine)
        self.bundles = AttachedBundles()
        policy = accelerators or AcceleratorPolicy()
        self.child = ChildSupervisor(name, load, config, dependencies, policy, self.jobs, self.bundles, self._receive)
        self._probe = LivenessProbe(patience_seconds(config.heartbeat_seconds_max))

    def ready(self, digest: str) -> bool:
        """Tell whether that bundle answers now."""
        bundle = self.bundles.get(digest)
        return bundle is not None and bundle.is_ready and self.child.state in ANSWERING

    async def attach(self, request: protocol.AttachRequest) -> None:
        """Add a bundle and wait until it is ready. After an error it stays on the engine until `detach`.

        Raises:
            ModelLoadFailed, EngineCrashed: the first attempt failed.
        """
        bundle = self.bundles.get(request.digest)
        self.child.start()
        if bundle is None or bundle.outcome.done():
            bundle = self.bundles.add(request)
            self.jobs.stats.setdefault(request.digest, BundleStats())
            if self.child.state is EngineState.READY:
                bundle.sent_at = loop_time()
                self.child.send(bundle.request)
        await asyncio.shield(bundle.outcome)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Remove a bundle; its jobs get `drain_seconds` to finish."""
        bundle = self.bundles.pop(digest, None)
        if bundle is None:
            return
        bundle.settle(EngineNotReady("the bundle was taken off the engine"))
        try:
            await self.jobs.wait_until_drained(digest, drain_seconds)
        finally:
            if digest not in self.bundles:  # it may be back
                self.jobs.forget_bundle(digest)
                self.child.send(protocol.DetachRequest(digest=digest))

    def require_ready(self, digest: str) -> None:
        """Require that a bundle answers now. Raises EngineNotReady, ModelLoadFailed, or the error of its attach."""
        if self.ready(digest):
            return
        state = self.child.state
        if state is EngineState.FAILED:
            raise ModelLoadFailed(f"the model does not load: {self.child.problem}")
        bundle = self.bundles.get(digest)
        if state is EngineState.READY and bundle is not None and bundle.outcome.done():
            bundle.outcome.result()  # raises, for a bundle that failed
        pause = self._config.restart_seconds_first
        raise EngineNotReady(f"the model is {STATE_WORDS[state]}", retry_seconds=pause, state=state.value)

    def _receive(self, message: protocol.FromChild) -> None:
        """Handle a message from the child; pass one that is not about a job to the child's supervisor."""
        match message:
            case protocol.JobResult():
                if self.child.restart_policy.crashes:
                    self.child.restart_policy.record_answer()
                self.jobs.finish(message)
            case protocol.TextChunk():
                self.jobs.pass_chunk(message)
            case protocol.FailureReport() if self.jobs.finish(message):
                pass
            case protocol.Heartbeat():
                pass
            case _:
                self.child.receive(message)
                return
        self._probe.record_work(loop_time())

    def is_alive(self, every_seconds: float) -> bool:
        """Tell whether it computes, or need not compute now, for example because it loads or restarts.

        An engine without work for `every_seconds` gets a tiny probe job; an error counts as an answer.
        """
        if self.child.is_started and self.child.ended:
            return self.child.state in (EngineState.FAILED, EngineState.STOPPING)
        digest = next(filter(self.ready, self.bundles), "")
        exempt = self.child.state is not EngineState.READY or not digest or self.bundles.is_attaching()
        if self._probe.is_due(loop_time(), every_seconds, exempt=exempt) and not self.jobs:
            self.jobs.request_probe(digest, loop_time() + self._config.load_seconds_max)
        return not self._probe.is_stuck(loop_time())

    def failure(self, digest: str) -> str:
        """Return why a bundle does not answer, once the engine has given up; empty = it answers, or still may."""
        state = self.child.state
        failed = (
            self.bundles.has_failed(digest) if state is EngineState.READY else self.child.restart_policy.is_exhausted
        )
        return (self.child.problem or "it does not load") if failed and not self.ready(digest) else ""

    def status(self) -> EngineStatus:
        """Describe the engine as it is now."""
        child, jobs = self.child, self.jobs
        is_healthy = child.state is EngineState.READY and not any(map(self.bundles.has_failed, self.bundles))
        return EngineStatus(
            name=self.name,
            runtime=child.load.runtime,
            state=child.state,
            pid=child.pid,
            resident_bytes=resident_bytes(child.pid),
            pending=len(jobs),
            restarts=child.restarts,
            problem="" if is_healthy else child.problem,
            device=child.device,
            shortfalls=child.shortfalls,
            digests=tuple(self.bundles),
            details=child.details,
            running=jobs.in_flight,
            running_max=protocol.concurrent_jobs(child.loaded, child.details),
            waiting=max(0, len(jobs) - jobs.in_flight),
            waiting_max=self._config.queue_requests_max,
            loads=child.loads,
            load_failures=child.load_failures,
            threads=child.loaded.threads,
            cache=child.cache,
        )
