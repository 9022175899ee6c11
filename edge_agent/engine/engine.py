"""One engine: a loaded base in a supervised child, and the jobs on their way through it.

The engine owns all its state and lives on one event loop. A supervising task starts the child, loads the base, attaches
the bundles and watches: *alive* is the process, *ready* is loaded and every bundle attached, *progressing* is any
message within `heartbeat_seconds_max`, or an attach that computes; a child that is silent for longer is killed.

When a child dies, streams that had begun end with StreamBroken; every other job in flight is tried once more, alone; a
job that was alone and kills the child again ends with EngineCrashed and is quarantined. Jobs still waiting simply wait
for the next child. `jobs.py` keeps them, `quarantine.py` says which deaths count.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.jobs import Answer, Computed, Jobs, Limits, ToChild
from edge_agent.engine.outcome import resolve, succeeded
from edge_agent.engine.placing import CPU, FALLBACK, PARTIAL, Placing
from edge_agent.engine.process import ChildProcess
from edge_agent.engine.pulse import Effort, Pulse
from edge_agent.engine.quarantine import Quarantine, death, is_to_blame
from edge_agent.engine.restart import RestartPolicy
from edge_agent.engine.state import BUSY, State
from edge_agent.engine.tally import Tally
from edge_agent.errors import DeviceUnusable, EdgeAgentError, EngineCrashed, EngineNotReady, ModelLoadFailed, from_wire
from edge_agent.supervision import Component, Policy, Supervisor, noted

STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for
# More than it takes until a silent child is killed: a child's fault is the engine's to mend, not the watchdog's.
PATIENCE_HEARTBEATS = 1.5
PATIENCE_SECONDS_MIN = 2.0
WHY_RESTARTED = "the child that it watched has ended with it; the other engines go on"

log = structlog.get_logger("edge_agent.engine")


@dataclass
class _Bundle:
    attach: protocol.Attach
    attached: asyncio.Future[None]
    sent_at: float = float("inf")  # an attach has begun when the child has given a sign of life since


class Engine:
    """See the module. `on_change` is called whenever readiness may have changed."""

    def __init__(
        self,
        name: str,
        load: protocol.Load,
        config: EngineConfig,
        quarantine: Quarantine,
        on_change: Callable[[], None],
        placing: Placing | None = None,
        owner: Supervisor | None = None,
    ) -> None:
        """Prepare; `start` begins. Without `placing` the CPU computes; `owner` keeps what watches the child."""
        self._owner = owner or Supervisor()
        self.name = name
        self.load = load
        self.state = State.STARTING
        self.problem, self.device = "", ""
        self.details: dict[str, str] = {}
        self.restarts, self.loads, self.load_failures = 0, 0, 0
        self.cache: protocol.CacheUse | None = None  # as the child said when it was asked last
        self.before_start: Callable[[], None] = lambda: None
        """Called before each start of a child, which may be long after the first: brings `load` up to date."""
        self._config = config
        self._on_change = on_change
        self._policy = RestartPolicy(config)
        self._placing = placing or Placing()
        limits = Limits(config.queue_requests_max, load.sequences_max)
        self._jobs = Jobs(limits, quarantine, ToChild(lambda: self.state is State.READY, self._send))
        self._bundles: dict[str, _Bundle] = {}
        self._child: ChildProcess | None = None
        self._exit: asyncio.Future[int] = asyncio.Future()
        self._loaded: asyncio.Future[None] = asyncio.Future()
        self._heard_at = 0.0
        self._pulse = Pulse(PATIENCE_HEARTBEATS * config.heartbeat_seconds_max + PATIENCE_SECONDS_MIN)
        self._effort = Effort(config.heartbeat_seconds_max)
        self._probe: asyncio.Task[None] | None = None
        self._wedged = False
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def shortfalls(self) -> dict[str, str]:
        """Why it computes elsewhere, or less on its device, than is wanted: the word in answers, and the sentence."""
        every = {FALLBACK: self._placing.fallback, PARTIAL: self.details.get("device_partial", "")}
        return {word: said for word, said in every.items() if said}

    @property
    def pid(self) -> int:
        """Process id of the child, 0 without one."""
        return self._child.pid if self._child else 0

    @property
    def pending(self) -> int:
        """Jobs waiting and running."""
        return len(self._jobs)

    @property
    def in_flight(self) -> int:
        """Jobs that the child has."""
        return self._jobs.in_flight

    def ask(self) -> None:
        """Let the child say how it stands, in its own time."""
        if self.state is State.READY:
            self._send(protocol.Ping())

    @property
    def digests(self) -> list[str]:
        """Bundles on this engine."""
        return list(self._bundles)

    def ready(self, digest: str) -> bool:
        """Tell whether that bundle answers now."""
        bundle = self._bundles.get(digest)
        # STARTING counts as well: the bundle may be attached a moment before the supervisor notes that all of them are.
        up = self.state in (State.STARTING, State.READY)
        return up and bundle is not None and succeeded(bundle.attached)

    def tally(self, digest: str) -> Tally:
        """Return what came of the inputs of a bundle; of one that is not here, nothing."""
        return self._jobs.tallies.get(digest, Tally())

    def failed(self, digest: str) -> bool:
        """Tell whether the last try to attach that bundle failed."""
        bundle = self._bundles.get(digest)
        return bundle is not None and bundle.attached.done() and not succeeded(bundle.attached)

    def start(self) -> None:
        """Start the supervising task; also again after FAILED."""
        if self._supervisor is None or self._supervisor.done():
            self._policy = RestartPolicy(self._config)
            self._set_state(State.STARTING)
            self._supervisor = self._owner.keep(
                Component(
                    f"engine {self.name}",
                    self._supervise,
                    Policy.RESTART,
                    WHY_RESTARTED,
                    may_return=True,
                    died=self._unsupervised,
                )
            )

    async def restart(self) -> None:
        """Start the child anew at once; what is in flight is tried again."""
        self._set_state(State.STARTING)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._jobs.child_died(to_blame=False)
        self.start()

    async def attach(self, attach: protocol.Attach) -> None:
        """Add a bundle and wait until it is ready. After an error it is still wanted: `detach` drops it.

        Raises:
            ModelLoadFailed, EngineCrashed: the first try failed.
        """
        bundle = self._bundles.get(attach.digest)
        self.start()
        if bundle is None or bundle.attached.done():
            bundle = self._bundles[attach.digest] = _Bundle(attach, asyncio.get_running_loop().create_future())
            self._jobs.tallies.setdefault(attach.digest, Tally())
            if self.state is State.READY:
                bundle.sent_at = now()
                self._send(attach)
        await asyncio.shield(bundle.attached)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Remove a bundle; its jobs get that long to finish."""
        bundle = self._bundles.pop(digest, None)
        if bundle is None:
            return
        resolve(bundle.attached, EngineNotReady("the bundle was taken off the engine"))
        await self._jobs.drained(digest, drain_seconds)
        self._jobs.tallies.pop(digest, None)
        self._send(protocol.Detach(digest=digest))

    def reserve(self, digest: str, jobs: int, client: str) -> None:
        """Raise CapacityError or ModelLoadFailed unless `jobs` more of this client would be taken now."""
        self._require_ready(digest)
        self._jobs.reserve(jobs, client)

    def _require_ready(self, digest: str) -> None:
        if self.state is State.FAILED:
            raise ModelLoadFailed(f"the model does not load: {self.problem}")
        if not self.ready(digest):
            self._raise_failed_attach(digest)
            pause = self._config.restart_seconds_first
            raise EngineNotReady(f"the model is {BUSY[self.state]}", retry_seconds=pause, state=self.state.value)

    def _raise_failed_attach(self, digest: str) -> None:
        """Raise what one bundle failed with while the engine itself answers."""
        bundle = self._bundles.get(digest)
        if self.state is State.READY and bundle is not None and bundle.attached.done():
            bundle.attached.result()

    def events(
        self, run: protocol.Run, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[protocol.Chunk | Answer, None]:
        """Compute one input: yield its chunks, then its Answer. Leaving early cancels it.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended.
        """
        self._require_ready(run.digest)
        return self._jobs.events(run, deadline, priority, client)

    def answer(self, run: protocol.Run, deadline: float, priority: int = 0, client: str = "") -> Awaitable[Answer]:
        """Compute one input of a task that writes no chunks; like `events`, at less cost."""
        self._require_ready(run.digest)
        return self._jobs.answer(run, deadline, priority, client)

    def alive(self, every_seconds: float) -> bool:
        """Tell whether it computes, or need not now: that it loads or starts again is no fault of the daemon.

        Where nobody asked it for `every_seconds` it is asked by a tiny request; an error is an answer too.
        """
        if self._supervisor is not None and self._supervisor.done():
            return self.state in (State.FAILED, State.STOPPING)
        time, asked = now(), next(filter(self.ready, self._bundles), "")
        if self.state is not State.READY or not asked or self._attaching():
            self._pulse.sign(time)
        elif self._pulse.owes(time, every_seconds) and not self._jobs:
            self._probe = asyncio.create_task(self._ask(asked), name=f"probe {self.name}")
            noted(self._probe, self._probe.get_name())
        return not self._pulse.stuck(time)

    async def _ask(self, digest: str) -> None:
        with contextlib.suppress(EdgeAgentError):
            await self._jobs.probe(digest, now() + self._config.load_seconds_max)

    def _attaching(self, sent_before: float = float("inf")) -> bool:
        return any(not each.attached.done() and each.sent_at <= sent_before for each in self._bundles.values())

    async def stop(self) -> None:
        """End the child. Unfinished jobs end with EngineNotReady."""
        self._set_state(State.STOPPING)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._jobs.fail_all(EngineNotReady("the engine is stopping"))

    # --- the child's messages ------------------------------------------------------------------------------------

    def _send(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.Run) and self._jobs.in_flight == 1:
            self._heard_at = now()  # an idle child says nothing: its silence counts from here
        if self._child is not None:
            self._child.send(message)

    def _on_message(self, message: protocol.FromChild) -> None:
        self._heard_at = now()
        match message:
            case protocol.Chunk():
                self._pulse.sign(self._heard_at)
                self._jobs.chunk(message)
            case protocol.Done():
                self._pulse.sign(self._heard_at)
                self._policy.answered()
                self._jobs.finish(message)
            case protocol.Ready():
                self.device, self.details = message.device, message.details
                self._jobs.computed = Computed(self.device, tuple(self.shortfalls))
                self.loads, self.cache = self.loads + 1, None
                resolve(self._loaded, None)
            case protocol.Attached():
                self._resolve_attach(message.digest, None)
            case protocol.Failed():
                self._on_failed(message)
            case protocol.Progress():
                self._pulse.sign(self._heard_at)
            case protocol.Pong():  # its loop turns; that is not computing
                self.cache = message.cache

    def _on_failed(self, message: protocol.Failed) -> None:
        if self._jobs.finish(message):
            self._pulse.sign(self._heard_at)
            return
        error = from_wire(message.reason, message.message, message.remedy, message.metadata)
        if message.job_id == "" and not self._loaded.done():
            self._loaded.set_exception(error)
        elif isinstance(error, DeviceUnusable):  # for all that is on it, whichever bundle found out
            self._placing.failed(error, now())
            self._send(protocol.Stop())
        elif message.job_id in self._bundles:
            self._resolve_attach(message.job_id, error)
        else:
            log.warning("engine_complained", engine=self.name, reason=message.reason, message=message.message)

    def _resolve_attach(self, digest: str, error: EdgeAgentError | None) -> None:
        if bundle := self._bundles.get(digest):
            resolve(bundle.attached, error)
            self._on_change()

    # --- supervision ---------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep a child running until cancelled or until loading it has failed too often."""
        try:
            while True:
                self._set_state(State.STARTING)
                pause = await self._one_life()
                if pause is None:
                    self._give_up()
                    return
                self._set_state(State.BACKING_OFF)
                await asyncio.sleep(pause)
                self.restarts += 1
        finally:
            await self._end_child()

    def _unsupervised(self, _: Exception | None) -> None:
        """After a mistake of ours: what the child had is tried again, and bundles wait, for the next one."""
        self.problem = "an unexpected error in edge-agent, whose log has the details"
        self._set_state(State.BACKING_OFF)
        self._jobs.child_died(to_blame=False)

    async def _one_life(self) -> float | None:
        """Run one child from start to end; return the pause before the next, or None for no next."""
        loop = asyncio.get_running_loop()
        self._exit, self._loaded = loop.create_future(), loop.create_future()
        started = now()
        self._heard_at, self.problem, self._wedged = started, "", False
        for bundle in self._bundles.values():
            if bundle.attached.done():
                bundle.attached = loop.create_future()
        self.before_start()
        self.load.device, self.load.fallback = self._placing.next(started), self._placing.fallback
        self._child = await ChildProcess.spawn(self._on_message, self._on_exit)
        try:
            await self._load()
        except EdgeAgentError as error:
            pause = self._after_load_failure(error)
            await self._end_child()
            return pause
        self._policy.loaded()
        self._set_state(State.READY)
        ready = now()
        log.info("engine_ready", engine=self.name, pid=self.pid, device=self.device, seconds=round(ready - started, 3))
        self._jobs.pump()
        if not await self._watch():
            self._set_state(State.BACKING_OFF)
            await self._end_child()
            self._jobs.child_died(to_blame=False)
            return 0.0
        self._after_crash(await self._exit)
        pause = self._policy.pause_after_crash(now() - ready)
        await self._end_child()
        return pause

    async def _load(self) -> None:
        self._send(self.load)
        await self._await_child(self._loaded, "load")
        sent: set[str] = set()
        # Not a plain loop: `attach` may add a bundle while another one is being attached.
        while todo := [bundle for digest, bundle in self._bundles.items() if digest not in sent]:
            sent.add(todo[0].attach.digest)
            await self._attach_again(todo[0])

    async def _attach_again(self, bundle: _Bundle) -> None:
        bundle.sent_at = now()
        self._send(bundle.attach)
        try:
            await self._await_child(bundle.attached, "attach")
        except EdgeAgentError as error:
            if self._exit.done() or (self.load.device != CPU and "limit_seconds" in error.metadata):
                raise
            # One bad bundle must not take the others on this base down.
            self.problem = error.message
            resolve(bundle.attached, error)

    async def _await_child(self, future: asyncio.Future[None], what: str) -> None:
        """Wait for the child to do as told. Raises its answer, or ModelLoadFailed when it dies or takes too long."""
        limit = self._config.load_seconds_max
        until = now() + limit
        while not future.done():
            if self._exit.done():
                raise ModelLoadFailed(f"the model's process died during {what}: {death(self._exit.result())}")
            if now() > until:
                raise ModelLoadFailed(f"{what} took longer than {limit:g} s", limit_seconds=limit)
            await self._look([future, self._exit], loading=True)
        future.result()

    async def _watch(self) -> bool:
        """Return True when the child is gone, killed for its silence or not; False when it should go to a device."""
        while not self._exit.done():
            await self._look([self._exit], loading=self._attaching(self._heard_at))
            if self._placing.returns(now()) and not (self._attaching() or self.pending):  # nobody waits: try the device
                return self._exit.done()
        return True

    async def _look(self, awaited: list[asyncio.Future[Any]], *, loading: bool) -> None:
        """Wait for one of these, not for long; kill a child that is silent for too long. One that loads may compute."""
        limit = self._config.heartbeat_seconds_max
        done, _ = await asyncio.wait(awaited, timeout=limit / 4, return_when=asyncio.FIRST_COMPLETED)
        if done or self._child is None:
            return
        silence, computes = now() - self._heard_at, self._effort.goes_on(self._child.processor_seconds, now())
        if silence > limit + (self._config.load_seconds_max if loading and computes else 0.0):
            log.error("engine_silent", engine=self.name, pid=self.pid, seconds=round(silence, 1))
            self._wedged = True
            self._child.kill()
            await asyncio.wait([self._exit])
        elif silence > limit / 2:
            self._send(protocol.Ping())

    def _on_exit(self, code: int) -> None:
        if not self._exit.done():
            self._exit.set_result(code)

    def _after_crash(self, code: int) -> None:
        self.problem = f"the model's process died: {death(code)}"
        self._set_state(State.BACKING_OFF)
        by_itself = is_to_blame(code, wedged=self._wedged)
        on_device = self.load.device != CPU
        if on_device and by_itself:
            self._placing.failed(EngineCrashed(self.problem), now())
        to_blame = by_itself and not on_device  # a driver may be: on the CPU an input shows what it does
        log.error("engine_died", engine=self.name, how=death(code), running=self._jobs.in_flight, to_blame=to_blame)
        self._jobs.child_died(to_blame=to_blame)
        for tally in self._jobs.tallies.values():
            tally.crashes += to_blame
        for bundle in self._bundles.values():
            if not on_device:  # the next child attaches it, on the CPU if need be
                resolve(bundle.attached, EngineCrashed(self.problem))

    def _after_load_failure(self, error: EdgeAgentError) -> float | None:
        """Return the pause before the next try: none where the CPU, or the device once more, is what is tried."""
        if self.load.device == CPU:
            self._note_load_failure(error)
            return self._policy.pause_after_load_failure()
        self._placing.failed(error, now())
        log.warning("device_failed", engine=self.name, device=self.load.device, message=error.message)
        return 0.0

    def _note_load_failure(self, error: EdgeAgentError) -> None:
        self.problem = error.message
        self.load_failures += 1
        log.error("engine_load_failed", engine=self.name, reason=error.reason, message=error.message)
        for bundle in self._bundles.values():
            resolve(bundle.attached, error)

    def _give_up(self) -> None:
        self._set_state(State.FAILED)
        error = ModelLoadFailed(f"the model does not load: {self.problem}")
        self._jobs.fail_all(error)
        for bundle in self._bundles.values():  # one may have come after the last failure was told
            resolve(bundle.attached, error)

    async def _end_child(self) -> None:
        if self._child is None:
            return
        self._child.send(protocol.Stop())
        await asyncio.wait([self._exit], timeout=STOP_SECONDS_MAX)
        self._child.kill()
        await self._child.ended()
        self._child = None

    def _set_state(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._on_change()


def now() -> float:
    """Return the time of the running event loop, in seconds: what deadlines are given in."""
    return asyncio.get_running_loop().time()
