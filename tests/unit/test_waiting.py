"""The queue in front of an engine, as a model that hypothesis tries to break."""

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from edge_agent.engine.waiting import Ticket, Waiting
from edge_agent.errors import QueueFull

SEQUENCES_MAX = 3


def queue(limit: int, *job_ids: str) -> Waiting:
    """Return a queue with these jobs, due at time 10."""
    waiting = Waiting(limit)
    for job_id in job_ids:
        waiting.add(Ticket(job_id, deadline=10.0))
    return waiting


def started(waiting: Waiting, running: list[Ticket], running_max: int = SEQUENCES_MAX) -> str | None:
    """Start a job; return its id."""
    ticket = waiting.next(running, running_max)
    return ticket.job_id if ticket else None


class QueueMachine(RuleBasedStateMachine):
    """A queue, an engine that runs jobs and crashes, and a plain list that says what the queue must hold."""

    @initialize(limit=st.integers(0, 5))
    def make(self, limit):
        self.waiting, self.limit = Waiting(limit), limit
        self.expected: deque[Ticket] = deque()
        self.running: list[Ticket] = []
        self.made = 0

    def fresh_waiting(self) -> int:
        return sum(not ticket.alone for ticket in self.expected)

    @rule(deadline=st.integers(0, 10))
    def add(self, deadline):
        self.made += 1
        ticket = Ticket(f"job-{self.made}", float(deadline))
        if self.fresh_waiting() >= self.limit:
            with pytest.raises(QueueFull):
                self.waiting.add(ticket)
        else:
            self.waiting.add(ticket)
            self.expected.append(ticket)

    @rule(jobs=st.integers(1, 6))
    def reserve(self, jobs):
        if self.fresh_waiting() + jobs > self.limit:
            with pytest.raises(QueueFull):
                self.waiting.reserve(jobs)
        else:
            self.waiting.reserve(jobs)

    @rule()
    def start(self):
        ticket = self.waiting.next(list(self.running), SEQUENCES_MAX)
        if ticket is None:
            head_alone = bool(self.expected) and self.expected[0].alone
            busy = any(running.alone for running in self.running) or len(self.running) == SEQUENCES_MAX
            assert not self.expected or busy or (head_alone and self.running)
        else:
            assert self.expected.popleft() is ticket
            self.running.append(ticket)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        self.running.remove(data.draw(st.sampled_from(self.running)))

    @rule()
    def crash(self):
        self.waiting.put_back(list(self.running))
        self.expected.extendleft(reversed(self.running))
        self.running.clear()

    @rule(now=st.integers(0, 11))
    def expire(self, now):
        late = [ticket for ticket in self.expected if ticket.deadline <= now]
        assert late == self.waiting.expired(float(now))
        self.expected = deque(ticket for ticket in self.expected if ticket.deadline > now)

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def discard(self, data):
        job_id = f"job-{data.draw(st.integers(1, self.made))}"
        here = any(ticket.job_id == job_id for ticket in self.expected)
        assert here == self.waiting.discard(job_id)
        self.expected = deque(ticket for ticket in self.expected if ticket.job_id != job_id)

    @rule()
    def drain(self):
        assert list(self.expected) == self.waiting.drain()
        self.expected.clear()

    @invariant()
    def bounded(self):
        assert len(self.expected) == len(self.waiting)
        assert self.fresh_waiting() <= self.limit

    @invariant()
    def alone_is_alone(self):
        assert len(self.running) == 1 or not any(ticket.alone for ticket in self.running)


QueueMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestQueueMachine = QueueMachine.TestCase


def test_first_come_first_served():
    """Jobs start in the order they came, while the engine has room."""
    waiting = queue(5, "a", "b", "c")
    running = [Ticket("x", 10.0)]
    assert ["a", "b", "c"] == [started(waiting, running) for _ in range(3)]
    assert started(waiting, running) is None
    assert started(queue(1, "a"), running, running_max=1) is None


def test_a_full_queue_says_how_full():
    """The refusal has the number waiting, the number wanted and the limit, and when to try again."""
    with pytest.raises(QueueFull, match="2 inputs are waiting and 3 more do not fit; the limit is 4") as caught:
        queue(4, "a", "b").reserve(3)
    assert {"waiting": "2", "limit": "4"} == caught.value.metadata
    assert caught.value.retry_seconds > 0


def test_reserve_takes_nothing():
    """Asking for room changes nothing, whether there is room or not."""
    waiting = queue(2, "a")
    waiting.reserve(1)
    waiting.reserve(1)
    with pytest.raises(QueueFull):
        waiting.reserve(2)
    assert 1 == len(waiting)


def test_a_job_put_back_runs_alone():
    """After a crash each job that was in flight runs alone, before everything else."""
    waiting = queue(5, "later")
    waiting.put_back([Ticket("a", 10.0), Ticket("b", 10.0)])
    assert started(waiting, [Ticket("still running", 10.0)]) is None
    first = waiting.next([], SEQUENCES_MAX)
    assert first == Ticket("a", 10.0, alone=True)
    assert started(waiting, [first]) is None
    second = waiting.next([], SEQUENCES_MAX)
    assert second == Ticket("b", 10.0, alone=True)
    assert started(waiting, [second]) is None
    assert "later" == started(waiting, [])


def test_jobs_put_back_do_not_count():
    """A full queue takes jobs back, and they leave the room of new ones as it was."""
    waiting = queue(2, "c")
    waiting.put_back([Ticket(str(i), 10.0) for i in range(10)])
    waiting.add(Ticket("d", 10.0))
    assert 12 == len(waiting)
    with pytest.raises(QueueFull):
        waiting.add(Ticket("e", 10.0))


@pytest.mark.parametrize(("now", "late"), [(1.9, []), (2.0, ["b"]), (9.0, ["b", "c"]), (99.0, ["b", "a", "c"])])
def test_a_late_job_is_handed_back(now, late):
    """A job whose deadline is now or was before now is removed; the others keep their order."""
    waiting = Waiting(3)
    for job_id, deadline in (("b", 2.0), ("a", 10.0), ("c", 9.0)):
        waiting.add(Ticket(job_id, deadline))
    assert late == [ticket.job_id for ticket in waiting.expired(now)]
    assert [job_id for job_id in "bac" if job_id not in late] == [ticket.job_id for ticket in waiting.drain()]
    assert 0 == len(waiting)
