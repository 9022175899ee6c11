"""The queue in front of one engine, and how clients share it: pure and bounded.

Order. Clients take turns in rounds (start-time fair queueing: Goyal, Vin and Cheng 1996): a client has one turn in
each, so a client that asks for little waits for one turn of each other client, however many jobs those have. A turn is
an amount of work, not a call: a job of more rows takes several turns, one of fewer a part of one. Within a round jobs
start in the order of their arrival, PRIORITY_SECONDS later for each step of priority. So a call of the operator
overtakes calls of devices that came within the last second, and no job waits for ever. Jobs that were in flight when a
child died start before all others. A job that may have killed the child runs alone: it waits until nothing else runs,
and nothing starts while it runs.

Places. One client alone may fill the queue. In addition there are places for other clients only: a client may hold at
most SHARE_OF_FREE_MAX times what is left free (dynamic thresholds, Choudhury and Hahne 1998). So clients that all ask
for more than there is end up with the same number, and a place that becomes free goes to a new client. Nothing needs to
be known of future clients, and no job is evicted.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edge_agent.errors import QueueFull, ShareExceeded

PRIORITY_SECONDS = 1.0
SHARE_OF_FREE_MAX = 3
"""A client may hold at most this many times the number of free places."""
TURN_ROWS = 64
"""Rows of one turn: as many as a step of the llama engine may have."""
TURNS_MIN = 0.25
"""The least that a job is charged: it costs more than its rows."""
RESERVED_ONE_IN = 4
"""Of the places where jobs run, a single client may use all but one in this many."""
CLIENTS_MAX = 1024
"""The most clients of a round; with one more, the next round begins."""


@dataclass
class Ticket:
    """A job in the queue."""

    job_id: str
    arrived_at: float
    """In seconds, on any clock."""
    priority: int = 0
    """0 is first."""
    alone: bool = False
    client: str = ""
    """Whose job it is; a job without a client is ordered by its arrival only."""
    turns: float = 1.0
    """How many turns it is expected to take."""
    round: int = -1
    """Set by the queue; -1 = the job did not have to wait."""

    @property
    def turn(self) -> tuple[int, float]:
        """The key by which jobs start: the smallest first."""
        return self.round, self.arrived_at + self.priority * PRIORITY_SECONDS


@dataclass
class Reservation:
    """Places reserved for coming jobs of one client; unused ones are released at the end of the `with` block."""

    queue: JobQueue
    client: str
    places: int

    def __enter__(self) -> Reservation:
        """Do nothing: the places are reserved already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Release the places that no job has taken."""
        while self.take_place(self.queue):
            pass

    def take_place(self, queue: JobQueue) -> bool:
        """Use one place; tell whether one was left in that queue."""
        if not self.places or queue is not self.queue:
            return False
        self.places -= 1
        queue.unreserve(self.client)
        return True


class FairRounds:
    """Assigns turns to clients."""

    def __init__(self) -> None:
        """Start in the first round."""
        self.current_round = 0
        """The round of the latest turn that was taken."""
        self._ends: dict[str, float] = {}
        """Where the turns of each client end."""

    def assign(self, client: str, turns: float = 1.0) -> int:
        """Return the round in which the next turns of this client begin: after its last one, and not in the past."""
        if len(self._ends) >= CLIENTS_MAX:
            self.advance(self.current_round + 1)
        begin = max(float(self.current_round), self._ends.get(client, 0.0))
        self._ends[client] = begin + turns
        return int(begin)

    def adjust(self, client: str, turns: float) -> None:
        """Add turns to those of a client; a negative number takes them back."""
        if client in self._ends:
            self._ends[client] += turns

    def advance(self, round_number: int) -> None:
        """Note that a turn of round `round_number` was taken: earlier rounds are over."""
        if round_number > self.current_round:
            self.current_round = round_number
            self._ends = {client: end for client, end in self._ends.items() if end > round_number}


@dataclass
class JobQueue:
    """The queue. `limit` is the most waiting jobs of one client; jobs put back after a crash do not count.

    Reserved places count like waiting jobs.
    """

    limit: int
    _tickets: list[Ticket] = field(default_factory=list)
    _retried: list[Ticket] = field(default_factory=list)
    _rounds: FairRounds = field(default_factory=FairRounds)
    _waiting_by_client: Counter[str] = field(default_factory=Counter)
    """Jobs in `_tickets`, by client."""
    _reserved_by_client: Counter[str] = field(default_factory=Counter)
    """By client."""

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._tickets) + len(self._retried)

    def reserve(self, jobs: int, client: str = "") -> Reservation:
        """Reserve places for `jobs` more jobs, all or none. Raises QueueFull, ShareExceeded."""
        self._require_room(jobs, client)
        self._reserved_by_client[client] += jobs
        return Reservation(self, client, jobs)

    def unreserve(self, client: str) -> None:
        """Release one reserved place."""
        self._reserved_by_client[client] -= 1
        if not self._reserved_by_client[client]:
            del self._reserved_by_client[client]

    def _require_room(self, jobs: int, client: str) -> None:
        waiting = len(self._tickets) + self._reserved_by_client.total()
        held = self._waiting_by_client[client] + self._reserved_by_client[client]
        if has_share_for(held, waiting, jobs, self.limit):
            return
        if 0 < held < waiting:
            raise ShareExceeded(
                f"{held} inputs of {client} are waiting, {waiting - held} of others: {jobs} more are over its share",
                held=held,
                waiting=waiting,
            )
        raise QueueFull(
            f"{waiting} inputs are waiting and {jobs} more do not fit; the limit is {self.limit}",
            waiting=waiting,
            limit=self.limit,
        )

    def add(self, ticket: Ticket, reservation: Reservation | None = None) -> None:
        """Queue a job, in a reserved place if one is left. Raises QueueFull, ShareExceeded."""
        if reservation is None or not reservation.take_place(self):
            self._require_room(1, ticket.client)
        ticket.round = self._rounds.assign(ticket.client, ticket.turns) if ticket.client else self._rounds.current_round
        self._waiting_by_client[ticket.client] += 1
        insort(self._tickets, ticket, key=lambda other: other.turn)

    def put_back(self, tickets: list[Ticket], *, alone: bool) -> None:
        """Queue jobs that were in flight when a child died, in front and in order; `alone`: one may be the cause."""
        for ticket in tickets:
            ticket.alone = ticket.alone or alone
        self._retried[:0] = tickets

    def discard(self, job_id: str) -> bool:
        """Remove a waiting job, and charge its client nothing for it; tell whether it was in the queue.

        If it were charged, a client whose deadlines pass in the queue would fall further behind with each of them.
        """
        for index, ticket in enumerate(self._tickets):
            if ticket.job_id == job_id:
                self._move_up(self._tickets[index:], ticket.client)
                self._tickets.remove(ticket)
                self._release(ticket)
                self.settle(ticket, 0.0)
                return True
        others = [ticket for ticket in self._retried if ticket.job_id != job_id]
        found = len(others) < len(self._retried)
        self._retried = others
        return found

    def _move_up(self, tickets: Sequence[Ticket], client: str) -> None:
        """Give each of a client's tickets the round of the one before it, as the first one leaves.

        Otherwise its later jobs would pile up in one round, and other clients would wait for all of them.
        """
        if not client:
            return
        own = [each for each in tickets if each.client == client]
        rounds = [each.round for each in own]
        for each, earlier in zip(own[1:], rounds, strict=False):
            each.round = earlier
        self._tickets.sort(key=lambda each: each.turn)

    def settle(self, ticket: Ticket, turns: float) -> None:
        """Charge a client for the turns that its job has taken, instead of the expected ones."""
        if ticket.client and ticket.round >= 0:
            self._rounds.adjust(ticket.client, turns - ticket.turns)

    def next(self, running: list[Ticket], running_max: int, client_max: int = 0) -> Ticket | None:
        """Remove and return the job to start now, or None. One client may have `client_max` running; 0 = no limit."""
        if len(running) >= running_max or any(ticket.alone for ticket in running):
            return None
        if self._retried:
            return None if self._retried[0].alone and running else self._retried.pop(0)
        full_clients = _clients_at_limit(client_max, running)
        ticket = next((each for each in self._tickets if each.client not in full_clients), None)
        if ticket is None:
            return None
        self._tickets.remove(ticket)
        self._release(ticket)
        self._rounds.advance(ticket.round)
        return ticket

    def clear(self) -> None:
        """Remove every job; reservations release their own places."""
        self._tickets.clear()
        self._waiting_by_client.clear()
        self._retried.clear()

    def _release(self, ticket: Ticket) -> None:
        self._waiting_by_client[ticket.client] -= 1
        if not self._waiting_by_client[ticket.client]:
            del self._waiting_by_client[ticket.client]


def places_for_all(limit: int) -> int:
    """Return the places for all clients together, where one client alone may have `limit`."""
    return limit + math.ceil(limit / SHARE_OF_FREE_MAX)


def has_share_for(client_places: int, total: int, more: int, limit: int) -> bool:
    """Tell whether a client that holds `client_places` of the `total` taken places may have `more`.

    The share does not bind a client that holds none: it may have up to `limit` while there are places.
    """
    if client_places == 0:
        return more <= limit and total + more <= places_for_all(limit)
    return client_places + more + SHARE_OF_FREE_MAX * (total + more) <= (SHARE_OF_FREE_MAX + 1) * limit


def turns_for_rows(rows: int) -> float:
    """Return the turns that a job of that many rows takes. If rows are not counted, a job takes one turn."""
    return max(rows / TURN_ROWS, TURNS_MIN)


def places_of_one_client(places: int) -> int:
    """Return how many of the places where jobs run one client may have."""
    return max(places - places // RESERVED_ONE_IN, 1)


def _clients_at_limit(client_max: int, running: list[Ticket]) -> set[str]:
    """Return the clients that have `client_max` jobs running; 0 = no limit."""
    if not client_max or len(running) < client_max:
        return set()
    counts = Counter(each.client for each in running)
    return {client for client, jobs in counts.items() if client and jobs >= client_max}
