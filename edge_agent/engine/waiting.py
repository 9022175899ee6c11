"""The queue in front of one engine: pure and bounded.

Jobs start in the order of their turn: the time they came, and PRIORITY_SECONDS later for each step of priority. So an
operator's call overtakes the devices' that came within the last second or so, and no job waits for ever: whoever comes
later than that stands behind it. Jobs that were in flight when a child died come before all others. One that may have
been the cause must run alone: it waits until nothing else runs, and while it runs nothing else starts.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field

from edge_agent.errors import QueueFull

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

    @property
    def turn(self) -> float:
        """Who has the smaller one starts first."""
        return self.came_at + self.priority * PRIORITY_SECONDS


@dataclass
class Waiting:
    """The queue. `limit` is the most jobs that wait; jobs put back after a crash do not count against it."""

    limit: int
    _tickets: list[Ticket] = field(default_factory=list)
    _again: list[Ticket] = field(default_factory=list)

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._tickets) + len(self._again)

    def reserve(self, jobs: int) -> None:
        """Raise QueueFull unless `jobs` more fit: a request with many inputs is taken whole or not at all."""
        waiting = len(self._tickets)
        if waiting + jobs > self.limit:
            raise QueueFull(
                f"{waiting} inputs are waiting and {jobs} more do not fit; the limit is {self.limit}",
                waiting=waiting,
                limit=self.limit,
            )

    def add(self, ticket: Ticket) -> None:
        """Take a job. Raises QueueFull."""
        self.reserve(1)
        insort(self._tickets, ticket, key=lambda other: other.turn)

    def put_back(self, tickets: list[Ticket], *, alone: bool) -> None:
        """Take jobs that were in flight when a child died, in front and in order; `alone`: one may be the cause."""
        for ticket in tickets:
            ticket.alone = ticket.alone or alone
        self._again[:0] = tickets

    def discard(self, job_id: str) -> bool:
        """Forget a waiting job; tell whether it was here."""
        for tickets in (self._tickets, self._again):
            for ticket in tickets:
                if ticket.job_id == job_id:
                    tickets.remove(ticket)
                    return True
        return False

    def next(self, running: list[Ticket], running_max: int) -> Ticket | None:
        """Remove and return the job to start now, or None."""
        if len(running) >= running_max or any(ticket.alone for ticket in running):
            return None
        if self._again:
            return None if self._again[0].alone and running else self._again.pop(0)
        return self._tickets.pop(0) if self._tickets else None

    def clear(self) -> None:
        """Forget everything."""
        self._tickets.clear()
        self._again.clear()
