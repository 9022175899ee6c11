"""Writes examples on a thread of its own: groups of answers are redacted and committed together, off every call's way.

A call only puts its answer into a queue, bounded in number and bytes; what does not fit is dropped and counted. The
writer lets a group gather for `commit_seconds`, and commits it once. A job (feedback, a look at the review queue) does
not wait for the group: it ends the gathering, is done in one commit with whatever waits, and has its result when that
is on the disk. A job whose caller was cancelled while it waited is dropped.

Between groups the writer keeps house: it ends windows, seals, reads receipts. When the disk fails, answers are given up
before feedback is refused, and feedback is never acknowledged that is not on the disk. While the disk stands, the queue
fills up, and `stalled_seconds` says so.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.capture.record_builder import CapturedAnswer
from edge_agent.capture.spool import PredictionRecord
from edge_agent.capture.spool_worker import SpoolWorker
from edge_agent.durable.disk_thread import DiskThread
from edge_agent.errors import DiskFull, Draining, EdgeAgentError, SiteError, SpoolStalled
from edge_agent.monitoring.monitoring_store import Charge

log = structlog.get_logger("edge_agent.capture")

JOBS_MAX = 1000
"""Jobs that wait; their callers are refused beyond it."""
STOP_SECONDS_MAX = 15.0
"""For what waits to be written at the end: a disk that stands must not keep the daemon from ending."""


PENDING_CHARGES_MAX = 10_000
"""While nothing can be written; then the oldest are forgotten."""


@dataclass(frozen=True)
class CaptureLimits:
    """What may wait, and how long."""

    examples_max: int
    bytes_max: int
    group_max: int
    group_seconds: float
    characters_max: int


@dataclass
class _SpoolJob:
    """Work inside the writer's transaction; or `alone`, outside of it, for what has transactions of its own."""

    work: Callable[[SpoolWorker], Any]
    alone: bool
    future: Future[Any] | None = None
    done: bool = False
    result: Any = None
    error: Exception | None = None

    @property
    def left(self) -> bool:
        """Whether its caller was cancelled before it began."""
        return self.future is not None and self.future.cancelled()

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        """Note what came of it."""
        self.done, self.result, self.error = True, result, error


class PendingCharges:
    """One thread adds, another one writes."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: deque[Charge] = deque(maxlen=PENDING_CHARGES_MAX)

    def add(self, task: str, micros: int) -> None:
        """Note the price of a question, in millionths of the currency that the prices are in."""
        self._waiting.append(Charge(task, time.time(), micros))

    def settle(self, write: Callable[[list[Charge]], None]) -> None:
        """Hand over what waits; what could not be written goes on waiting."""
        paid = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not paid:
            return
        try:
            write(paid)
        except BaseException:
            self._waiting.extendleft(reversed(paid))
            raise


class SpoolWriter:
    """Owns the spool through a `SpoolWorker`, which is opened in the thread."""

    def __init__(
        self,
        open_house: Callable[[], SpoolWorker],
        limits: CaptureLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` begins."""
        self._open_house, self._limits, self._monotonic = open_house, limits, monotonic
        self._queue: deque[tuple[CapturedAnswer, float] | _SpoolJob] = deque()
        self._hurry = threading.Event()
        self._gathering = False
        # Each is written by one thread only.
        self._put, self._put_bytes, self._taken, self._taken_bytes = 0, 0, 0, 0
        self._jobs_put, self._jobs_taken = 0, 0
        self._dropped: Counter[str] = Counter()  # by the callers' thread
        self._failed: Counter[str] = Counter()  # by the writer's
        self._counted: Counter[str] = Counter()
        self._house: SpoolWorker | None = None
        self.bills = PendingCharges()
        self.problem: EdgeAgentError | None = None
        """Why nothing can be kept now."""
        self._thread: DiskThread | None = None

    def start(self) -> None:
        """Open the spool and begin."""
        self._thread, self._gathering = DiskThread("examples", self._monotonic), True
        self._begin(self._keep_house)
        self._begin(self._gather)

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> bool:
        """Write what waits, and end; tell whether the disk took it in that time."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._hurry.set()
        thread.submit(self._close).add_done_callback(_note)
        ended = thread.stop(seconds_max)
        if not ended:
            log.error("examples_not_closed", seconds=seconds_max, answers=self.waiting)
        return ended

    def keep(self, answered: CapturedAnswer) -> None:
        """Queue an answer; one thread calls this. Never waits, and never fails."""
        size = len(answered.text)
        if size > self._limits.characters_max:
            self._dropped["dropped_too_long"] += 1
        elif self._full(size, room=2 if answered.later == "audit" else 1):
            self._dropped["dropped_queue_full"] += 1
        else:
            self._put += 1
            self._put_bytes += size
            self._queue.append((answered, time.time()))
            # Only now: what comes behind the look of a round that ends is taken by the next one.
            if not self._gathering and self._thread is not None:
                self._gathering = True
                self._begin(self._gather)

    def _full(self, size: int, room: int) -> bool:
        """Tell whether so many more characters do not fit. A sample has twice the room, lest load thin it out."""
        count, waiting = self._put - self._taken, self._put_bytes + size - self._taken_bytes
        return count >= room * self._limits.examples_max or waiting > room * self._limits.bytes_max

    def submit(self, work: Callable[[SpoolWorker], Any], *, alone: bool = False) -> Future[Any]:
        """Do something with the spool as soon as possible; the result is there when it is on the disk.

        Raises:
            SpoolStalled: too many wait already.
            Draining: the writer was stopped.
        """
        if self._thread is None:
            raise Draining("the daemon is stopping, so examples are not kept or shown any more")
        if (waiting := self._jobs_put - self._jobs_taken) >= JOBS_MAX:
            raise SpoolStalled(f"{waiting} calls wait for the disk already", retry_seconds=5.0, waiting=waiting)
        job = _SpoolJob(work, alone)
        self._jobs_put += 1
        self._queue.append(job)
        self._hurry.set()
        job.future = self._thread.submit(self._finished, job)
        return job.future

    @property
    def waiting(self) -> int:
        """Answers in the queue."""
        return self._put - self._taken

    @property
    def dropped(self) -> int:
        """Answers that did not fit into the queue, since the start."""
        return self._dropped["dropped_queue_full"]

    @property
    def stalled_seconds(self) -> float:
        """How long the disk has taken for the work at hand; 0 = there is none."""
        return self._thread.stalled_seconds if self._thread else 0.0

    @property
    def questions_waiting(self) -> int:
        """Questions for the large model in the spool, about."""
        house = self._house
        return house.questions.waiting if house else 0

    def housekeeping(self) -> Future[None]:
        """Keep house when the work before is done. Raises Draining."""
        if self._thread is None:
            raise Draining("the daemon is stopping")
        return self._thread.submit(self._keep_house)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _begin(self, work: Callable[[], None]) -> None:
        """Let the thread do what nobody waits for; at the end `_close` does it."""
        thread = self._thread
        with contextlib.suppress(RuntimeError):  # stopped meanwhile
            if thread is not None:
                thread.submit(work).add_done_callback(_note)

    def _gather(self) -> None:
        """Let a group come together, and write it and what came with it."""
        thread = self._thread
        with thread.resting() if thread else contextlib.nullcontext():
            self._hurry.wait(self._limits.group_seconds)
        self._hurry.clear()
        self._gathering = False
        left = len(self._queue)
        while left > 0:
            left -= self._write_next()
        self._begin(self._keep_house)

    def _finished(self, job: _SpoolJob) -> Any:
        """Write what waits up to a job, unless that has happened, and say what came of it."""
        while not job.done and self._write_next():
            pass
        assert job.done, "a job is in the queue until it is done"
        if job.error is not None:
            raise job.error
        return job.result

    def _keep_house(self) -> None:
        """Do what is due between groups. What is not an error of the disk is raised: it is a mistake of ours."""
        house = self._opened()
        if house:
            self._count(house)
            self._guarded(lambda: self.bills.settle(house.paid))
            self._guarded(house.keep)

    def _close(self) -> None:
        while self._queue:
            self._write_next()
        try:
            self._keep_house()
        finally:
            if self._house:
                self._house.close()

    def _opened(self) -> SpoolWorker | None:
        if self._house is None:
            try:
                self._house = self._open_house()
                self.problem = None
            except EdgeAgentError as error:
                if self.problem is None:
                    log.error("examples_not_kept", reason=error.reason, message=error.message)
                self.problem = error
        return self._house

    def _write_next(self) -> int:
        """Write the group at the head of the queue; return how much of the queue that was.

        Whatever is raised, each job of the group has come to its end.
        """
        group = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.group_max))]
        jobs = [item for item in group if isinstance(item, _SpoolJob)]
        answers = [item for item in group if not isinstance(item, _SpoolJob)]
        try:
            self._write(answers, [job for job in jobs if not job.left])
        except Exception as error:
            log.exception("examples_group_failed", error=type(error).__name__)
            for job in jobs:
                if not job.done:
                    job.end(error=error)
        finally:
            self._jobs_taken += len(jobs)
            self._taken += len(answers)
            self._taken_bytes += sum(len(answered.text) for answered, _ in answers)
        return len(group)

    def _write(self, answers: list[tuple[CapturedAnswer, float]], jobs: list[_SpoolJob]) -> None:
        house = self._opened()
        if house is None:
            self._give_up(jobs, answers, self.problem)
            return
        kept = self._records(house, answers)
        self._count(house)
        self._commit(house, kept, [job for job in jobs if not job.alone])
        for job in jobs:
            if job.alone:
                self._settle([(job, self._outcome(job, house))])

    def _count(self, house: SpoolWorker) -> None:
        """Hand over what was dropped since the last time; it is on the disk with the next commit."""
        total = Counter(self._dropped) + self._failed
        house.spool.counters.update(total - self._counted)
        self._counted = total

    def _records(self, house: SpoolWorker, answers: list[tuple[CapturedAnswer, float]]) -> list[PredictionRecord]:
        kept = []
        for answered, seconds in answers:
            try:
                kept.append(house.recorder.prediction(answered, seconds))
            except Exception as error:  # noqa: BLE001 - one example must not stop all others
                log.error("example_dropped", error=type(error).__name__, task=answered.manifest.task.name)
                self._failed["dropped_failed"] += 1
        return kept

    def _commit(self, house: SpoolWorker, kept: list[PredictionRecord], jobs: list[_SpoolJob]) -> None:
        """Commit a group once; when the disk fails, again without the answers; at last, tell the jobs."""
        if not kept and not jobs:
            return
        try:
            self._settle(self._group(house, kept, jobs))
        except EdgeAgentError as error:
            self._failed["dropped_disk"] += len(kept)
            self._after_failure(house, error)
            self._try_again(house, jobs, error)
        except Exception as error:
            log.exception("examples_group_failed", error=type(error).__name__)
            self._commit_apart(house, kept, jobs)

    def _commit_apart(self, house: SpoolWorker, kept: list[PredictionRecord], jobs: list[_SpoolJob]) -> None:
        """Commit the answers, and each job by itself: what raises again is given up alone."""
        try:
            self._group(house, kept, [])
        except Exception:  # noqa: BLE001 - said when it was raised first
            self._failed["dropped_failed"] += len(kept)
        for job in jobs:
            try:
                self._settle(self._group(house, [], [job]))
            except Exception as error:  # noqa: BLE001 - its caller is told
                job.end(error=error)

    def _try_again(self, house: SpoolWorker, jobs: list[_SpoolJob], error: EdgeAgentError) -> None:
        house = self._opened() or house
        if self._house is None:
            self._give_up(jobs, [], error)
        elif jobs:
            try:
                self._settle(self._group(house, [], jobs))
            except EdgeAgentError as again:
                self._after_failure(house, again)
                self._give_up(jobs, [], again)

    def _after_failure(self, house: SpoolWorker, error: EdgeAgentError) -> None:
        log.error("examples_not_written", reason=error.reason, message=error.message)
        if isinstance(error, DiskFull):
            self._guarded(house.make_room)
        else:
            # What the disk holds after a failed sync is not known: read it again instead of trusting memory.
            self._house = None
            self._guarded(house.close)

    def _group(
        self, house: SpoolWorker, kept: list[PredictionRecord], jobs: list[_SpoolJob]
    ) -> list[tuple[_SpoolJob, Any]]:
        with house.spool.transaction():
            house.add(kept)
            return [(job, self._outcome(job, house)) for job in jobs]

    def _outcome(self, job: _SpoolJob, house: SpoolWorker) -> Any:
        """Run a job; what it refuses is its outcome. A failing disk ends the whole transaction instead."""
        try:
            return job.work(house)
        except EdgeAgentError as error:
            if isinstance(error, SiteError) and house.spool.db.in_transaction:
                raise
            return error

    def _settle(self, outcomes: list[tuple[_SpoolJob, Any]]) -> None:
        for job, outcome in outcomes:
            if isinstance(outcome, EdgeAgentError):
                job.end(error=outcome)
            else:
                job.end(outcome)

    def _give_up(
        self, jobs: list[_SpoolJob], answers: list[tuple[CapturedAnswer, float]], error: EdgeAgentError | None
    ) -> None:
        self._failed["dropped_disk"] += len(answers)
        self._settle([(job, error or EdgeAgentError("examples are not kept here")) for job in jobs])

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EdgeAgentError as error:
            log.error("examples_housekeeping_failed", reason=error.reason, message=error.message)


def _note(done: Future[None]) -> None:
    """Log what was raised where nobody waits for it."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("examples_housekeeping_failed", error=type(error).__name__, exc_info=error)
