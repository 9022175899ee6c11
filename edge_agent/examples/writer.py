"""The one thread that writes examples: groups of answers are redacted and committed together, off every call's way.

A call only puts its answer into a queue, bounded in number and bytes; what does not fit is dropped and counted. The
writer sleeps until there is something, lets a group gather for `commit_seconds`, and commits it once. A job (feedback,
a look at the review queue) does not wait for the group: it wakes the writer, and has its result when it is on the disk.

Between groups the writer keeps house: it ends windows, seals, reads receipts. When the disk fails, answers are given up
before feedback is refused, and feedback is never acknowledged that is not on the disk.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import structlog

from edge_agent.errors import DiskFull, EdgeAgentError, SiteError
from edge_agent.examples.bills import Bills
from edge_agent.examples.house import House
from edge_agent.examples.records import Answered
from edge_agent.examples.spool import Kept

log = structlog.get_logger("edge_agent.examples")

HOUSEKEEPING_SECONDS = 1.0


@dataclass(frozen=True)
class Limits:
    """What may wait, and how long."""

    examples_max: int
    bytes_max: int
    group_max: int
    group_seconds: float
    characters_max: int


@dataclass
class _Job:
    """Work for the writer's thread, inside its transaction; or outside of it, for what has transactions of its own."""

    work: Callable[[House], Any]
    alone: bool
    future: Future[Any] = field(default_factory=Future)


class Writer:
    """Owns the spool through a `House`, which is opened in the thread."""

    def __init__(self, open_house: Callable[[], House], limits: Limits) -> None:
        """Prepare; `start` begins."""
        self._open_house, self._limits = open_house, limits
        self._queue: deque[tuple[Answered, float] | _Job] = deque()
        self._awake, self._hurry = threading.Event(), threading.Event()
        self._stopping = False
        # Each is written by one thread only.
        self._put, self._put_bytes, self._taken, self._taken_bytes = 0, 0, 0, 0
        self._dropped: Counter[str] = Counter()  # by the callers' thread
        self._failed: Counter[str] = Counter()  # by the writer's
        self._counted: Counter[str] = Counter()
        self._house: House | None = None
        self.bills = Bills()
        self.problem: EdgeAgentError | None = None
        """Why nothing can be kept now."""
        self._thread = threading.Thread(target=self._run, name="examples", daemon=True)

    def start(self) -> None:
        """Open the spool and begin."""
        self._thread.start()

    def stop(self) -> None:
        """Write what waits, and end."""
        self._stopping = True
        self._hurry.set()
        self._awake.set()
        self._thread.join()

    def keep(self, answered: Answered) -> None:
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
            if not self._awake.is_set():
                self._awake.set()

    def _full(self, size: int, room: int) -> bool:
        """Tell whether so many more characters do not fit. A sample has twice the room, lest load thin it out."""
        count, waiting = self._put - self._taken, self._put_bytes + size - self._taken_bytes
        return count >= room * self._limits.examples_max or waiting > room * self._limits.bytes_max

    def submit(self, work: Callable[[House], Any], *, alone: bool = False) -> Future[Any]:
        """Do something with the spool as soon as possible; the result is there when it is on the disk."""
        job = _Job(work, alone)
        self._queue.append(job)
        self._hurry.set()
        self._awake.set()
        return job.future

    @property
    def waiting(self) -> int:
        """Answers in the queue."""
        return self._put - self._taken

    @property
    def questions_waiting(self) -> int:
        """Questions for the large model in the spool, about."""
        house = self._house
        return house.questions.waiting if house else 0

    def _run(self) -> None:
        while not self._stopping:
            self._awake.wait(HOUSEKEEPING_SECONDS)
            if self._queue:
                self._hurry.wait(self._limits.group_seconds)
            self._hurry.clear()
            self._awake.clear()
            self._round()
        self._round()
        if self._house:
            self._house.close()

    def _round(self) -> None:
        house = self._opened()
        while self._queue:
            group = [self._queue.popleft() for _ in range(min(len(self._queue), self._limits.group_max))]
            self._write(house, group)
        if house:
            self._count(house)
            self._guarded(lambda: self.bills.settle(house.paid))
            self._guarded(house.keep)

    def _opened(self) -> House | None:
        if self._house is None:
            try:
                self._house = self._open_house()
                self.problem = None
            except EdgeAgentError as error:
                if self.problem is None:
                    log.error("examples_not_kept", reason=error.reason, message=error.message)
                self.problem = error
        return self._house

    def _write(self, house: House | None, group: list[tuple[Answered, float] | _Job]) -> None:
        jobs = [item for item in group if isinstance(item, _Job)]
        answers = [item for item in group if not isinstance(item, _Job)]
        if house is None:
            self._give_up(jobs, answers, self.problem)
        else:
            kept = self._records(house, answers)
            self._count(house)
            self._commit(house, kept, [job for job in jobs if not job.alone])
            for job in jobs:
                if job.alone:
                    self._settle([(job, self._outcome(job, house))])
        self._taken += len(answers)
        self._taken_bytes += sum(len(answered.text) for answered, _ in answers)

    def _count(self, house: House) -> None:
        """Hand over what was dropped since the last time; it is on the disk with the next commit."""
        total = Counter(self._dropped) + self._failed
        house.spool.counters.update(total - self._counted)
        self._counted = total

    def _records(self, house: House, answers: list[tuple[Answered, float]]) -> list[Kept]:
        kept = []
        for answered, seconds in answers:
            try:
                kept.append(house.recorder.prediction(answered, seconds))
            except Exception as error:  # noqa: BLE001 - one example must not stop all others
                log.error("example_dropped", error=type(error).__name__, task=answered.manifest.task.name)
                self._failed["dropped_failed"] += 1
        return kept

    def _commit(self, house: House, kept: list[Kept], jobs: list[_Job]) -> None:
        """Commit a group once; when the disk fails, again without the answers; at last, tell the jobs."""
        if not kept and not jobs:
            return
        try:
            self._settle(self._group(house, kept, jobs))
        except EdgeAgentError as error:
            self._failed["dropped_disk"] += len(kept)
            self._after_failure(house, error)
            self._try_again(house, jobs, error)

    def _try_again(self, house: House, jobs: list[_Job], error: EdgeAgentError) -> None:
        house = self._opened() or house
        if self._house is None:
            self._give_up(jobs, [], error)
        elif jobs:
            try:
                self._settle(self._group(house, [], jobs))
            except EdgeAgentError as again:
                self._after_failure(house, again)
                self._give_up(jobs, [], again)

    def _after_failure(self, house: House, error: EdgeAgentError) -> None:
        log.error("examples_not_written", reason=error.reason, message=error.message)
        if isinstance(error, DiskFull):
            self._guarded(house.make_room)
        else:
            # What the disk holds after a failed sync is not known: read it again instead of trusting memory.
            self._house = None
            self._guarded(house.close)

    def _group(self, house: House, kept: list[Kept], jobs: list[_Job]) -> list[tuple[_Job, Any]]:
        with house.spool.transaction():
            house.add(kept)
            return [(job, self._outcome(job, house)) for job in jobs]

    def _outcome(self, job: _Job, house: House) -> Any:
        """Run a job; what it refuses is its outcome. A failing disk ends the whole transaction instead."""
        try:
            return job.work(house)
        except EdgeAgentError as error:
            if isinstance(error, SiteError) and house.spool.db.in_transaction:
                raise
            return error

    def _settle(self, outcomes: list[tuple[_Job, Any]]) -> None:
        for job, outcome in outcomes:
            if isinstance(outcome, EdgeAgentError):
                job.future.set_exception(outcome)
            else:
                job.future.set_result(outcome)

    def _give_up(self, jobs: list[_Job], answers: list[tuple[Answered, float]], error: EdgeAgentError | None) -> None:
        self._failed["dropped_disk"] += len(answers)
        self._settle([(job, error or EdgeAgentError("examples are not kept here")) for job in jobs])

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except EdgeAgentError as error:
            log.error("examples_housekeeping_failed", reason=error.reason, message=error.message)
