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
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.attached import AttachedBundle, AttachedBundles
from edge_agent.engine.child_watch import ChildWatch, now
from edge_agent.engine.interruption import Interruption
from edge_agent.engine.jobs import Answer, Computed, Jobs, Limits, ToChild
from edge_agent.engine.memory_cap import MemoryCap
from edge_agent.engine.outcome import not_started, resolve
from edge_agent.engine.placing import CPU, FALLBACK, PARTIAL, Placing
from edge_agent.engine.process import ChildProcess
from edge_agent.engine.pulse import Pulse, patience_seconds
from edge_agent.engine.quarantine import ALARM_SECONDS, Quarantine, death, is_to_blame, load_death, seconds_max
from edge_agent.engine.restart import RestartPolicy
from edge_agent.engine.state import BUSY, State
from edge_agent.engine.tally import Tally
from edge_agent.engine.waiting import Reservation
from edge_agent.errors import DeviceUnusable, EdgeAgentError, EngineCrashed, EngineNotReady, ModelLoadFailed, from_wire
from edge_agent.supervision import Component, DeathPolicy, Supervisor

STOP_SECONDS_MAX = 1.0  # a child holds nothing worth waiting longer for
ENDS = "the engine is stopping"
WHY_RESTARTED = "the child that it watched has ended with it; the other engines go on"

log = structlog.get_logger("edge_agent.engine")


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
        self.name, self._owner = name, owner or Supervisor()
        self.load = load
        """What the next child is told to load."""
        self.loaded = load
        """What the child was told whose `details` these are."""
        self._told = load
        """What the present child was told, which may not have loaded it yet."""
        self.state = State.STARTING
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
        self._placing = placing or Placing()
        limits = Limits(config.queue_requests_max, protocol.places_of(load, {}))
        self._jobs = Jobs(limits, quarantine, ToChild(lambda: self.state is State.READY, self._send))
        self._bundles = AttachedBundles()
        self._child: ChildProcess | None = None
        self.cap = MemoryCap()
        """What its child may take."""
        self._exit: asyncio.Future[int] = asyncio.Future()
        self._loaded: asyncio.Future[None] = asyncio.Future()
        self._watch, self._pulse = ChildWatch(name, config), Pulse(patience_seconds(config.heartbeat_seconds_max))
        # The supervisor owns the child: nobody else starts, ends or awaits one, and nobody cancels the supervisor.
        self._supervisor: asyncio.Task[None] | None = None
        self._interruption = Interruption()
        self._stopped = self._draining = False
        self._childless = asyncio.Event()
        self._childless.set()

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
        """Tell whether that bundle answers now; while others are still being attached to the child, too."""
        return self.state in (State.STARTING, State.READY) and self._bundles.ready(digest)

    def tally(self, digest: str) -> Tally:
        """Return what came of the inputs of a bundle; of one that is not here, nothing."""
        return self._jobs.tallies.get(digest, Tally())

    def score_variance(self, digest: str) -> str:
        """Return why scores of that bundle depend on what else is computed; empty = they do not, as far as is known."""
        return self._jobs.score_variances.get(digest, "")

    def failed(self, digest: str) -> bool:
        """Tell whether the last try to attach that bundle failed."""
        return self._bundles.failed(digest)

    def start(self) -> None:
        """Start the supervising task; also again after FAILED. Raises EngineNotReady after `stop` and `drain`."""
        if self.state is State.STOPPING:
            raise EngineNotReady(ENDS)
        if self.ended:
            self._policy = RestartPolicy(self._config)
            self._set_state(State.STARTING)
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
        self._set_state(State.STARTING)
        self._interruption.request()
        await self._childless.wait()

    async def attach(self, attach: protocol.Attach) -> None:
        """Add a bundle and wait until it is ready. After an error it is still wanted: `detach` drops it.

        Raises:
            ModelLoadFailed, EngineCrashed: the first try failed.
        """
        bundle = self._bundles.get(attach.digest)
        self.start()
        if bundle is None or bundle.attached.done():
            bundle = self._bundles.add(attach)
            self._jobs.tallies.setdefault(attach.digest, Tally())
            if self.state is State.READY:
                bundle.sent_at = now()
                self._send(bundle.attach)
        await asyncio.shield(bundle.attached)

    async def detach(self, digest: str, drain_seconds: float) -> None:
        """Remove a bundle; its jobs get that long to finish."""
        bundle = self._bundles.pop(digest, None)
        if bundle is None:
            return
        resolve(bundle.attached, EngineNotReady("the bundle was taken off the engine"))
        try:
            await self._jobs.drained(digest, drain_seconds)
        finally:
            if digest not in self._bundles:  # it may be back
                self._jobs.forget_bundle(digest)
                self._send(protocol.Detach(digest=digest))

    def reserve(self, digest: str, jobs: int, client: str) -> Reservation:
        """Keep places in the queue for `jobs` more of this client. Raises CapacityError or ModelLoadFailed."""
        self._require_ready(digest)
        return self._jobs.reserve(jobs, client)

    def _require_ready(self, digest: str) -> None:
        if self.state is State.FAILED:
            raise ModelLoadFailed(f"the model does not load: {self.problem}")
        if not self.ready(digest):
            if self.state is State.READY:
                self._bundles.raise_failure(digest)
            pause = self._config.restart_seconds_first
            raise EngineNotReady(f"the model is {BUSY[self.state]}", retry_seconds=pause, state=self.state.value)

    def events(
        self, run: protocol.Run, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[protocol.Chunk | Answer, None]:
        """Compute one input: yield its chunks, then its Answer. Leaving early cancels it.

        Raises:
            CallerError, CapacityError, ModelError: as the job ended.
        """
        self._require_ready(run.digest)
        return self._jobs.events(run, deadline, priority, client)

    def answer(
        self, run: protocol.Run, deadline: float, priority: int = 0, client: str = "", places: Reservation | None = None
    ) -> Awaitable[Answer]:
        """Compute one input of a task that writes no chunks; like `events`, at less cost."""
        self._require_ready(run.digest)
        return self._jobs.answer(run, deadline, priority, client, places)

    def alive(self, every_seconds: float) -> bool:
        """Tell whether it computes, or need not now: that it loads or starts again is no fault of the daemon.

        Where nobody asked it for `every_seconds` it is asked by a tiny request; an error is an answer too.
        """
        if self._supervisor is not None and self._supervisor.done():
            return self.state in (State.FAILED, State.STOPPING)
        asked = next(filter(self.ready, self._bundles), "")
        exempt = self.state is not State.READY or not asked or self._bundles.attaching()
        if self._pulse.owes(now(), every_seconds, exempt=exempt) and not self._jobs:
            self._jobs.ask_for_a_sign(asked, now() + self._config.load_seconds_max)
        return not self._pulse.stuck(now())

    def request_stop(self) -> None:
        """Let the child end, for good. Unfinished jobs and attaches then end with EngineNotReady."""
        self._stopped = True
        self._set_state(State.STOPPING)
        self._interruption.request()
        self._end_unwatched()

    def _end_unwatched(self) -> None:
        """Fail what waits where no task will: none supervises, or it has died and would be started after a pause."""
        if self._supervisor is None or self._supervisor.done() or self._owner.drop_paused(self._supervisor):
            self._set_state(State.STOPPING)
            self._fail_all(EngineNotReady(ENDS))

    def _fail_all(self, error: EdgeAgentError) -> None:
        self._jobs.fail_all(error)
        self._bundles.resolve_all(error)

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

    def _send(self, message: protocol.Message) -> None:
        if isinstance(message, protocol.Run) and self._jobs.in_flight == 1:
            self._watch.heard_at = now()  # an idle child says nothing: its silence counts from here
        if self._child is not None:
            self._child.send(message)

    def _on_message(self, message: protocol.FromChild) -> None:
        self._watch.heard_at = now()
        if isinstance(message, protocol.Chunk | protocol.Done | protocol.Progress):
            self._pulse.sign(self._watch.heard_at)
        match message:
            case protocol.Chunk():
                self._jobs.chunk(message)
            case protocol.Done():
                self._policy.answered()
                self._jobs.finish(message)
            case protocol.MemoryEstimate():
                self._send(self.cap.grant(message, self.available()))
            case protocol.Ready():
                self.device, self.details, self.loaded = message.device, message.details, self._told
                self._jobs.loaded(Computed(self.device, tuple(self.shortfalls)), self._told, self.details)
                self.loads, self.cache = self.loads + 1, None
                resolve(self._loaded, None)
            case protocol.Attached() if self._bundles.wanted(message.digest, message.number):
                self._jobs.score_variances[message.digest] = message.score_variance
                self._resolve_attach(message.digest, message.number, None)
            case protocol.Failed():
                self._on_failed(message)
            case protocol.Pong():  # its loop turns; that is not computing
                self.cache = message.cache
                if message.threads:
                    self.details = {**self.details, "threads_now": str(message.threads)}

    def _on_failed(self, message: protocol.Failed) -> None:
        if self._jobs.finish(message):
            self._pulse.sign(self._watch.heard_at)
            return
        error = from_wire(message.reason, message.message, message.remedy, message.metadata)
        if message.job_id == "" and not self._loaded.done():
            resolve(self._loaded, error)
        elif isinstance(error, DeviceUnusable):  # for all that is on it, whichever bundle found out
            self._placing.failed(error, now())
            self._send(protocol.Stop())
        elif message.attach:
            self._resolve_attach(message.job_id, message.attach, error)
        else:
            log.warning("engine_complained", engine=self.name, reason=message.reason, message=message.message)

    def _resolve_attach(self, digest: str, number: int, error: EdgeAgentError | None) -> None:
        if bundle := self._bundles.wanted(digest, number):
            resolve(bundle.attached, error)
            self._report_change()

    # --- supervision ---------------------------------------------------------------------------------------------

    async def _supervise(self) -> None:
        """Keep a child running until stopped, until loading has failed too often, or until one dies while draining."""
        self._jobs.child_died(to_blame=False)  # after a mistake of ours: what the child had is tried again
        while not (self._stopped or self._draining):
            self._interruption.clear()
            self._set_state(State.STARTING)
            pause = await self._one_life()
            if self._interruption.requested or self._draining:
                continue
            if pause is None:
                self._set_state(State.FAILED)
                self._fail_all(ModelLoadFailed(f"the model does not load: {self.problem}"))
                return
            self._set_state(State.BACKING_OFF)
            await self._interruption.pause(pause)
            self.restarts += not (self._stopped or self._draining)
        self._set_state(State.STOPPING)
        self._fail_all(EngineNotReady(ENDS))

    async def _one_life(self) -> float | None:
        """Run one child from start to end, whatever happens; return the pause before the next, or None for no next."""
        try:
            try:
                return await self._interruption.within(self._live())
            finally:
                if self.state is State.READY:
                    self._set_state(State.BACKING_OFF)
                await self._end_child()
                self._jobs.child_died(to_blame=False)  # those about which nothing was decided yet
        except Exception as error:
            log.exception("engine_supervision_failed", engine=self.name)
            return self._after_start_failure(f"supervising it failed with {type(error).__name__}")

    async def _live(self) -> float | None:
        """Start one child and watch it; return the pause before the next, or None for no next."""
        loop = asyncio.get_running_loop()
        self._exit, self._loaded = loop.create_future(), loop.create_future()
        started = now()
        self._watch.begin(started)
        self.problem = ""
        self._bundles.begin()
        try:
            self.before_start()
            device = self._placing.next(started)
            more = {"device": device, "fallback": self._placing.fallback, "seconds_max": self._config.load_seconds_max}
            self._told = msgspec.structs.replace(self.load, **more)
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
        self._set_state(State.READY)
        ready = now()
        log.info("engine_ready", engine=self.name, pid=self.pid, device=self.device, seconds=round(ready - started, 3))
        self._jobs.pump()
        if not await self._until_gone():
            return 0.0
        self._after_crash(await self._exit)
        return self._policy.pause_after_crash(now() - ready)

    async def _load(self) -> None:
        self._send(self._told)
        await self._await_child(self._loaded, "load")
        # Not a plain loop: while one bundle is being attached others may come, or one go and come again.
        while bundle := self._bundles.unsent():
            await self._attach_again(bundle)

    async def _attach_again(self, bundle: AttachedBundle) -> None:
        bundle.sent_at = now()
        self._send(bundle.attach)
        try:
            await self._await_child(bundle.attached, "attach")
        except EdgeAgentError as error:
            if self._exit.done() or (self._told.device != CPU and "limit_seconds" in error.metadata):
                raise
            # One bad bundle must not take the others on this base down.
            if self._bundles.get(bundle.attach.digest) is bundle:
                self.problem = error.message
            resolve(bundle.attached, error)

    async def _await_child(self, future: asyncio.Future[None], what: str) -> None:
        """Wait for the child to do as told. Raises its answer, or ModelLoadFailed when it dies or takes too long."""
        limit = seconds_max(self._config, what) + ALARM_SECONDS
        await self._watch.until_done(self._child, self._exit, future, limit)
        if not future.done():
            raise load_death(what, self._exit, self._config, self.cap)
        future.result()

    async def _until_gone(self) -> bool:
        """Return True when the child is gone, killed for its silence or not; False when it should go to a device."""
        while not self._exit.done():
            attaching = self._bundles.attaching(self._watch.heard_at)
            await self._watch.look(self._child, self._exit, [self._exit], loads=attaching)
            # Where nobody waits the device is tried, but not by the last child.
            if not (self._draining or self._bundles.attaching() or self.pending) and self._placing.returns(now()):
                return self._exit.done()
        return True

    def _on_exit(self, code: int) -> None:
        self.cap.peak_bytes = self._child.peak_bytes if self._child else 0
        if not self._exit.done():
            self._exit.set_result(code)

    def _after_crash(self, code: int) -> None:
        attaching = self._bundles.attaching(self._watch.heard_at)  # which is at work then, and no job
        error: EdgeAgentError = EngineCrashed(f"the model's process died: {death(code)}{self.cap.told}")
        if attaching and not self._watch.killed:
            error = load_death("attach", self._exit, self._config, self.cap)
        self.problem = error.message
        self._set_state(State.BACKING_OFF)
        by_itself = is_to_blame(code, wedged=self._watch.killed)
        if (on_device := self._told.device != CPU) and by_itself:
            self._placing.failed(EngineCrashed(self.problem), now())
        to_blame = by_itself and not (on_device or attaching)  # on the CPU an input shows what it does
        log.error("engine_died", engine=self.name, how=death(code), running=self._jobs.in_flight, to_blame=to_blame)
        self._jobs.child_died(to_blame=to_blame)
        for tally in self._jobs.tallies.values():
            tally.crashes += to_blame
        if not on_device:  # else the next child attaches them, on the CPU if need be
            self._bundles.resolve_all(error)

    def _after_load_failure(self, error: EdgeAgentError) -> float | None:
        """Return the pause before the next try: none where the CPU, or the device once more, is what is tried."""
        if self._told.device == CPU:
            self._note_load_failure(error)
            return self._policy.pause_after_load_failure()
        self._placing.failed(error, now())
        log.warning("device_failed", engine=self.name, device=self._told.device, message=error.message)
        return 0.0

    def _after_start_failure(self, why: str) -> float:
        """Return the pause before the next try of a child that this machine, or a fault of ours, did not let begin."""
        pause = self._policy.pause_after_start_failure()
        self._note_load_failure(not_started(why, pause))
        return pause

    def _note_load_failure(self, error: EdgeAgentError) -> None:
        self.problem = error.message
        self.load_failures += 1
        log.error("engine_load_failed", engine=self.name, reason=error.reason, message=error.message)
        self._bundles.resolve_all(error)

    async def _end_child(self) -> None:
        try:
            if self._child is not None:
                await self._child.stop(STOP_SECONDS_MAX)
        finally:
            self._child = None
            self.cap.remove()
            self.cap = MemoryCap()
            self._childless.set()

    def _set_state(self, state: State) -> None:
        state = State.STOPPING if self._stopped else state
        if state is not self.state:
            self.state = state
            self._report_change()

    def _report_change(self) -> None:
        try:
            self._on_change()
        except Exception:
            log.exception("engine_change_not_reported", engine=self.name)
