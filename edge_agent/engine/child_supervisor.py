"""The children of an engine: one supervising task starts each, loads the base, attaches the bundles and watches it.

A child is *ready* when it has loaded the base and tried to attach every bundle. It makes *progress* while it sends a
message at least every `heartbeat_seconds_max`, or computes an attach; otherwise it is killed.

When a child dies, streams that had begun end with StreamBroken. If the death may be the fault of a job, every other job
in flight is tried once more, alone; a job that kills the child while alone ends with EngineCrashed and is quarantined.
Waiting jobs wait for the next child. `job_dispatch.py` stores them; `restart_policy.py` decides which deaths count.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.attached_bundles import AttachedBundle, AttachedBundles, resolve
from edge_agent.engine.child_process import ChildRun, loop_time
from edge_agent.engine.job_dispatch import ComputeInfo, JobDispatcher
from edge_agent.engine.machine_limits import CPU, DEVICE_FALLBACK, DEVICE_PARTIAL, AcceleratorPolicy
from edge_agent.engine.restart_policy import RestartPolicy, describe_exit, is_to_blame, load_exit_error, start_error
from edge_agent.errors import (
    DeviceUnusable,
    EdgeAgentError,
    EngineCrashed,
    EngineNotReady,
    MemoryShort,
    ModelLoadFailed,
    from_wire,
)
from edge_agent.supervision import Component, DeathPolicy, Supervisor

STOPPING = "the engine is stopping"
RESTART_REASON = "the child that it watched has ended with it; the other engines continue"

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
    another caller or after a timeout, would interrupt its clean-up. So callers only request that the awaited step ends;
    the owner ends it and continues.
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
        """End the step that is being awaited, if there is one; repeated requests have no further effect."""
        self.requested = True
        if self._scope is not None:
            self._scope.reschedule(asyncio.get_running_loop().time())
            self._scope = None

    async def run_step(self, step: Coroutine[Any, Any, float | None]) -> float | None:
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


@dataclass(frozen=True)
class EngineDependencies:
    """What an engine needs of the pool around it."""

    owner: Supervisor
    """Owns the supervising tasks."""
    prepare_load: Callable[[ChildSupervisor], protocol.LoadRequest]
    """Returns what the next child loads; called before each start, as settings and free memory change meanwhile."""
    available_memory: Callable[[ChildSupervisor], int]
    """Measures the memory that is available to it now, in bytes; 0 = that is not measured."""
    on_change: Callable[[], None]
    """Called whenever the readiness of the engine or of its bundles may have changed."""


class ChildSupervisor:
    """Owns the child of one engine. `receive` is called with every message of a child."""

    def __init__(
        self,
        name: str,
        load: protocol.LoadRequest,
        config: EngineConfig,
        dependencies: EngineDependencies,
        accelerators: AcceleratorPolicy,
        jobs: JobDispatcher,
        bundles: AttachedBundles,
        receive: Callable[[protocol.FromChild], None],
    ) -> None:
        """Prepare; `start` begins. The child has the `jobs` and `bundles` of its engine."""
        self.name, self._dependencies = name, dependencies
        self.load = load
        """What the next child is told to load."""
        self.loaded = load
        """What the child that reported `details` was told to load."""
        self.state = EngineState.STARTING
        self.problem, self.device = "", ""
        self.details: dict[str, str] = {}
        self.restarts, self.loads, self.load_failures = 0, 0, 0
        self.cache: protocol.CacheUse | None = None
        """As the child reported it last."""
        self.restart_policy = RestartPolicy(config)
        self._config = config
        self._accelerators = accelerators
        self._jobs, self._bundles, self._receive = jobs, bundles, receive
        self._run: ChildRun | None = None
        """The present child."""
        # The supervisor owns the child: nobody else starts, ends or awaits one, and nobody cancels the supervisor.
        self._supervisor: asyncio.Task[None] | None = None
        self._interruption = InterruptibleStep()
        self._stopped = self._draining = False
        self._child_gone = asyncio.Event()
        self._child_gone.set()

    @property
    def shortfalls(self) -> dict[str, str]:
        """Reasons why it uses less of a device than is configured, by the code that answers carry."""
        reasons = {DEVICE_FALLBACK: self._accelerators.fallback, DEVICE_PARTIAL: self.details.get("device_partial", "")}
        return {code: reason for code, reason in reasons.items() if reason}

    @property
    def pid(self) -> int:
        """Process id of the child, 0 without one."""
        return self._run.process.pid if self._run and self._run.process else 0

    def start(self) -> None:
        """Start the supervising task; also again after FAILED. Raises EngineNotReady after `stop` and `drain`."""
        if self.state is EngineState.STOPPING:
            raise EngineNotReady(STOPPING)
        if self.ended:
            self.restart_policy = RestartPolicy(self._config)
            self._set_state(EngineState.STARTING)
            component = Component(
                f"engine {self.name}", self._supervise, DeathPolicy.RESTART, RESTART_REASON, may_return=True
            )
            self._supervisor = self._dependencies.owner.supervise(component)

    @property
    def granted_bytes(self) -> int | None:
        """Memory granted to the child that is loading, in bytes; None = no child is loading."""
        if self.state is not EngineState.STARTING:
            return None
        return self._run.cap.granted_bytes if self._run else 0

    @property
    def is_started(self) -> bool:
        """Whether `start` was called, however that went."""
        return self._supervisor is not None

    @property
    def ended(self) -> bool:
        """Whether there is no child, and there will be none unless it is started."""
        return self._supervisor is None or self._supervisor.done()

    async def restart(self) -> None:
        """Replace the child at once, and wait until the old one is gone; the jobs in flight are tried again.

        A caller that is cancelled stops waiting, and changes nothing. Raises EngineNotReady after `stop` and `drain`.
        """
        if self._draining:
            raise EngineNotReady(STOPPING)  # the child that runs is the last one
        self.start()
        self.restart_policy = RestartPolicy(self._config)
        self._set_state(EngineState.STARTING)
        self._interruption.request()
        await self._child_gone.wait()

    def request_stop(self) -> None:
        """End the child, and start no other. Unfinished jobs and attaches then end with EngineNotReady."""
        self._stopped = True
        self._set_state(EngineState.STOPPING)
        self._interruption.request()
        self._fail_all_if_unsupervised()

    def _fail_all_if_unsupervised(self) -> None:
        """Fail waiting jobs and attaches if no supervising task will: there is none, or it pauses before a restart."""
        supervisor = self._supervisor
        if supervisor is None or supervisor.done() or self._dependencies.owner.drop_paused(supervisor):
            self._set_state(EngineState.STOPPING)
            self._fail_all(EngineNotReady(STOPPING))

    def _fail_all(self, error: EdgeAgentError) -> None:
        self._jobs.fail_all(error)
        self._bundles.fail_all(error)

    def drain(self) -> None:
        """Start no more children: a running one finishes its jobs, and a pause before a restart ends now."""
        self._draining = True
        if not self.pid:
            self._interruption.request()
            self._fail_all_if_unsupervised()

    async def stop(self) -> None:
        """Request the stop and wait for the end; a caller that is cancelled stops waiting, and changes nothing."""
        self.request_stop()
        if self._supervisor is not None:
            await asyncio.wait([self._supervisor])

    # --- the child's messages ------------------------------------------------------------------------------------

    def send(self, message: protocol.ChildMessage) -> None:
        """Send a message to the child, if there is one."""
        if self._run is not None:
            self._run.send(message)

    def receive(self, message: protocol.FromChild) -> None:
        """Handle a message of the child that is not about a job."""
        run = self._run
        if run is None:  # a late message of a child that has been ended
            return
        match message:
            case protocol.MemoryEstimate():
                run.send(run.cap.grant(message, self._dependencies.available_memory(self)))
            case protocol.ChildReady():
                self.device, self.details, self.loaded = message.device, message.details, run.load_request
                self._jobs.child_loaded(ComputeInfo(self.device, tuple(self.shortfalls)), self.loaded, self.details)
                self.loads, self.cache = self.loads + 1, None
                resolve(run.loaded, None)
            case protocol.BundleAttached():
                self._settle_attach(message.digest, message.number, None, message.score_variance)
            case protocol.FailureReport():
                self._handle_failure_report(run, message)
            case protocol.Pong():  # shows that its loop runs, not that it computes
                self.cache = message.cache
                if message.threads:
                    self.details = {**self.details, "threads_now": str(message.threads)}

    def _handle_failure_report(self, run: ChildRun, message: protocol.FailureReport) -> None:
        error = from_wire(message.reason, message.message, message.remedy, message.metadata)
        if message.job_id == "" and not run.loaded.done():
            resolve(run.loaded, error)
        elif isinstance(error, DeviceUnusable):  # for all bundles on it, not only the one that detected it
            self._accelerators.record_failure(error, loop_time())
            self.send(protocol.StopRequest())
        elif message.attach:
            self._settle_attach(message.job_id, message.attach, error)
        else:
            log.warning("engine_failure_unassigned", engine=self.name, reason=message.reason, message=message.message)

    def _settle_attach(self, digest: str, number: int, error: EdgeAgentError | None, score_variance: str = "") -> None:
        bundle = self._bundles.get(digest)
        if bundle is None or bundle.request.number != number:
            return  # it was detached since, even if it was then added again
        if error is None:
            self._jobs.score_variances[digest] = score_variance
        bundle.settle(error)
        self._report_change()

    # --- supervision ---------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep a child running until stopped, until loading has failed too often, or until one dies while draining."""
        self._jobs.child_died(to_blame=False)  # if this task was restarted, the last child's jobs are tried again
        while not (self._stopped or self._draining):
            self._interruption.clear()
            self._set_state(EngineState.STARTING)
            pause = await self._run_child()
            if self._interruption.requested or self._draining:
                continue
            if pause is None:
                self._set_state(EngineState.FAILED)
                self._fail_all(ModelLoadFailed(f"the model does not load: {self.problem}"))
                return
            self._set_state(EngineState.BACKING_OFF)
            await self._interruption.run_step(asyncio.sleep(pause))
            self.restarts += not (self._stopped or self._draining)
        self._set_state(EngineState.STOPPING)
        self._fail_all(EngineNotReady(STOPPING))

    async def _run_child(self) -> float | None:
        """Run one child and always end it; return the pause before the next one, or None to give up."""
        try:
            try:
                return await self._interruption.run_step(self._start_and_watch_child())
            finally:
                if self.state is EngineState.READY:
                    self._set_state(EngineState.BACKING_OFF)
                await self._end_child()
                self._jobs.child_died(to_blame=False)  # does nothing after `_handle_crash`
        except Exception as error:
            log.exception("engine_supervision_failed", engine=self.name)
            return self._handle_start_failure(f"supervising it failed with {type(error).__name__}")

    async def _start_and_watch_child(self) -> float | None:
        """Start one child and watch it; return the pause before the next one, or None to give up."""
        started_at = loop_time()
        self.problem = ""
        self._bundles.reset()
        try:
            self.load = self._dependencies.prepare_load(self)
            device = self._accelerators.choose_device(started_at)
            fallback, seconds_max = self._accelerators.fallback, self._config.load_seconds_max
            load_request = msgspec.structs.replace(self.load, device=device, fallback=fallback, seconds_max=seconds_max)
            self._child_gone.clear()
            run = self._run = ChildRun(self.name, self._config, load_request)
            await run.start(self._receive)
        except OSError as error:
            return self._handle_start_failure(str(error))
        try:
            run.send(run.load_request)
            await run.await_step(run.loaded, "load")
            # Not a `for` loop: bundles may be added or removed while one is being attached.
            while bundle := self._bundles.next_unsent():
                await self._attach(run, bundle)
        except EdgeAgentError as error:
            return self._handle_load_failure(run, error)
        self.restart_policy.record_load()
        self._set_state(EngineState.READY)
        ready_at = loop_time()
        seconds = round(ready_at - started_at, 3)
        log.info("engine_ready", engine=self.name, pid=self.pid, device=self.device, seconds=seconds)
        self._jobs.pump()
        if not await self._watch_until_gone(run):
            return 0.0
        self._handle_crash(run, await run.exit)
        return self.restart_policy.pause_after_crash(loop_time() - ready_at)

    async def _attach(self, run: ChildRun, bundle: AttachedBundle) -> None:
        bundle.sent_at = loop_time()
        run.send(bundle.request)
        try:
            await run.await_step(bundle.outcome, "attach")
        except EdgeAgentError as error:
            if run.exit.done() or (run.load_request.device != CPU and "limit_seconds" in error.metadata):
                raise
            # A bundle that fails must not affect the others on this base.
            if self._bundles.get(bundle.request.digest) is bundle:
                self.problem = error.message
            bundle.settle(error)

    async def _watch_until_gone(self, run: ChildRun) -> bool:
        """Return True when the child is gone, False when it should be replaced by one on a better device."""
        while not run.exit.done():
            await run.check_silence(loads=self._bundles.is_attaching(run.last_heartbeat))
            # Only an idle child is replaced, and never the last one.
            must_stay = self._draining or self._bundles.is_attaching() or self._jobs
            if not must_stay and self._accelerators.has_better_device(loop_time()):
                return run.exit.done()
        return True

    def _handle_crash(self, run: ChildRun, exit_code: int) -> None:
        attaching = self._bundles.is_attaching(run.last_heartbeat)  # if so, the attach was computing, not a job
        error: EdgeAgentError = EngineCrashed(f"the model's process died: {describe_exit(exit_code)}{run.cap.summary}")
        if attaching and not run.watch.killed:
            error = load_exit_error("attach", exit_code, self._config, run.cap)
        self.problem = error.message
        self._set_state(EngineState.BACKING_OFF)
        own_fault = is_to_blame(exit_code, wedged=run.watch.killed)
        if (on_device := run.load_request.device != CPU) and own_fault:
            self._accelerators.record_failure(EngineCrashed(self.problem), loop_time())
        to_blame = own_fault and not (on_device or attaching)  # only a crash on the CPU is evidence against an input
        running, exit_text = self._jobs.in_flight, describe_exit(exit_code)
        log.error("engine_died", engine=self.name, how=exit_text, running=running, to_blame=to_blame)
        self._jobs.child_died(to_blame=to_blame)
        if not on_device:  # otherwise the next child attaches them, on the CPU if necessary
            self._bundles.fail_all(error)

    def _handle_load_failure(self, run: ChildRun, error: EdgeAgentError) -> float | None:
        """Return the pause before the next load: 0 after a failure on a device, None to give up."""
        if run.load_request.device == CPU:
            self._record_load_failure(error)
            return self.restart_policy.pause_after_load_failure(transient=isinstance(error, MemoryShort))
        self._accelerators.record_failure(error, loop_time())
        log.warning("device_failed", engine=self.name, device=run.load_request.device, message=error.message)
        return 0.0

    def _handle_start_failure(self, reason: str) -> float:
        """Return the pause before the next try, after the machine or a fault of the supervisor prevented a start."""
        pause = self.restart_policy.pause_after_start_failure()
        self._record_load_failure(start_error(reason, pause))
        return pause

    def _record_load_failure(self, error: EdgeAgentError) -> None:
        self.problem = error.message
        self.load_failures += 1
        log.error("engine_load_failed", engine=self.name, reason=error.reason, message=error.message)
        self._bundles.fail_all(error)

    async def _end_child(self) -> None:
        try:
            if self._run is not None:
                await self._run.end()
        finally:
            self._run = None
            self._child_gone.set()

    def _set_state(self, state: EngineState) -> None:
        state = EngineState.STOPPING if self._stopped else state
        self._jobs.child = self._run.process if self._run and state is EngineState.READY else None
        if state is not self.state:
            self.state = state
            self._report_change()

    def _report_change(self) -> None:
        try:
            self._dependencies.on_change()
        except Exception:
            log.exception("engine_change_not_reported", engine=self.name)
