"""One engine: a loaded base in a supervised child, the bundles on it, and the jobs on their way through it.

The engine owns all its state and lives on one event loop. `child_supervisor.py` runs the child.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable

from edge_agent.engine import protocol
from edge_agent.engine.attached_bundles import resolve
from edge_agent.engine.bundle_stats import BundleStats
from edge_agent.engine.child_supervisor import STATE_WORDS, ChildSupervisor, EngineState
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.job_queue import Reservation
from edge_agent.engine.liveness import loop_time
from edge_agent.errors import EngineNotReady, ModelLoadFailed


class Engine(ChildSupervisor):
    """A supervised child that answers for its bundles."""

    def ready(self, digest: str) -> bool:
        """Tell whether that bundle answers now; while others are still being attached to the child, too."""
        return self.state in (EngineState.STARTING, EngineState.READY) and self.bundles.is_ready(digest)

    async def attach(self, attach: protocol.AttachRequest) -> None:
        """Add a bundle and wait until it is ready. After an error it is still wanted: `detach` drops it.

        Raises:
            ModelLoadFailed, EngineCrashed: the first try failed.
        """
        bundle = self.bundles.get(attach.digest)
        self.start()
        if bundle is None or bundle.attached.done():
            bundle = self.bundles.add(attach)
            self.jobs.stats.setdefault(attach.digest, BundleStats())
            if self.state is EngineState.READY:
                bundle.sent_at = loop_time()
                self._send(bundle.attach)
        await asyncio.shield(bundle.attached)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Remove a bundle; its jobs get that long to finish."""
        bundle = self.bundles.pop(digest, None)
        if bundle is None:
            return
        resolve(bundle.attached, EngineNotReady("the bundle was taken off the engine"))
        try:
            await self.jobs.drained(digest, drain_seconds)
        finally:
            if digest not in self.bundles:  # it may be back
                self.jobs.forget_bundle(digest)
                self._send(protocol.DetachRequest(digest=digest))

    def reserve(self, digest: str, jobs: int, client: str) -> Reservation:
        """Keep places in the queue for `jobs` more of this client. Raises CapacityError or ModelLoadFailed."""
        self._require_ready(digest)
        return self.jobs.reserve(jobs, client)

    def _require_ready(self, digest: str) -> None:
        if self.state is EngineState.FAILED:
            raise ModelLoadFailed(f"the model does not load: {self.problem}")
        if not self.ready(digest):
            if self.state is EngineState.READY:
                self.bundles.raise_failure(digest)
            pause = self._config.restart_seconds_first
            raise EngineNotReady(f"the model is {STATE_WORDS[self.state]}", retry_seconds=pause, state=self.state.value)

    def events(
        self, run: protocol.JobRequest, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[protocol.TextChunk | EngineAnswer, None]:
        """Compute one input: yield its chunks, then its EngineAnswer. Leaving early cancels it.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended.
        """
        self._require_ready(run.digest)
        return self.jobs.events(run, deadline, priority, client)

    def answer(
        self,
        run: protocol.JobRequest,
        deadline: float,
        priority: int = 0,
        client: str = "",
        places: Reservation | None = None,
    ) -> Awaitable[EngineAnswer]:
        """Compute one input of a task that writes no chunks; like `events`, at less cost."""
        self._require_ready(run.digest)
        return self.jobs.answer(run, deadline, priority, client, places)

    def alive(self, every_seconds: float) -> bool:
        """Tell whether it computes, or need not now: that it loads or starts again is no fault of the daemon.

        Where nobody asked it for `every_seconds` it is asked by a tiny request; an error is an answer too.
        """
        if self._supervisor is not None and self._supervisor.done():
            return self.state in (EngineState.FAILED, EngineState.STOPPING)
        asked = next(filter(self.ready, self.bundles), "")
        exempt = self.state is not EngineState.READY or not asked or self.bundles.is_attaching()
        if self._probe.is_due(loop_time(), every_seconds, exempt=exempt) and not self.jobs:
            self.jobs.request_probe(asked, loop_time() + self._config.load_seconds_max)
        return not self._probe.is_stuck(loop_time())
