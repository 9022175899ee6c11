"""The queue in front of an engine: bounded, in turn, one at a time after a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.engine.waiting import PRIORITY_SECONDS, Ticket, Waiting
from edge_agent.errors import QueueFull, ShareExceeded

LIMIT = 4
RUNNING_MAX = 2


def ids(tickets: list[Ticket]) -> list[str]:
    return [ticket.job_id for ticket in tickets]


def take_all(waiting: Waiting) -> list[Ticket]:
    taken = []
    while ticket := waiting.next([], 1):
        taken.append(ticket)
    return taken


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3)), max_size=20))
def test_jobs_start_in_turn(arrivals: list[tuple[float, int]]) -> None:
    """A job starts as if it had come a second later for each step of priority; equals keep their order."""
    waiting = Waiting(len(arrivals))
    tickets = [Ticket(str(i), came_at, priority) for i, (came_at, priority) in enumerate(arrivals)]
    for ticket in tickets:
        waiting.add(ticket)
    expected = sorted(tickets, key=lambda ticket: ticket.came_at + ticket.priority * PRIORITY_SECONDS)
    assert ids(expected) == ids(take_all(waiting))


@given(st.integers(0, 10), st.floats(0, 1000))
def test_nobody_is_overtaken_for_ever(priority: int, came_at: float) -> None:
    """Whoever comes more than `priority` seconds later starts later, whatever its own priority."""
    patient = Ticket("patient", came_at, priority)
    late = Ticket("late", came_at + priority * PRIORITY_SECONDS + 0.001, 0)
    waiting = Waiting(2)
    waiting.add(late)
    waiting.add(patient)
    assert ["patient", "late"] == ids(take_all(waiting))


def test_a_request_is_taken_whole_or_not_at_all() -> None:
    """Five inputs do not fit where four do, and the refusal has the numbers."""
    waiting = Waiting(LIMIT)
    with waiting.reserve(LIMIT):
        pass
    with pytest.raises(QueueFull, match="0 inputs are waiting and 5 more do not fit; the limit is 4") as caught:
        waiting.reserve(LIMIT + 1)
    assert {"waiting": "0", "limit": "4"} == caught.value.metadata


class Queue(RuleBasedStateMachine):
    """Random calls against two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = Waiting(LIMIT)
        self.queued: list[str] = []
        self.again: list[str] = []
        self.alone: set[str] = set()
        self.running: list[Ticket] = []
        self.count = 0

    @rule()
    def add(self) -> None:
        """A new job is taken while there is room."""
        self.count += 1
        ticket = Ticket(str(self.count), float(self.count))
        if len(self.queued) < LIMIT:
            self.waiting.add(ticket)
            self.queued.append(ticket.job_id)
        else:
            with pytest.raises(QueueFull):
                self.waiting.add(ticket)

    @rule()
    def start(self) -> None:
        """The next job is the first that a crash put back, and it runs alone; otherwise the oldest."""
        alone = any(ticket.alone for ticket in self.running)
        ticket = self.waiting.next(self.running, RUNNING_MAX)
        must_wait = bool(self.running) and bool(self.again) and self.again[0] in self.alone
        if alone or len(self.running) == RUNNING_MAX or must_wait:
            assert ticket is None
        elif self.again or self.queued:
            assert ticket is not None
            assert (self.again or self.queued).pop(0) == ticket.job_id
            self.running.append(ticket)
        else:
            assert ticket is None

    @precondition(lambda self: self.running)
    @rule()
    def finish(self) -> None:
        """A running job ends."""
        self.running.pop()

    @rule(alone=st.booleans())
    def crash(self, alone: bool) -> None:
        """Everything in flight comes back to the front; what may be the cause runs alone from then on."""
        self.waiting.put_back(self.running, alone=alone)
        self.again[:0] = ids(self.running)
        self.alone |= {ticket.job_id for ticket in self.running if alone}
        self.running = []

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller goes away."""
        if everyone := self.again + self.queued:
            job_id = data.draw(st.sampled_from(everyone))
            assert self.waiting.discard(job_id)
            (self.again if job_id in self.again else self.queued).remove(job_id)
        assert not self.waiting.discard("nobody")

    @invariant()
    def counted(self) -> None:
        """The length is that of both lists; what was put back is over the limit if need be."""
        assert len(self.again) + len(self.queued) == len(self.waiting)
        assert len(self.queued) <= LIMIT


TestQueue = Queue.TestCase


def test_clear_forgets_everything() -> None:
    """Waiting jobs and those put back are gone."""
    waiting = Waiting(LIMIT)
    waiting.add(Ticket("a", 0.0))
    waiting.put_back([Ticket("b", 0.0)], alone=True)
    waiting.clear()
    assert (0, None) == (len(waiting), waiting.next([], 1))


def test_clients_take_turns() -> None:
    """Whoever has one job waiting is not behind all of a client that has many."""
    waiting = Waiting(30)
    for number in range(30):
        waiting.add(Ticket(f"noisy-{number}", number, client="noisy"))
    for number in range(3):
        waiting.add(Ticket(f"quiet-{number}", 100, client="quiet"))
    started = ids(take_all(waiting))
    assert ["noisy-0", "quiet-0", "noisy-1", "quiet-1", "noisy-2", "quiet-2", "noisy-3"] == started[:7]
    assert [f"noisy-{number}" for number in range(30)] == [each for each in started if each.startswith("noisy")]


def test_a_client_with_its_share_is_refused_and_another_is_not() -> None:
    """With a reason of its own; what is discarded or started makes room."""
    waiting = Waiting(12)
    for number in range(12):
        waiting.add(Ticket(str(number), 0, client="noisy"))
    with pytest.raises(QueueFull, match="12 inputs are waiting and 1 more do not fit; the limit is 12"):
        waiting.reserve(1, "noisy")
    with waiting.reserve(4, "quiet"):
        pass
    waiting.add(Ticket("q", 0, client="quiet"))
    with pytest.raises(ShareExceeded, match="12 inputs of noisy are waiting, 1 of others"):
        waiting.reserve(1, "noisy")
    for number in range(4):
        assert waiting.discard(str(number))
    with waiting.reserve(1, "noisy"):
        waiting.clear()
    waiting.reserve(12, "noisy")


def test_two_requests_do_not_get_the_same_places() -> None:
    """What is reserved for the inputs of one request is not there for another, and is given back if nobody uses it."""
    waiting = Waiting(LIMIT)
    with waiting.reserve(3, "a") as places:
        with pytest.raises(QueueFull, match="3 inputs are waiting and 4 more do not fit"):
            waiting.reserve(4, "b")
        with pytest.raises(QueueFull):
            waiting.reserve(2, "a")
        assert 0 == len(waiting)
        waiting.add(Ticket("1", 0, client="a"), places)
        assert 2 == places.places
    assert (0, 1) == (places.places, len(waiting))
    with waiting.reserve(3, "a"):
        pass


def test_a_reserved_place_is_taken_by_one_job() -> None:
    """As many jobs as there are places get in, whatever came in between; the next one needs room like any other."""
    waiting = Waiting(LIMIT)
    with waiting.reserve(LIMIT, "a") as places:
        for number in range(LIMIT):
            waiting.add(Ticket(str(number), 0, client="a"), places)
        with pytest.raises(QueueFull):
            waiting.add(Ticket("more", 0, client="a"), places)
    assert LIMIT == len(waiting)


def test_a_place_in_one_queue_is_none_in_another() -> None:
    """A job that comes to another engine than the one where its place is needs room there."""
    here, there = Waiting(1), Waiting(1)
    there.add(Ticket("first", 0, client="a"))
    with here.reserve(1, "a") as places, pytest.raises(QueueFull):
        there.add(Ticket("second", 0, client="a"), places)
    here.add(Ticket("third", 0, client="a"))
