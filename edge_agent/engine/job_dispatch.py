"""The jobs of one engine, from the caller to the child and back: which wait, which are in flight, how each one ends.

The module starts no process. The engine sets `child` when the child is ready, passes its messages on (`pass_chunk`,
`finish`), and reports its death (`child_died`). Every job ends exactly once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import NamedTuple

from edge_agent.engine import job_queue, protocol
from edge_agent.engine.child_process import ChildProcess, loop_time
from edge_agent.engine.job_queue import JobQueue, Reservation, Ticket
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.errors import (
    BY_REASON,
    DeadlineExpired,
    DeadlineUnattainable,
    EdgeAgentError,
    EmptyInput,
    EngineCrashed,
    EngineNotReady,
    InputTooLong,
    InvalidRequest,
    ModelError,
    StreamBroken,
    from_wire,
)
from edge_agent.supervision import log_task_failure

PROBE_TEXT = "1"
PROBE_PRIORITY = 10  # as if it had come 10 s later
PROBER = "watchdog"  # an ordinary client: a probe waits for one turn of each other client, not for all their jobs
SECONDS_MIN = 0.001  # sent for a deadline that has passed, as 0 would mean no deadline
TRIES_MAX = 3  # of one job, if its child was killed from outside each time
LATENCIES_MAX = 256
TURNS_AVERAGED = 4
"""The running mean of turns mostly reflects this many inputs."""
_UNCOMPUTED_REASONS = frozenset(
    {EmptyInput.reason, InputTooLong.reason, InvalidRequest.reason, DeadlineUnattainable.reason}
)
"""Errors of inputs for which the model computed nothing."""
_MODEL_FAILURE_REASONS = frozenset(reason for reason, cls in BY_REASON.items() if issubclass(cls, ModelError))

_probes = itertools.count()


class ComputeInfo(NamedTuple):
    """What computes the jobs."""

    device: str = "cpu"
    degraded: tuple[str, ...] = ()
    """The reasons why that is limited, as answers carry them."""
    scores_vary: bool = False
    """Scores of the bundle depend on what else is computed, so no threshold holds for them."""


BY_CPU = ComputeInfo()


class EngineAnswer(NamedTuple):
    """The end of a job, with the time it waited in this process."""

    result: protocol.JobResult
    queue_ms: float
    compute: ComputeInfo = BY_CPU


class JobEvents:
    """The events of one job, in order, for one reader: a queue at a fifth of the cost of asyncio.Queue."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: deque[protocol.Event | EdgeAgentError] = deque()
        self._reader: asyncio.Future[None] | None = None

    def put(self, event: protocol.Event | EdgeAgentError) -> None:
        """Add an event."""
        self._events.append(event)
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    async def get(self) -> protocol.TextChunk | protocol.JobResult:
        """Wait for the next event: return what the child computed, or raise what went wrong."""
        if not self._events:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        event = self._events.popleft()
        if isinstance(event, EdgeAgentError):
            raise event
        if isinstance(event, protocol.FailureReport):
            raise from_wire(event.reason, event.message, event.remedy, event.metadata)
        return event


@dataclass
class EngineJob:
    """One input on its way."""

    request: protocol.JobRequest
    ticket: Ticket
    deadline: float
    events: JobEvents = field(default_factory=JobEvents)
    sent_at: float = 0.0
    compute: ComputeInfo = BY_CPU
    """What the child that has it computes on."""
    tries: int = 0
    streamed: bool = False
    counted: bool = True
    """Whether it counts in the figures of its bundle; a probe does not."""
    finished: bool = False
    """The child has answered it, or reported its failure."""
    timer: asyncio.TimerHandle = field(init=False)
    """Ends the job at its deadline."""

    def answer(self, result: protocol.JobResult) -> EngineAnswer:
        """Return the answer that ends the job."""
        return EngineAnswer(result, 1000 * max(self.sent_at - self.ticket.arrived_at, 0.0), self.compute)


class BundleStats:
    """Counts of the inputs of one bundle since it was attached. They add almost nothing to the cost of a call.

    They describe the model and not its callers: an input that is too long, or a caller that leaves, does not count.
    Times are those in the child, without the wait in the queue.
    """

    def __init__(self) -> None:
        """Start at zero."""
        self.calls = 0
        self.failures = 0
        self.crashes = 0
        """Deaths of the child that the bundle may have caused: one of its jobs was in flight, or no job at all was."""
        self.turns = 1.0
        """Turns that an input takes (`job_queue.turns_for_rows`): the mean of the latest."""
        self._milliseconds: deque[float] = deque(maxlen=LATENCIES_MAX)

    def record_end(self, event: protocol.JobResult | protocol.FailureReport, seconds: float) -> None:
        """Note the end of an input that was in the child for `seconds`."""
        if isinstance(event, protocol.JobResult):
            self.calls += 1
            # A longer text takes longer: of what is generated, each token counts for itself.
            self._milliseconds.append(1000.0 * seconds / (event.output_tokens or 1))
        elif event.reason in _MODEL_FAILURE_REASONS:
            self.record_failure()

    def record_turns(self, turns: float) -> None:
        """Note the turns that an input has taken."""
        self.turns += (turns - self.turns) / TURNS_AVERAGED

    def record_failure(self) -> None:
        """Note an input on which the model failed."""
        self.calls += 1
        self.failures += 1

    def record_timeout(self, seconds: float) -> None:
        """Note an input whose deadline passed in the child: it took at least that long."""
        self.calls += 1
        self._milliseconds.append(1000.0 * seconds)

    @property
    def timed(self) -> int:
        """How many inputs `median_ms` covers, the latest ones."""
        return len(self._milliseconds)

    @property
    def median_ms(self) -> float:
        """The median time of the latest inputs, in milliseconds; for generation, per token. 0 = none yet."""
        return median(self._milliseconds) if self._milliseconds else 0.0


class JobDispatcher:
    """See the module."""

    def __init__(self, waiting_max: int, running_max: int, quarantine: Quarantine) -> None:
        """Start without jobs and without a child. The child is given at most `running_max` at once."""
        self._waiting = JobQueue(waiting_max)
        self._running_max = self._client_running_max = running_max
        """The second is for one client."""
        self._quarantine = quarantine
        self.child: ChildProcess | None = None
        """The child, while it takes jobs."""
        self._jobs: dict[str, EngineJob] = {}
        self._running: dict[str, EngineJob] = {}
        self._job_forgotten = asyncio.Event()
        self.compute = BY_CPU
        """What the present child computes on."""
        self.score_variances: dict[str, str] = {}
        """Why scores of a bundle depend on what else is computed, by digest; empty = they do not."""
        self.stats: dict[str, BundleStats] = {}
        """Counts by digest, of the bundles on this engine only."""

    def __len__(self) -> int:
        """Return how many jobs wait or run."""
        return len(self._jobs)

    def reserve(self, jobs: int, client: str) -> Reservation:
        """Keep places for `jobs` more of this client. Raises QueueFull, ShareExceeded."""
        return self._waiting.reserve(jobs, client)

    @property
    def in_flight(self) -> int:
        """How many jobs the child has."""
        return len(self._running)

    async def events(
        self, request: protocol.JobRequest, deadline: float, priority: int = 0, client: str = ""
    ) -> AsyncGenerator[protocol.TextChunk | EngineAnswer, None]:
        """Compute one input: yield its chunks, then its EngineAnswer. Leaving early cancels it."""
        job = self._add_job(request, deadline, priority, client)
        try:
            while isinstance(event := await job.events.get(), protocol.TextChunk):
                yield event
            yield job.answer(event)
        finally:
            self._forget(job)

    async def answer(
        self,
        request: protocol.JobRequest,
        deadline: float,
        priority: int = 0,
        client: str = "",
        reservation: Reservation | None = None,
    ) -> EngineAnswer:
        """Compute one input of a task that writes no chunks; like `events`, at less cost."""
        job = self._add_job(request, deadline, priority, client, reservation)
        try:
            result = await job.events.get()
            assert isinstance(result, protocol.JobResult), "only generate writes chunks"
            return job.answer(result)
        finally:
            self._forget(job)

    def request_probe(self, digest: str, deadline: float) -> None:
        """Queue a minimal job, behind one turn of each client, which counts in no figures."""
        self._probe = asyncio.create_task(self._compute_probe(digest, deadline), name="probe")
        log_task_failure(self._probe, "probe of an engine")

    async def _compute_probe(self, digest: str, deadline: float) -> None:
        request = protocol.JobRequest(
            job_id=f"probe-{next(_probes)}", digest=digest, text=PROBE_TEXT, output_tokens_max=1
        )
        with contextlib.suppress(EdgeAgentError):  # an error is an answer too
            job = self._add_job(request, deadline, PROBE_PRIORITY, PROBER)
            job.counted = False
            try:
                while not isinstance(await job.events.get(), protocol.JobResult):
                    pass
            finally:
                self._forget(job)

    def forget_bundle(self, digest: str) -> None:
        """Forget a bundle that has been detached; its jobs end with errors after which their callers may retry."""
        for job in self._jobs.values():
            if job.request.digest == digest:
                reason = "the bundle was replaced or removed"
                job.events.put(
                    StreamBroken(f"{reason} in the middle of the stream")
                    if job.streamed
                    else EngineNotReady(f"{reason} before it had answered")
                )
        self.stats.pop(digest, None)
        self.score_variances.pop(digest, None)

    def child_loaded(self, compute: ComputeInfo, load: protocol.LoadRequest, details: Mapping[str, str]) -> None:
        """Note what computes from now on, and how many jobs at once.

        If the site has not set that number, no single client gets all of the places.
        """
        self.compute = compute
        self._running_max = self._client_running_max = protocol.concurrent_jobs(load, details)
        if not load.sequences_max and protocol.SEQUENCES in details:
            self._client_running_max = job_queue.places_of_one_client(self._running_max)

    def pump(self) -> None:
        """Give the child what it can take."""
        if self.child is None or not self._waiting:
            return
        running = [job.ticket for job in self._running.values()]
        while ticket := self._waiting.next(running, self._running_max, self._client_running_max):
            running.append(ticket)
            self._start(self._jobs[ticket.job_id], self.child, loop_time())

    def pass_chunk(self, chunk: protocol.TextChunk) -> None:
        """Hand on a piece of text."""
        if job := self._running.get(chunk.job_id):
            job.streamed = True
            job.events.put(chunk)

    def finish(self, event: protocol.JobResult | protocol.FailureReport) -> bool:
        """End a job with the child's result or failure; tell whether it was in flight."""
        job = self._running.pop(event.job_id, None)
        if job is None:
            return False
        stats = self._stats_of(job)
        if isinstance(event, protocol.JobResult) and event.rows:
            turns = job_queue.turns_for_rows(event.rows)
            self._waiting.settle(job.ticket, turns)
            if stats:
                stats.record_turns(turns)
        elif isinstance(event, protocol.FailureReport) and event.reason in _UNCOMPUTED_REASONS:
            self._waiting.settle(job.ticket, job_queue.TURNS_MIN)
        if stats:
            stats.record_end(event, loop_time() - job.sent_at)
        job.finished = True
        job.events.put(event)
        self.pump()
        return True

    def child_died(self, *, to_blame: bool) -> None:
        """End the jobs in flight or try them again. `to_blame`: one of them may have caused the death."""
        if to_blame:
            for digest in {job.request.digest for job in self._running.values()} or self.stats:
                if digest in self.stats:
                    self.stats[digest].crashes += 1
        retried = []
        for job in self._running.values():
            if job.request.job_id not in self._jobs:
                continue  # its caller went away
            if job.streamed:
                job.events.put(StreamBroken("the model's process ended in the middle of the stream"))
            elif (to_blame and job.ticket.alone) or job.tries >= TRIES_MAX:
                self._give_up(job, to_blame=to_blame)
            else:
                retried.append(job.ticket)
        self._running.clear()
        self._waiting.put_back(retried, alone=to_blame)

    def fail_all(self, error: EdgeAgentError) -> None:
        """End every job."""
        self._waiting.clear()
        self._running.clear()
        for job in self._jobs.values():
            job.events.put(error)

    async def wait_until_drained(self, digest: str, seconds: float) -> None:
        """Return when no job of that bundle is left, or after that many seconds."""
        deadline = loop_time() + seconds
        while any(job.request.digest == digest for job in self._jobs.values()) and loop_time() < deadline:
            self._job_forgotten.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._job_forgotten.wait()
            except TimeoutError:
                return

    def _add_job(
        self,
        request: protocol.JobRequest,
        deadline: float,
        priority: int,
        client: str,
        reservation: Reservation | None = None,
    ) -> EngineJob:
        now = loop_time()
        size = protocol.frame_bytes(request)
        if size > protocol.FRAME_BYTES_MAX:  # the child would refuse the frame as invalid
            raise InputTooLong(
                f"the input takes {size} bytes on its way to the model's process; "
                f"the limit is {protocol.FRAME_BYTES_MAX}",
                bytes=size,
                limit=protocol.FRAME_BYTES_MAX,
            )
        if self._quarantine.refused_until:
            self._quarantine.check(request, now)
        request.priority = priority
        stats = self.stats.get(request.digest)
        turns = stats.turns if stats else 1.0
        job = EngineJob(request, Ticket(request.job_id, now, priority, client=client, turns=turns), deadline)
        child = self.child
        if child is None or self._running or self._waiting:
            self._waiting.add(job.ticket, reservation)
            self._jobs[request.job_id] = job
            self.pump()
        else:  # most calls on most sites: no other job is waiting
            if reservation is not None:
                reservation.take_place(self._waiting)
            self._jobs[request.job_id] = job
            self._start(job, child, now)
        # One timer for the whole job instead of one for each event, and set only after the child has the job.
        job.timer = asyncio.get_running_loop().call_at(deadline, self._expire, request.job_id)
        return job

    def _start(self, job: EngineJob, child: ChildProcess, now: float) -> None:
        job.sent_at = now
        job.request.seconds = max(job.deadline - now, SECONDS_MIN)
        job.compute = self.compute
        if self.score_variances.get(job.request.digest):
            job.compute = self.compute._replace(scores_vary=True)
        job.tries += 1
        if not self._running:
            child.begin_work()
        self._running[job.request.job_id] = job
        child.send(job.request)

    def _expire(self, job_id: str) -> None:
        if job := self._jobs.get(job_id):
            stats = self._stats_of(job)
            if stats and job_id in self._running:
                stats.record_timeout(loop_time() - job.sent_at)
            job.events.put(DeadlineExpired("the deadline passed before the answer was there"))

    def _stats_of(self, job: EngineJob) -> BundleStats | None:
        return self.stats.get(job.request.digest) if job.counted else None

    def _give_up(self, job: EngineJob, *, to_blame: bool) -> None:
        if stats := self._stats_of(job):
            stats.record_failure()
        if to_blame and job.ticket.alone:
            self._quarantine.add(job.request, loop_time())
            job.events.put(EngineCrashed("the model's process died on this input, twice"))
        else:
            job.events.put(EngineCrashed(f"the model's process was killed {job.tries} times under this input"))

    def _forget(self, job: EngineJob) -> None:
        job.timer.cancel()
        if self._jobs.pop(job.request.job_id, None) is None:
            return
        if job.request.job_id in self._running:
            # It keeps its place in flight until the child confirms, so the child never has too many jobs.
            if self.child is not None:
                self.child.send(protocol.CancelRequest(job_id=job.request.job_id))
        elif not job.finished:
            self._waiting.discard(job.request.job_id)
        self._job_forgotten.set()
