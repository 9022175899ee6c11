"""The queue in front of one engine: pure and bounded.

Clients take turns, so much work each in a round, and may fill the queue, and the places where jobs run, so far as
others find room in them (`shares.py`).
In a round jobs start in the order in which they came, PRIORITY_SECONDS later for each step of priority. So a call of
the operator overtakes those of devices that came within the last second or so, and no job waits for ever: whoever comes
later than that, or has jobs of its own waiting, stands behind it. Jobs that were in flight when a child died come
before all others. One that may have been the cause must run alone: it waits until nothing else runs, and while it runs
nothing else starts.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from dataclasses import dataclass, field

from edge_agent.engine import shares
from edge_agent.errors import QueueFull, ShareExceeded

PRIORITY_SECONDS = 1.0


@dataclass
class Ticket:
    """What the queue knows of a job."""

    job_id: str
    came_at: float
    """In seconds, on whatever clock."""
    priority: int = 0
    """0 is first."""
    alone: bool = False
    client: str = ""
    """Whose it is; what nobody asked for waits its time only."""
    turns: float = 1.0
    """What it will take, as far as is known before."""
    round: int = -1
    """Given by the queue; -1 = there was nobody to wait for."""

    @property
    def turn(self) -> tuple[int, float]:
        """Who has the smaller one starts first."""
        return self.round, self.came_at + self.priority * PRIORITY_SECONDS


@dataclass
class Reservation:
    """Places kept for jobs of one client that are about to come; those left are given back at the end of the block."""

    queue: Waiting
    client: str
    places: int

    def __enter__(self) -> Reservation:
        """Do nothing: the places are counted already."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back the places that no job has taken."""
        while self.take_place(self.queue):
            pass

    def take_place(self, queue: Waiting) -> bool:
        """Use one place; tell whether one was left in that queue."""
        if not self.places or queue is not self.queue:
            return False
        self.places -= 1
        queue.unreserve(self.client)
        return True


@dataclass
class Waiting:
    """The queue. `limit` is the most jobs of one client that wait; jobs put back after a crash do not count.

    Places that are reserved count like jobs that wait.
    """

    limit: int
    _tickets: list[Ticket] = field(default_factory=list)
    _again: list[Ticket] = field(default_factory=list)
    _rounds: shares.Rounds = field(default_factory=shares.Rounds)
    _held: Counter[str] = field(default_factory=Counter)
    """By client, of `_tickets`."""
    _reserved: Counter[str] = field(default_factory=Counter)
    """By client."""

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._tickets) + len(self._again)

    def reserve(self, jobs: int, client: str = "") -> Reservation:
        """Keep places for `jobs` more: many inputs are taken whole or not at all. Raises QueueFull, ShareExceeded."""
        self._require_room(jobs, client)
        self._reserved[client] += jobs
        return Reservation(self, client, jobs)

    def unreserve(self, client: str) -> None:
        """Give one reserved place back."""
        self._reserved[client] -= 1
        if not self._reserved[client]:
            del self._reserved[client]

    def _require_room(self, jobs: int, client: str) -> None:
        waiting = len(self._tickets) + self._reserved.total()
        held = self._held[client] + self._reserved[client]
        if shares.fits(held, waiting, jobs, self.limit):
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
        """Take a job, into a place that was reserved if one is left. Raises QueueFull, ShareExceeded."""
        if reservation is None or not reservation.take_place(self):
            self._require_room(1, ticket.client)
        ticket.round = self._rounds.deal(ticket.client, ticket.turns) if ticket.client else self._rounds.now
        self._held[ticket.client] += 1
        insort(self._tickets, ticket, key=lambda other: other.turn)

    def put_back(self, tickets: list[Ticket], *, alone: bool) -> None:
        """Take jobs that were in flight when a child died, in front and in order; `alone`: one may be the cause."""
        for ticket in tickets:
            ticket.alone = ticket.alone or alone
        self._again[:0] = tickets

    def discard(self, job_id: str) -> bool:
        """Forget a waiting job; tell whether it was here."""
        for ticket in self._tickets:
            if ticket.job_id == job_id:
                self._tickets.remove(ticket)
                self._release(ticket)
                return True
        kept = [ticket for ticket in self._again if ticket.job_id != job_id]
        found = len(kept) < len(self._again)
        self._again = kept
        return found

    def settle(self, ticket: Ticket, turns: float) -> None:
        """Count what a job has taken, which was dealt as many turns as it was expected to take."""
        if ticket.client and ticket.round >= 0:
            self._rounds.correct(ticket.client, turns - ticket.turns)

    def next(self, running: list[Ticket], running_max: int, client_max: int = 0) -> Ticket | None:
        """Remove and return the job to start now, or None. One client has `client_max` running at most; 0 = all."""
        if len(running) >= running_max or any(ticket.alone for ticket in running):
            return None
        if self._again:
            return None if self._again[0].alone and running else self._again.pop(0)
        full = _full(running, client_max)
        ticket = next((each for each in self._tickets if each.client not in full), None)
        if ticket is None:
            return None
        self._tickets.remove(ticket)
        self._release(ticket)
        self._rounds.started(ticket.round)
        return ticket

    def clear(self) -> None:
        """Forget every job; who has reserved places gives them back."""
        self._tickets.clear()
        self._held.clear()
        self._again.clear()

    def _release(self, ticket: Ticket) -> None:
        self._held[ticket.client] -= 1
        if not self._held[ticket.client]:
            del self._held[ticket.client]


def _full(running: list[Ticket], client_max: int) -> set[str]:
    """Return the clients that have as many jobs running as one may have."""
    if not client_max or len(running) < client_max:
        return set()
    return {
        client for client, jobs in Counter(each.client for each in running).items() if client and jobs >= client_max
    }
