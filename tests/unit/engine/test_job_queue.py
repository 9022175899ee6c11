"""The queue in front of an engine: bounded, fair between clients, one job at a time after a crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from edge_agent.engine.job_queue import (
    CLIENTS_MAX,
    PRIORITY_SECONDS,
    SHARE_OF_FREE_MAX,
    TURN_ROWS,
    TURNS_MIN,
    FairRounds,
    JobQueue,
    Ticket,
    has_share_for,
    places_for_all,
    places_of_one_client,
    turns_for_rows,
)
from edge_agent.errors import QueueFull, ShareExceeded

LIMIT = 4
RUNNING_MAX = 2


def ids(tickets: list[Ticket]) -> list[str]:
    return [ticket.job_id for ticket in tickets]


def take_all(waiting: JobQueue) -> list[Ticket]:
    taken = []
    while ticket := waiting.next([], 1):
        taken.append(ticket)
    return taken


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(0, 3)), max_size=20))
def test_jobs_start_by_priority_and_arrival(arrivals: list[tuple[float, int]]) -> None:
    """A job starts as if it had arrived a second later for each step of priority; equal jobs keep their order."""
    waiting = JobQueue(len(arrivals))
    tickets = [Ticket(str(i), arrived_at, priority) for i, (arrived_at, priority) in enumerate(arrivals)]
    for ticket in tickets:
        waiting.add(ticket)
    expected = sorted(tickets, key=lambda ticket: ticket.arrived_at + ticket.priority * PRIORITY_SECONDS)
    assert ids(expected) == ids(take_all(waiting))


@given(st.integers(0, 10), st.floats(0, 1000))
def test_lower_priority_job_is_overtaken_for_a_bounded_time(priority: int, arrived_at: float) -> None:
    """A job that arrives more than `priority` seconds after another starts after it, whatever its own priority."""
    patient = Ticket("patient", arrived_at, priority)
    late = Ticket("late", arrived_at + priority * PRIORITY_SECONDS + 0.001, 0)
    waiting = JobQueue(2)
    waiting.add(late)
    waiting.add(patient)
    assert ["patient", "late"] == ids(take_all(waiting))


def test_request_is_queued_completely_or_refused() -> None:
    """The queue refuses a request of five inputs if four fit, and the error has the numbers."""
    waiting = JobQueue(LIMIT)
    with waiting.reserve(LIMIT):
        pass
    with pytest.raises(QueueFull, match="0 inputs are waiting and 5 more do not fit; the limit is 4") as caught:
        waiting.reserve(LIMIT + 1)
    assert {"waiting": "0", "limit": "4"} == caught.value.metadata


class Queue(RuleBasedStateMachine):
    """Random operations on a queue, compared with two plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = JobQueue(LIMIT)
        self.queued: list[str] = []
        self.again: list[str] = []
        self.alone: set[str] = set()
        self.running: list[Ticket] = []
        self.count = 0

    @rule()
    def add(self) -> None:
        """A new job is queued while there is room."""
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
        """The next job is the first that a crash put back, and it runs alone; otherwise it is the oldest."""
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
        """All running jobs return to the front; those that may have caused the crash run alone from then on."""
        self.waiting.put_back(self.running, alone=alone)
        self.again[:0] = ids(self.running)
        self.alone |= {ticket.job_id for ticket in self.running if alone}
        self.running = []

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        """A caller cancels a waiting job."""
        if everyone := self.again + self.queued:
            job_id = data.draw(st.sampled_from(everyone))
            assert self.waiting.discard(job_id)
            (self.again if job_id in self.again else self.queued).remove(job_id)
        assert not self.waiting.discard("nobody")

    @invariant()
    def counted(self) -> None:
        """The length is that of both lists; jobs that a crash put back may exceed the limit."""
        assert len(self.again) + len(self.queued) == len(self.waiting)
        assert len(self.queued) <= LIMIT


TestQueue = Queue.TestCase


def test_clear_removes_all_jobs() -> None:
    """`clear` removes waiting jobs and those that a crash put back."""
    waiting = JobQueue(LIMIT)
    waiting.add(Ticket("a", 0.0))
    waiting.put_back([Ticket("b", 0.0)], alone=True)
    waiting.clear()
    assert (0, None) == (len(waiting), waiting.next([], 1))


def test_clients_take_turns() -> None:
    """Clients start jobs in turn, so a client with one job does not wait behind all jobs of a client with many."""
    waiting = JobQueue(30)
    for number in range(30):
        waiting.add(Ticket(f"noisy-{number}", number, client="noisy"))
    for number in range(3):
        waiting.add(Ticket(f"quiet-{number}", 100, client="quiet"))
    started = ids(take_all(waiting))
    assert ["noisy-0", "quiet-0", "noisy-1", "quiet-1", "noisy-2", "quiet-2", "noisy-3"] == started[:7]
    assert [f"noisy-{number}" for number in range(30)] == [each for each in started if each.startswith("noisy")]


def test_client_over_its_share_is_refused_while_others_are_not() -> None:
    """A client that used up its share gets `ShareExceeded` while another client is accepted; discarded and started jobs
    free places."""
    waiting = JobQueue(12)
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


def test_reserved_places_are_not_given_twice() -> None:
    """Places reserved for one request are not available to another, and unused ones are returned."""
    waiting = JobQueue(LIMIT)
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


def test_reserved_place_admits_one_job() -> None:
    """A reservation admits exactly as many jobs as it has places; a further job needs free room."""
    waiting = JobQueue(LIMIT)
    with waiting.reserve(LIMIT, "a") as places:
        for number in range(LIMIT):
            waiting.add(Ticket(str(number), 0, client="a"), places)
        with pytest.raises(QueueFull):
            waiting.add(Ticket("more", 0, client="a"), places)
    assert LIMIT == len(waiting)


def test_reservation_is_not_valid_in_another_queue() -> None:
    """A job that is added to a different queue than the one where it holds a place needs free room there."""
    here, there = JobQueue(1), JobQueue(1)
    there.add(Ticket("first", 0, client="a"))
    with here.reserve(1, "a") as places, pytest.raises(QueueFull):
        there.add(Ticket("second", 0, client="a"), places)
    here.add(Ticket("third", 0, client="a"))


LIMITS = st.integers(1, 500)


def filled(limit: int, order: list[int], clients: int) -> list[int]:
    """Let clients ask for places in the given order, and then in turn until none is granted; return the places of
    each."""
    held = [0] * clients
    for client in order:
        held[client] += has_share_for(held[client], sum(held), 1, limit)
    while any(asked := [has_share_for(each, sum(held), 1, limit) for each in held]):
        held[asked.index(True)] += 1
    return held


@given(limit=LIMITS, more=st.integers(1, 600), held=st.integers(0, 500))
def test_single_client_may_fill_the_queue(limit: int, more: int, held: int) -> None:
    """A client that is alone may fill the queue up to the limit, in requests of any size, and not beyond."""
    assert (held + more <= limit) == has_share_for(held, held, more, limit)


@given(limit=LIMITS, clients=st.integers(1, 8), order=st.lists(st.integers(0, 7), max_size=400))
def test_granted_places_never_exceed_the_total(limit: int, clients: int, order: list[int]) -> None:
    """The granted places never exceed the queue's total, whatever the order in which clients ask."""
    assert sum(filled(limit, [each % clients for each in order], clients)) <= places_for_all(limit)


@given(limit=LIMITS)
def test_new_client_finds_a_place(limit: int) -> None:
    """A new client gets a place, up to a third of the limit, after another client has taken all it could get."""
    (held,) = filled(limit, [], 1)
    assert limit == held
    assert has_share_for(0, held, max(1, limit // 3), limit)


@given(limit=LIMITS, clients=st.integers(1, 8), order=st.lists(st.integers(0, 7), max_size=400))
def test_freed_places_go_to_new_clients_first(limit: int, clients: int, order: list[int]) -> None:
    """Whenever a client that already holds places would be granted one more, a client without places would be, too."""
    held = filled(limit, [each % clients for each in order], clients)
    for one in range(clients):
        for free in range(4):
            total = max(0, sum(held) - free)
            assert held[one] == 0 or not has_share_for(held[one], total, 1, limit) or has_share_for(0, total, 1, limit)


@given(limit=st.integers(24, 500), clients=st.integers(2, 6))
def test_greedy_clients_get_equal_shares(limit: int, clients: int) -> None:
    """Clients that arrive together and ask for more than there is differ by at most one place."""
    held = filled(limit, list(range(clients)) * 1000, clients)
    assert max(held) - min(held) <= 1


@given(limit=st.integers(24, 300), first=st.integers(1, 300))
def test_late_client_reaches_its_share(limit: int, first: int) -> None:
    """When one client has filled the queue, another client's share grows as places become free, until both have about
    the same."""
    held = [min(first, limit), 0]
    for _ in range(4 * limit):
        for client in (0, 1):
            held[client] -= held[client] > 0
        for asks in (0, 1) * 3:  # more often than places come free
            held[asks] += has_share_for(held[asks], sum(held), 1, limit)
    assert abs(held[0] - held[1]) <= 2 * SHARE_OF_FREE_MAX


@given(clients=st.lists(st.sampled_from("abc"), min_size=1, max_size=60))
def test_client_gets_one_turn_per_round(clients: list[str]) -> None:
    """Each client gets one turn per round, so a client with few jobs does not wait behind a client with many."""
    rounds = FairRounds()
    dealt = [(client, rounds.assign(client)) for client in clients]
    for name in "abc":
        own = [turn for client, turn in dealt if client == name]
        assert list(range(len(own))) == own


@given(
    backlog=st.integers(0, 50),
    steps=st.lists(st.booleans(), max_size=200),
)
def test_client_waits_for_at_most_one_turn_of_each_other_client(backlog: int, steps: list[bool]) -> None:
    """A client that asks for one turn at a time waits for at most one turn of a client that always has many waiting."""
    rounds, waiting = FairRounds(), []
    for _ in range(backlog + 1):
        waiting.append((rounds.assign("noisy"), "noisy"))
    behind = 0
    for asks in steps:
        if asks and not any(client == "quiet" for _, client in waiting):
            waiting.append((rounds.assign("quiet"), "quiet"))
            behind = 0
        turn, client = min(waiting)
        waiting.remove((turn, client))
        rounds.advance(turn)
        behind += client == "noisy"
        assert behind <= 1 or not any(client == "quiet" for _, client in waiting)
        waiting.append((rounds.assign("noisy"), "noisy"))


def test_client_that_asks_again_at_once_does_not_stay_first() -> None:
    """The next turn of a client is in the next round even if it has no job waiting, so the other client's jobs start,
    too."""
    rounds, started = FairRounds(), []
    waiting = [(rounds.assign("noisy"), "noisy") for _ in range(10)]
    for _ in range(10):
        waiting.append((rounds.assign("quick"), "quick"))
        waiting.sort()
        turn, client = waiting.pop(0)
        rounds.advance(turn)
        started.append(client)
    assert 4 <= started.count("noisy") <= 6


@pytest.mark.parametrize("clients", [CLIENTS_MAX + 1, 3 * CLIENTS_MAX])
def test_round_table_is_bounded(clients: int) -> None:
    """A round with more clients than `CLIENTS_MAX` ends early; every client keeps its turn."""
    rounds = FairRounds()
    dealt = [rounds.assign(str(number)) for number in range(clients)]
    assert sorted(dealt) == dealt
    assert len(rounds._ends) <= CLIENTS_MAX


def test_turns_measure_work_instead_of_calls() -> None:
    """In ten rounds a client with jobs of five turns each starts two, and a client with jobs of a quarter turn starts
    forty."""
    rounds = FairRounds()
    begun = {
        client: [rounds.assign(client, turns) for _ in range(40)] for client, turns in (("large", 5.0), ("small", 0.25))
    }
    assert [0, 5] == [each for each in begun["large"] if each < 10]
    assert [4] * 10 == [begun["small"].count(each) for each in range(10)]


def test_actual_work_of_a_job_is_charged_afterwards() -> None:
    """A client whose job was assigned one turn and took five starts its next job four turns later; other clients are
    not affected."""
    rounds = FairRounds()
    rounds.assign("large")
    rounds.assign("small")
    rounds.adjust("large", 4.0)
    assert (5, 1) == (rounds.assign("large"), rounds.assign("small"))
    rounds.adjust("gone", 4.0)
    assert 0 == rounds.assign("gone"), "of whom nothing is known, nothing is remembered"


@pytest.mark.parametrize("asked_per_start", [1, 3])
def test_cancelled_waiting_jobs_do_not_cost_turns(asked_per_start: int) -> None:
    """Jobs that leave the queue before they start are not charged: two clients that ask for too much each get half."""
    waiting, started = JobQueue(1000), dict.fromkeys(("patient", "impatient"), 0)
    for time in range(400):
        for number in range(asked_per_start):
            waiting.add(Ticket(f"impatient {time} {number}", time, client="impatient"))
            waiting.discard(f"impatient {time - 10} {number}")
        waiting.add(Ticket(f"patient {time}", time, client="patient"))
        ticket = waiting.next([], 1)
        assert ticket is not None
        started[ticket.client] += 1
    assert 180 <= started["impatient"] <= 220


@pytest.mark.parametrize(("asked_per_start", "gives_up_after"), [(5, 6), (2, 4), (2, 20)])
def test_cancelled_jobs_do_not_delay_other_clients(asked_per_start: int, gives_up_after: int) -> None:
    """A client with few jobs waits for at most one turn of each other client, even if many jobs of another client are
    cancelled."""
    waiting, behind, longest = JobQueue(1000), 0, 0
    for time in range(400):
        for number in range(asked_per_start):
            waiting.add(Ticket(f"impatient {time} {number}", time, client="impatient"))
            waiting.discard(f"impatient {time - gives_up_after} {number}")
        waiting.add(Ticket(f"patient {time}", time, client="patient"))
        if time % 15 == 0:
            waiting.add(Ticket(f"quiet {time}", time, client="quiet"))
            behind = 0
        ticket = waiting.next([], 1)
        assert ticket is not None
        if ticket.client == "quiet":
            longest = max(longest, behind)
        behind += 1
    assert longest <= 2


@pytest.mark.parametrize(("rows", "turns"), [(1, TURNS_MIN), (TURN_ROWS, 1.0), (5 * TURN_ROWS, 5.0)])
def test_turns_are_proportional_to_rows(rows: int, turns: float) -> None:
    """A job of few rows takes a fraction of a turn, but at least `TURNS_MIN`."""
    assert turns == turns_for_rows(rows)


@pytest.mark.parametrize(("places", "most"), [(1, 1), (3, 3), (8, 6), (32, 24)])
def test_one_place_in_four_is_left_to_other_clients(places: int, most: int) -> None:
    """Of four or more places, a quarter is left to other clients."""
    assert most == places_of_one_client(places)
