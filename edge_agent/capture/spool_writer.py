"""The thread of the spool: redacts and commits groups of answers, so that no call waits for the disk.

A call only puts its answer into a queue, which is bounded in number and bytes; answers beyond it are dropped and
counted. The writer gathers a group for `group_seconds` and commits it once. A job (feedback, a page of the review
queue) ends the gathering: it is committed together with all queued answers, and its result is returned when they are on
the disk. A job whose caller was cancelled while it waited is dropped.

Between groups the writer does the housekeeping of its `SpoolWorker`. When the disk fails, answers are dropped before
feedback is refused, and feedback is never acknowledged before it is on the disk. While the disk stalls, the queue fills
up, and `stalled_seconds` reports it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import structlog

from edge_agent.durable.disk_thread import DiskThread
from edge_agent.errors import DiskFull, Draining, EdgeAgentError, SiteError, SpoolStalled

if TYPE_CHECKING:
    from edge_agent.capture.capture_values import CapturedAnswer
    from edge_agent.capture.spool import PredictionRecord
    from edge_agent.capture.spool_worker import SpoolWorker
    from edge_agent.monitoring.monitoring_store import Charge

log = structlog.get_logger("edge_agent.capture")

JOBS_MAX = 1000
"""Jobs that can wait; further callers are refused."""
STOP_SECONDS_MAX = 15.0
"""For the last writes: a stalled disk must not keep the daemon from stopping."""


PENDING_CHARGES_MAX = 10_000
"""Charges kept while nothing can be written; beyond that, the oldest are dropped."""


@dataclass(frozen=True)
class CaptureLimits:
    """Bounds of the queue and of a group."""

    examples_max: int
    bytes_max: int
    group_max: int
    group_seconds: float
    characters_max: int


@dataclass
class _SpoolJob:
    """Work in the group's transaction; `alone`: outside of it, for work with transactions of its own."""

    work: Callable[[SpoolWorker], Any]
    alone: bool
    future: Future[Any] | None = None
    done: bool = False
    result: Any = None
    error: Exception | None = None

    @property
    def is_abandoned(self) -> bool:
        """Whether its caller was cancelled before the job began."""
        return self.future is not None and self.future.cancelled()

    def end(self, result: Any = None, error: Exception | None = None) -> None:
        """Record the outcome."""
        self.done, self.result, self.error = True, result, error


_QueuedAnswer: TypeAlias = "tuple[CapturedAnswer, float]"
"""An answer with its arrival time, in seconds since 1970."""


class PendingCharges:
    """Charges for questions to the large model that are not in the database yet. One thread adds, another one writes.

    The uplink keeps the spend and its limits; these charges only assign it to tasks. A kill can lose a second of them.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._waiting: deque[tuple[str, float, int]] = deque(maxlen=PENDING_CHARGES_MAX)

    def add(self, task: str, micros: int) -> None:
        """Add the price of a question, in millionths of the currency of the prices."""
        self._waiting.append((task, time.time(), micros))

    def settle(self, write: Callable[[list[Charge]], None]) -> None:
        """Write the pending charges; after a failure they stay pending."""
        charges = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not charges:
            return
        # Only the thread of the spool loads what it writes to.
        from edge_agent.monitoring.monitoring_store import Charge  # noqa: PLC0415

        try:
            write([Charge(*each) for each in charges])
        except BaseException:
            self._waiting.extendleft(reversed(charges))
            raise


class SpoolQueue:
    """Answers and jobs in order, until they are written: one thread puts them, the spool's thread takes them."""

    def __init__(self, limits: CaptureLimits) -> None:
        """Start empty."""
        self._limits = limits
        self._items: deque[_QueuedAnswer | _SpoolJob] = deque()
        # Each counter is written by one thread only.
        self._answers_put, self._bytes_put, self._answers_taken, self._bytes_taken = 0, 0, 0, 0
        self._jobs_put, self._jobs_taken = 0, 0
        self.dropped: Counter[str] = Counter()
        """Answers that were not queued, by the name of their counter in the spool."""

    def __len__(self) -> int:
        """Number of items that were not taken yet."""
        return len(self._items)

    @property
    def answers(self) -> int:
        """Number of answers that are not written yet."""
        return self._answers_put - self._answers_taken

    def put_answer(self, answer: CapturedAnswer) -> bool:
        """Queue an answer if it fits; return whether it did. The audit has twice the room, so load does not bias it."""
        size, room = answer.size, 2 if answer.later == "audit" else 1
        if len(answer.text) > self._limits.characters_max:
            self.dropped["dropped_too_long"] += 1
            return False
        waiting = self._bytes_put + size - self._bytes_taken
        if self.answers >= room * self._limits.examples_max or waiting > room * self._limits.bytes_max:
            self.dropped["dropped_queue_full"] += 1
            return False
        self._answers_put += 1
        self._bytes_put += size
        self._items.append((answer, time.time()))
        return True

    def put_job(self, job: _SpoolJob) -> None:
        """Queue a job. Raises SpoolStalled if too many wait already."""
        if (waiting := self._jobs_put - self._jobs_taken) >= JOBS_MAX:
            raise SpoolStalled(f"{waiting} calls wait for the disk already", retry_seconds=5.0, waiting=waiting)
        self._jobs_put += 1
        self._items.append(job)

    def take_group(self) -> tuple[list[_QueuedAnswer], list[_SpoolJob]]:
        """Take the next group; `record_written` frees its room."""
        group = [self._items.popleft() for _ in range(min(len(self._items), self._limits.group_max))]
        jobs = [item for item in group if isinstance(item, _SpoolJob)]
        return [item for item in group if not isinstance(item, _SpoolJob)], jobs

    def record_written(self, answers: list[_QueuedAnswer], jobs: list[_SpoolJob]) -> None:
        """Free the room of a group, whether it was written or not."""
        self._jobs_taken += len(jobs)
        self._answers_taken += len(answers)
        self._bytes_taken += sum(answer.size for answer, _ in answers)


class GroupCommit:
    """Commits groups of answers and jobs, on the spool's thread, and owns the `SpoolWorker`, which it opens there.

    A group is one transaction. If it fails, answers are lost before jobs are; a job that raises affects no other one.
    """

    def __init__(self, open_worker: Callable[[], SpoolWorker], queue_drops: Counter[str]) -> None:
        """Prepare; `queue_drops` counts the answers that were not queued, which the spool's counters include."""
        self._open_worker, self._queue_drops = open_worker, queue_drops
        self._failed_drops: Counter[str] = Counter()
        self._counted_drops: Counter[str] = Counter()
        self.worker: SpoolWorker | None = None
        """None before the first opening and after a failure of the disk."""
        self.problem: EdgeAgentError | None = None
        """Why nothing can be stored now; None = storing works."""

    def ensure_worker(self) -> SpoolWorker | None:
        """Return the worker, opened if necessary; None = it cannot be opened now, see `problem`."""
        if self.worker is None:
            try:
                self.worker = self._open_worker()
                self.problem = None
            except EdgeAgentError as error:
                if self.problem is None:
                    log.error("examples_not_kept", reason=error.reason, message=error.message)
                self.problem = error
        return self.worker

    def count_drops(self, worker: SpoolWorker) -> None:
        """Add the drops since the last call to the spool's counters; the next commit writes them."""
        total = Counter(self._queue_drops) + self._failed_drops
        worker.spool.counters.update(total - self._counted_drops)
        self._counted_drops = total

    def write(self, answers: list[_QueuedAnswer], jobs: list[_SpoolJob]) -> None:
        """Write a group. Whatever is raised, each of its jobs is done afterwards."""
        try:
            self._write(answers, [job for job in jobs if not job.is_abandoned])
        except Exception as error:
            log.exception("examples_group_failed", error=type(error).__name__)
            for job in jobs:
                if not job.done:
                    job.end(error=error)

    def close(self) -> None:
        """Close the spool."""
        if self.worker:
            self.worker.close()

    def _write(self, answers: list[_QueuedAnswer], jobs: list[_SpoolJob]) -> None:
        worker = self.ensure_worker()
        if worker is None:
            self._give_up(jobs, answers, self.problem)
            return
        records = self._build_records(worker, answers)
        self.count_drops(worker)
        self._commit(worker, records, [job for job in jobs if not job.alone])
        for job in jobs:
            if job.alone:
                _end_jobs([(job, _outcome(job, worker))])

    def _build_records(self, worker: SpoolWorker, answers: list[_QueuedAnswer]) -> list[PredictionRecord]:
        records = []
        for answer, seconds in answers:
            try:
                records.append(worker.recorder.build_prediction(answer, seconds))
            except Exception as error:  # noqa: BLE001 - one example must not stop all others
                log.error("example_dropped", error=type(error).__name__, task=answer.manifest.task.name)
                self._failed_drops["dropped_failed"] += 1
        return records

    def _commit(self, worker: SpoolWorker, records: list[PredictionRecord], jobs: list[_SpoolJob]) -> None:
        """Commit a group; if the disk fails, try again without the answers; if that fails, fail the jobs."""
        if not records and not jobs:
            return
        try:
            _commit_together(worker, records, jobs)
        except EdgeAgentError as error:
            self._failed_drops["dropped_disk"] += len(records)
            self._after_failure(worker, error)
            self._retry_jobs(worker, jobs, error)
        except Exception as error:
            log.exception("examples_group_failed", error=type(error).__name__)
            self._commit_separately(worker, records, jobs)

    def _commit_separately(self, worker: SpoolWorker, records: list[PredictionRecord], jobs: list[_SpoolJob]) -> None:
        """Commit the answers and each job separately, so that only what raises again is lost."""
        self._commit_answers(worker, records)
        for job in jobs:
            try:
                _commit_together(worker, [], [job])
            except Exception as error:  # noqa: BLE001 - its caller is told
                job.end(error=error)

    def _commit_answers(self, worker: SpoolWorker, records: list[PredictionRecord]) -> None:
        """Commit answers; on an error, halve them recursively, so that only those that raise are lost."""
        try:
            _commit_together(worker, records, [])
        except EdgeAgentError:
            self._failed_drops["dropped_disk"] += len(records)
        except Exception:  # noqa: BLE001 - logged the first time
            if len(records) <= 1:
                self._failed_drops["dropped_failed"] += len(records)
                return
            self._commit_answers(worker, records[: len(records) // 2])
            self._commit_answers(worker, records[len(records) // 2 :])

    def _retry_jobs(self, worker: SpoolWorker, jobs: list[_SpoolJob], error: EdgeAgentError) -> None:
        worker = self.ensure_worker() or worker
        if self.worker is None:
            self._give_up(jobs, [], error)
        elif jobs:
            try:
                _commit_together(worker, [], jobs)
            except EdgeAgentError as retry_error:
                self._after_failure(worker, retry_error)
                self._give_up(jobs, [], retry_error)

    def _after_failure(self, worker: SpoolWorker, error: EdgeAgentError) -> None:
        log.error("examples_not_written", reason=error.reason, message=error.message)
        if isinstance(error, DiskFull):
            _log_site_errors(worker.free_disk_space)
        else:
            # After a failed sync the disk's content is unknown: read it again instead of trusting memory.
            self.worker = None
            _log_site_errors(worker.close)

    def _give_up(self, jobs: list[_SpoolJob], answers: list[_QueuedAnswer], error: EdgeAgentError | None) -> None:
        self._failed_drops["dropped_disk"] += len(answers)
        _end_jobs([(job, error or EdgeAgentError("examples are not kept here")) for job in jobs])


def _commit_together(worker: SpoolWorker, records: list[PredictionRecord], jobs: list[_SpoolJob]) -> None:
    with worker.spool.transaction():
        worker.store_predictions(records)
        outcomes = [(job, _outcome(job, worker)) for job in jobs]
    _end_jobs(outcomes)


def _outcome(job: _SpoolJob, worker: SpoolWorker) -> Any:
    """Run a job; return its result or its error. A disk error is raised instead, to end the whole transaction."""
    try:
        return job.work(worker)
    except EdgeAgentError as error:
        if isinstance(error, SiteError) and worker.spool.db.in_transaction:
            raise
        return error


def _end_jobs(outcomes: list[tuple[_SpoolJob, Any]]) -> None:
    for job, outcome in outcomes:
        if isinstance(outcome, EdgeAgentError):
            job.end(error=outcome)
        else:
            job.end(outcome)


class SpoolWriter:
    """Owns the thread, which writes the queue when a group is complete and does the housekeeping between groups."""

    def __init__(
        self,
        open_worker: Callable[[], SpoolWorker],
        limits: CaptureLimits,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; `start` starts the thread."""
        self._group_seconds, self._monotonic = limits.group_seconds, monotonic
        self._queue = SpoolQueue(limits)
        self._groups = GroupCommit(open_worker, self._queue.dropped)
        self._wake = threading.Event()
        self._gathering = False
        self.charges = PendingCharges()
        self._thread: DiskThread | None = None

    def start(self) -> None:
        """Start the thread and open the spool."""
        self._thread, self._gathering = DiskThread("examples", self._monotonic), True
        self._submit_unawaited(self._do_housekeeping)
        self._submit_unawaited(self._gather)

    def stop(self, seconds_max: float = STOP_SECONDS_MAX) -> bool:
        """Write the queue and stop; return whether the disk finished in time."""
        thread, self._thread = self._thread, None
        if thread is None:
            return True
        self._wake.set()
        thread.submit(self._close).add_done_callback(_log_failure)
        in_time = thread.stop(seconds_max)
        if not in_time:
            log.error("examples_not_closed", seconds=seconds_max, answers=self.queued_answers)
        return in_time

    def queue_answer(self, answer: CapturedAnswer) -> None:
        """Queue an answer; only one thread calls this. Never waits, never fails."""
        # Checked after queueing, so that an answer that the ending round misses starts the next one.
        if self._queue.put_answer(answer) and not self._gathering and self._thread is not None:
            self._gathering = True
            self._submit_unawaited(self._gather)

    def submit(self, work: Callable[[SpoolWorker], Any], *, alone: bool = False) -> Future[Any]:
        """Run work on the spool as soon as possible; the result is available when it is on the disk.

        Raises:
            SpoolStalled: too many jobs wait already.
            Draining: the writer was stopped.
        """
        if self._thread is None:
            raise Draining("the daemon is stopping, so examples are not kept or shown any more")
        job = _SpoolJob(work, alone)
        self._queue.put_job(job)
        self._wake.set()
        job.future = self._thread.submit(self._finish_job, job)
        return job.future

    @property
    def problem(self) -> EdgeAgentError | None:
        """Why nothing can be stored now; None = storing works."""
        return self._groups.problem

    @property
    def queued_answers(self) -> int:
        """Number of answers in the queue."""
        return self._queue.answers

    @property
    def dropped_answers(self) -> int:
        """Number of answers since the start that did not fit into the queue."""
        return self._queue.dropped["dropped_queue_full"]

    @property
    def stalled_seconds(self) -> float:
        """How long the disk has taken for the current work, in seconds; 0 = it is idle."""
        return self._thread.stalled_seconds if self._thread else 0.0

    @property
    def questions_waiting(self) -> int:
        """Approximate number of questions for the large model in the spool."""
        worker = self._groups.worker
        return worker.questions.count if worker else 0

    def run_housekeeping(self) -> Future[None]:
        """Do the housekeeping after all submitted work. Raises Draining."""
        if self._thread is None:
            raise Draining("the daemon is stopping")
        return self._thread.submit(self._do_housekeeping)

    # --- on the thread -------------------------------------------------------------------------------------------

    def _submit_unawaited(self, work: Callable[[], None]) -> None:
        """Submit work that no caller awaits; after `stop`, `_close` does it."""
        thread = self._thread
        with contextlib.suppress(RuntimeError):  # stopped meanwhile
            if thread is not None:
                thread.submit(work).add_done_callback(_log_failure)

    def _gather(self) -> None:
        """Wait until a group is complete, and write everything that is queued."""
        thread = self._thread
        with thread.resting() if thread else contextlib.nullcontext():
            self._wake.wait(self._group_seconds)
        self._wake.clear()
        self._gathering = False
        left = len(self._queue)
        while left > 0:
            left -= self._write_next()
        self._submit_unawaited(self._do_housekeeping)

    def _finish_job(self, job: _SpoolJob) -> Any:
        """Write the queue up to a job, unless that has happened; return or raise its outcome."""
        while not job.done and self._write_next():
            pass
        assert job.done, "a job is in the queue until it is done"
        if job.error is not None:
            raise job.error
        return job.result

    def _write_next(self) -> int:
        """Write the group at the head of the queue; return its length."""
        answers, jobs = self._queue.take_group()
        try:
            self._groups.write(answers, jobs)
        finally:
            self._queue.record_written(answers, jobs)
        return len(answers) + len(jobs)

    def _do_housekeeping(self) -> None:
        """Do what is due between groups. Errors other than EdgeAgentError are raised: they are bugs."""
        worker = self._groups.ensure_worker()
        if worker:
            self._groups.count_drops(worker)
            _log_site_errors(lambda: self.charges.settle(worker.store_charges))
            _log_site_errors(worker.do_housekeeping)

    def _close(self) -> None:
        while self._queue:
            self._write_next()
        try:
            self._do_housekeeping()
        finally:
            self._groups.close()


def _log_site_errors(work: Callable[[], None]) -> None:
    try:
        work()
    except EdgeAgentError as error:
        log.error("examples_housekeeping_failed", reason=error.reason, message=error.message)


def _log_failure(future: Future[None]) -> None:
    """Log an exception that no caller awaits."""
    if not future.cancelled() and (error := future.exception()) is not None:
        log.error("examples_housekeeping_failed", error=type(error).__name__, exc_info=error)
