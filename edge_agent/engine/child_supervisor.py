"""The child process of an engine: one supervising task starts it, loads the base, attaches the bundles and watches it.

*Alive* is the process, *ready* is loaded and every bundle attached, *progressing* is any message within
`heartbeat_seconds_max`, or an attach that computes; a child that is silent for longer is killed.

When a child dies, streams that had begun end with StreamBroken; every other job in flight is tried once more, alone; a
job that was alone and kills the child again ends with EngineCrashed and is quarantined. Waiting jobs wait for the next
child. `job_dispatch.py` keeps them, `child_exit.py` tells which deaths count.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import child_exit, protocol
from edge_agent.engine.accelerator_policy import CPU, DEVICE_FALLBACK, DEVICE_PARTIAL, AcceleratorPolicy
from edge_agent.engine.attached_bundles import AttachedBundle, AttachedBundles, resolve
from edge_agent.engine.child_process import ChildProcess
from edge_agent.engine.job_dispatch import ComputeInfo, JobDispatcher, JobLimits, Quarantine, ToChild
from edge_agent.engine.liveness import ChildWatch, LivenessProbe, loop_time, patience_seconds
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.restart_policy import RestartPolicy, start_failure
from edge_agent.errors import DeviceUnusable, EdgeAgentError, EngineCrashed, EngineNotReady, ModelLoadFailed, from_wire
from edge_agent.supervision import Component, DeathPolicy, Supervisor

STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for
ENDS = "the engine is stopping"
WHY_RESTARTED = "the child that it watched has ended with it; the other engines go on"

log = structlog.get_logger("edge_agent.engine")


class EngineState(enum.Enum):
    """What an engine is doing."""

    STARTING = "starting"
    READY = "ready"
    BACKING_OFF = "backing off"
    FAILED = "failed"
    STOPPING = "stopping"


# How errors describe an engine that does not answer now.
STATE_WORDS = {
    EngineState.STARTING: "loading",
    EngineState.READY: "loading",
    EngineState.BACKING_OFF: "being started again",
    EngineState.STOPPING: "being stopped",
    EngineState.FAILED: "not loaded",
}


class InterruptibleStep:
    """Interrupts the step that a task awaits, without cancelling the task.

    A task that owns something, such as a child process, must not be cancelled from outside: a second cancellation, by
    another caller or by one that loses patience, would come in the middle of its cleaning up. So callers only request
    that the awaited step ends; the owner ends it and continues.
    """

    def __init__(self) -> None:
        """Start without a request."""
        self.requested = False
        """Since `clear`."""
        self._scope: asyncio.Timeout | None = None

    def clear(self) -> None:
        """Forget an earlier request."""
        self.requested = False

    def request(self) -> None:
        """End the step that is being awaited, if there is one; any number of requests ends it once."""
        self.requested = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
            self._scope = None

    async def within(self, step: Coroutine[Any, Any, float | None]) -> float | None:
        """Return what a step returns, or 0 when it was interrupted."""
        try:
            async with asyncio.timeout(None) as self._scope:
                return await step
        except TimeoutError:
            if not self.requested:
                raise
            return 0.0
        finally:
            self._scope = None

    async def pause(self, seconds: float) -> None:
        """Wait that long, or until interrupted."""
        await self.within(_sleep(seconds))


async def _sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


class ChildSupervisor:
    """Owns the child of one engine. `on_change` is called whenever readiness may have changed."""

    def __init__(
        self,
        name: str,
        load: protocol.LoadRequest,
        config: EngineConfig,
        quarantine: Quarantine,
        on_change: Callable[[], None],
        accelerators: AcceleratorPolicy | None = None,
        owner: Supervisor | None = None,
    ) -> None:
        """Prepare; `start` begins. Without `accelerators` the CPU computes; `owner` keeps what watches the child."""
        self.name, self._owner = name, owner or Supervisor()
        self.load = load
        """What the next child is told to load."""
        self.loaded = load
        """What the child was told whose `details` these are."""
        self._told = load
        """What the present child was told, which may not have loaded it yet."""
        self.state = EngineState.STARTING
        self.problem, self.device = "", ""
        self.details: dict[str, str] = {}
        self.restarts, self.loads, self.load_failures = 0, 0, 0
        self.cache: protocol.CacheUse | None = None  # as the child said when it was asked last
        self.before_start: Callable[[], None] = lambda: None
        """Called before each start of a child, which may be long after the first: brings `load` up to date."""
        self.available: Callable[[], int] = lambda: 0
        """Measures the memory that there is for it now, in bytes; 0 = nobody does."""
        self._config = config
        self._on_change = on_change
        self._policy = RestartPolicy(config)
        self._accelerators = accelerators or AcceleratorPolicy()
        limits = JobLimits(config.queue_requests_max, protocol.concurrent_jobs(load, {}))
        self.jobs = JobDispatcher(limits, quarantine, ToChild(lambda: self.state is EngineState.READY, self._send))
        self.bundles = AttachedBundles()
        self._child: ChildProcess | None = None
        self.cap = MemoryCap()  # of its child
        self._exit: asyncio.Future[int] = asyncio.Future()
        self._loaded: asyncio.Future[None] = asyncio.Future()
        self._watch = ChildWatch(name, config)
        self._probe = LivenessProbe(patience_seconds(config.heartbeat_seconds_max))
        # The supervisor owns the child: nobody else starts, ends or awaits one, and nobody cancels the supervisor.
        self._supervisor: asyncio.Task[None] | None = None
        self._interruption = InterruptibleStep()
        self._stopped = self._draining = False
        self._childless = asyncio.Event()
        self._childless.set()

    @property
    def shortfalls(self) -> dict[str, str]:
        """Why it computes elsewhere, or less on its device, than is wanted: the word in answers, and the sentence."""
        every = {DEVICE_FALLBACK: self._accelerators.fallback, DEVICE_PARTIAL: self.details.get("device_partial", "")}
        return {word: said for word, said in every.items() if said}

    @property
    def pid(self) -> int:
        """Process id of the child, 0 without one."""
        return self._child.pid if self._child else 0

    def ask(self) -> None:
        """Let the child say how it stands, in its own time."""
        if self.state is EngineState.READY:
            self._send(protocol.Ping())

    def start(self) -> None:
        """Start the supervising task; also again after FAILED. Raises EngineNotReady after `stop` and `drain`."""
        if self.state is EngineState.STOPPING:
            raise EngineNotReady(ENDS)
        if self.ended:
            self._policy = RestartPolicy(self._config)
            self._set_state(EngineState.STARTING)
            policy = DeathPolicy.RESTART
            kept = Component(f"engine {self.name}", self._supervise, policy, WHY_RESTARTED, may_return=True)
            self._supervisor = self._owner.keep(kept)

    @property
    def ended(self) -> bool:
        """Whether there is no child, and there will be none unless it is started."""
        return self._supervisor is None or self._supervisor.done()

    async def restart(self) -> None:
        """Start the child anew at once, and wait until the old one is gone; what is in flight is tried again.

        A caller that is cancelled stops waiting, and changes nothing. Raises EngineNotReady after `stop` and `drain`.
        """
        if self._draining:
            raise EngineNotReady(ENDS)  # the child that runs is the last one
        self.start()
        self._policy = RestartPolicy(self._config)
        self._set_state(EngineState.STARTING)
        self._interruption.request()
        await self._childless.wait()

    def request_stop(self) -> None:
        """Let the child end, for good. Unfinished jobs and attaches then end with EngineNotReady."""
        self._stopped = True
        self._set_state(EngineState.STOPPING)
        self._interruption.request()
        self._end_unwatched()

    def _end_unwatched(self) -> None:
        """Fail what waits where no task will: none supervises, or it has died and would be started after a pause."""
        if self._supervisor is None or self._supervisor.done() or self._owner.drop_paused(self._supervisor):
            self._set_state(EngineState.STOPPING)
            self._fail_all(EngineNotReady(ENDS))

    def _fail_all(self, error: EdgeAgentError) -> None:
        self.jobs.fail_all(error)
        self.bundles.fail_all(error)

    def drain(self) -> None:
        """Start no further child: the one that runs finishes what it has, and a pause before one ends."""
        self._draining = True
        if self._child is None:
            self._interruption.request()
            self._end_unwatched()

    async def stop(self) -> None:
        """Do so, and wait for the end; a caller that is cancelled stops waiting, and changes nothing."""
        self.request_stop()
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])

    # --- the child's messages ------------------------------------------------------------------------------------

    def _send(self, message: protocol.ChildMessage) -> None:
        if isinstance(message, protocol.JobRequest) and self.jobs.in_flight == 1:
            self._watch.last_heartbeat = loop_time()  # an idle child says nothing: its silence counts from here
        if self._child is not None:
            self._child.send(message)

    def _on_message(self, message: protocol.FromChild) -> None:
        self._watch.last_heartbeat = loop_time()
        if isinstance(message, protocol.TextChunk | protocol.JobResult | protocol.Heartbeat):
            self._probe.record_work(self._watch.last_heartbeat)
        match message:
            case protocol.TextChunk():
                self.jobs.chunk(message)
            case protocol.JobResult():
                if self._policy.crashes:
                    self._policy.answered()
                self.jobs.finish(message)
            case protocol.MemoryEstimate():
                self._send(self.cap.grant(message, self.available()))
            case protocol.ChildReady():
                self.device, self.details, self.loaded = message.device, message.details, self._told
                self.jobs.loaded(ComputeInfo(self.device, tuple(self.shortfalls)), self._told, self.details)
                self.loads, self.cache = self.loads + 1, None
                resolve(self._loaded, None)
            case protocol.BundleAttached() if self.bundles.of_attach(message.digest, message.number):
                self.jobs.score_variances[message.digest] = message.score_variance
                self._resolve_attach(message.digest, message.number, None)
            case protocol.FailureReport():
                self._on_failed(message)
            case protocol.Pong():  # its loop turns; that is not computing
                self.cache = message.cache
                if message.threads:
                    self.details = {**self.details, "threads_now": str(message.threads)}

    def _on_failed(self, message: protocol.FailureReport) -> None:
        if self.jobs.finish(message):
            self._probe.record_work(self._watch.last_heartbeat)
            return
        error = from_wire(message.reason, message.message, message.remedy, message.metadata)
        if message.job_id == "" and not self._loaded.done():
            resolve(self._loaded, error)
        elif isinstance(error, DeviceUnusable):  # for all that is on it, whichever bundle found out
            self._accelerators.record_failure(error, loop_time())
            self._send(protocol.StopRequest())
        elif message.attach:
            self._resolve_attach(message.job_id, message.attach, error)
        else:
            log.warning("engine_complained", engine=self.name, reason=message.reason, message=message.message)

    def _resolve_attach(self, digest: str, number: int, error: EdgeAgentError | None) -> None:
        if bundle := self.bundles.of_attach(digest, number):
            resolve(bundle.attached, error)
            self._report_change()

    # --- supervision ---------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep a child running until stopped, until loading has failed too often, or until one dies while draining."""
        self.jobs.child_died(to_blame=False)  # after a mistake of ours: what the child had is tried again
        while not (self._stopped or self._draining):
            self._interruption.clear()
            self._set_state(EngineState.STARTING)
            pause = await self._one_life()
            if self._interruption.requested or self._draining:
                continue
            if pause is None:
                self._set_state(EngineState.FAILED)
                self._fail_all(ModelLoadFailed(f"the model does not load: {self.problem}"))
                return
            self._set_state(EngineState.BACKING_OFF)
            await self._interruption.pause(pause)
            self.restarts += not (self._stopped or self._draining)
        self._set_state(EngineState.STOPPING)
        self._fail_all(EngineNotReady(ENDS))

    async def _one_life(self) -> float | None:
        """Run one child from start to end, whatever happens; return the pause before the next, or None for no next."""
        try:
            try:
                return await self._interruption.within(self._live())
            finally:
                if self.state is EngineState.READY:
                    self._set_state(EngineState.BACKING_OFF)
                await self._end_child()
                self.jobs.child_died(to_blame=False)  # those about which nothing was decided yet
        except Exception as error:
            log.exception("engine_supervision_failed", engine=self.name)
            return self._after_start_failure(f"supervising it failed with {type(error).__name__}")

    async def _live(self) -> float | None:
        """Start one child and watch it; return the pause before the next, or None for no next."""
        loop = asyncio.get_running_loop()
        self._exit, self._loaded = loop.create_future(), loop.create_future()
        started = loop_time()
        self._watch.begin(started)
        self.problem = ""
        self.bundles.begin()
        try:
            self.before_start()
            device = self._accelerators.choose_device(started)
            fallback, limit = self._accelerators.fallback, self._config.load_seconds_max
            self._told = msgspec.structs.replace(self.load, device=device, fallback=fallback, seconds_max=limit)
            self._childless.clear()
            self._child = await ChildProcess.spawn(self._on_message, self._on_exit)
            self.cap = MemoryCap.of(self._child.pid)
        except OSError as error:
            return self._after_start_failure(str(error))
        try:
            await self._load()
        except EdgeAgentError as error:
            return self._after_load_failure(error)
        self._policy.loaded()
        self._set_state(EngineState.READY)
        ready = loop_time()
        log.info("engine_ready", engine=self.name, pid=self.pid, device=self.device, seconds=round(ready - started, 3))
        self.jobs.pump()
        if not await self._until_gone():
            return 0.0
        self._after_crash(await self._exit)
        return self._policy.pause_after_crash(loop_time() - ready)

    async def _load(self) -> None:
        self._send(self._told)
        await self._await_child(self._loaded, "load")
        # Not a plain loop: while one bundle is being attached others may come, or one go and come again.
        while bundle := self.bundles.unsent():
            await self._attach_again(bundle)

    async def _attach_again(self, bundle: AttachedBundle) -> None:
        bundle.sent_at = loop_time()
        self._send(bundle.attach)
        try:
            await self._await_child(bundle.attached, "attach")
        except EdgeAgentError as error:
            if self._exit.done() or (self._told.device != CPU and "limit_seconds" in error.metadata):
                raise
            # One bad bundle must not take the others on this base down.
            if self.bundles.get(bundle.attach.digest) is bundle:
                self.problem = error.message
            resolve(bundle.attached, error)

    async def _await_child(self, future: asyncio.Future[None], what: str) -> None:
        """Wait for the child to do as told. Raises its answer, or ModelLoadFailed when it dies or takes too long."""
        limit = child_exit.time_limit_seconds(self._config, what) + child_exit.ALARM_SECONDS
        await self._watch.until_done(self._child, self._exit, future, limit)
        if not future.done():
            raise child_exit.load_exit_error(what, self._exit, self._config, self.cap)
        future.result()

    async def _until_gone(self) -> bool:
        """Return True when the child is gone, killed for its silence or not; False when it should go to a device."""
        while not self._exit.done():
            attaching = self.bundles.is_attaching(self._watch.last_heartbeat)
            await self._watch.check_silence(self._child, self._exit, [self._exit], loads=attaching)
            # Where nobody waits the device is tried, but not by the last child.
            busy = self._draining or self.bundles.is_attaching() or self.jobs
            if not busy and self._accelerators.has_better_device(loop_time()):
                return self._exit.done()
        return True

    def _on_exit(self, code: int) -> None:
        self.cap.peak_bytes = self._child.peak_bytes if self._child else 0
        if not self._exit.done():
            self._exit.set_result(code)

    def _after_crash(self, code: int) -> None:
        attaching = self.bundles.is_attaching(self._watch.last_heartbeat)  # which is at work then, and no job
        error: EdgeAgentError = EngineCrashed(
            f"the model's process died: {child_exit.describe_exit(code)}{self.cap.summary}"
        )
        if attaching and not self._watch.killed:
            error = child_exit.load_exit_error("attach", self._exit, self._config, self.cap)
        self.problem = error.message
        self._set_state(EngineState.BACKING_OFF)
        by_itself = child_exit.is_to_blame(code, wedged=self._watch.killed)
        if (on_device := self._told.device != CPU) and by_itself:
            self._accelerators.record_failure(EngineCrashed(self.problem), loop_time())
        to_blame = by_itself and not (on_device or attaching)  # on the CPU an input shows what it does
        log.error(
            "engine_died",
            engine=self.name,
            how=child_exit.describe_exit(code),
            running=self.jobs.in_flight,
            to_blame=to_blame,
        )
        self.jobs.child_died(to_blame=to_blame)
        for tally in self.jobs.stats.values():
            tally.crashes += to_blame
        if not on_device:  # else the next child attaches them, on the CPU if need be
            self.bundles.fail_all(error)

    def _after_load_failure(self, error: EdgeAgentError) -> float | None:
        """Return the pause before the next try: none where the CPU, or the device once more, is what is tried."""
        if self._told.device == CPU:
            self._note_load_failure(error)
            return self._policy.pause_after_load_failure()
        self._accelerators.record_failure(error, loop_time())
        log.warning("device_failed", engine=self.name, device=self._told.device, message=error.message)
        return 0.0

    def _after_start_failure(self, why: str) -> float:
        """Return the pause before the next try of a child that this machine, or a fault of ours, did not let begin."""
        pause = self._policy.pause_after_start_failure()
        self._note_load_failure(start_failure(why, pause))
        return pause

    def _note_load_failure(self, error: EdgeAgentError) -> None:
        self.problem = error.message
        self.load_failures += 1
        log.error("engine_load_failed", engine=self.name, reason=error.reason, message=error.message)
        self.bundles.fail_all(error)

    async def _end_child(self) -> None:
        try:
            if self._child is not None:
                await self._child.stop(STOP_SECONDS_MAX)
        finally:
            self._child = None
            self.cap.remove()
            self.cap = MemoryCap()
            self._childless.set()

    def _set_state(self, state: EngineState) -> None:
        state = EngineState.STOPPING if self._stopped else state
        if state is not self.state:
            self.state = state
            self._report_change()

    def _report_change(self) -> None:
        try:
            self._on_change()
        except Exception:
            log.exception("engine_change_not_reported", engine=self.name)
