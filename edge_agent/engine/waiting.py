"""The queue in front of one engine: pure, bounded, first come first served.

A job that must run alone (it was in flight when a child crashed) waits until nothing else runs, and while it runs
nothing else starts. A job whose deadline has passed is handed back as expired instead of being computed in vain.
Time is an argument.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from edge_agent.errors import QueueFull


@dataclass
class Ticket:
    """What the queue knows of a job."""

    job_id: str
    deadline: float
    """On the caller's clock, in seconds."""
    alone: bool = False


@dataclass
class Waiting:
    """The queue. `limit` is the most jobs that wait; jobs put back after a crash do not count against it."""

    limit: int
    _tickets: deque[Ticket] = field(default_factory=deque)

    def __len__(self) -> int:
        """Return how many jobs wait."""
        return len(self._tickets)

    def reserve(self, jobs: int) -> None:
        """Raise QueueFull unless `jobs` more fit: a request with many inputs is taken whole or not at all."""
        waiting = sum(not ticket.alone for ticket in self._tickets)
        if waiting + jobs > self.limit:
            raise QueueFull(
                f"{waiting} inputs are waiting and {jobs} more do not fit; the limit is {self.limit}",
                waiting=waiting,
                limit=self.limit,
            )

    def add(self, ticket: Ticket) -> None:
        """Take a job. Raises QueueFull."""
        self.reserve(1)
        self._tickets.append(ticket)

    def put_back(self, tickets: list[Ticket]) -> None:
        """Take jobs that were in flight at a crash, in front and in their order, each to run alone."""
        for ticket in reversed(tickets):
            ticket.alone = True
            self._tickets.appendleft(ticket)

    def discard(self, job_id: str) -> bool:
        """Forget a waiting job; tell whether it was here."""
        kept = deque(ticket for ticket in self._tickets if ticket.job_id != job_id)
        found = len(kept) < len(self._tickets)
        self._tickets = kept
        return found

    def expired(self, now: float) -> list[Ticket]:
        """Remove and return the jobs whose deadline has passed."""
        late = [ticket for ticket in self._tickets if ticket.deadline <= now]
        if late:
            self._tickets = deque(ticket for ticket in self._tickets if ticket.deadline > now)
        return late

    def next(self, running: list[Ticket], running_max: int) -> Ticket | None:
        """Remove and return the job to start now, or None."""
        if not self._tickets or len(running) >= running_max or any(ticket.alone for ticket in running):
            return None
        if self._tickets[0].alone and running:
            return None
        return self._tickets.popleft()

    def drain(self) -> list[Ticket]:
        """Remove and return everything."""
        tickets = list(self._tickets)
        self._tickets.clear()
        return tickets
