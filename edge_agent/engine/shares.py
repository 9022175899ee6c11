"""What of a bounded room one client may take, and in which order clients take turns. Pure.

One client alone may fill the room. Beyond that there are places that only others find: a client may hold at most three
times what is left free (dynamic thresholds, Choudhury and Hahne 1998). So clients that all want more than there is come
to have the same, and what comes free is a new one's. Nothing is known of who may come, and nobody is thrown out.

Turns are dealt in rounds (start-time fair queueing): a client has one turn in each, so that whoever asks for little is
behind one turn of each other client, however many those have waiting.
"""

from __future__ import annotations

import math

GENEROSITY = 3
"""How many times what is left free one client may hold."""
CLIENTS_MAX = 1024
"""Clients that a round knows at most; a round with more ends, and the next begins."""


def room(limit: int) -> int:
    """Return the places there are for all, where one client alone may have `limit`."""
    return limit + math.ceil(limit / GENEROSITY)


def fits(held: int, total: int, more: int, limit: int) -> bool:
    """Tell whether a client that holds `held` of the `total` places taken may have `more`.

    Who holds none is not asked for a share: a request of any size below the limit is taken as long as there is room.
    """
    if held == 0:
        return more <= limit and total + more <= room(limit)
    return held + more + GENEROSITY * (total + more) <= (GENEROSITY + 1) * limit


class Rounds:
    """Deals out turns."""

    def __init__(self) -> None:
        """Begin with the first round."""
        self.now = 0
        """The round of the last turn that was taken."""
        self._last: dict[str, int] = {}

    def deal(self, client: str) -> int:
        """Return the round of this client's next turn: one after its last, and none that is over."""
        if len(self._last) >= CLIENTS_MAX:
            self.started(self.now + 1)
        dealt = max(self.now, self._last.get(client, -1) + 1)
        self._last[client] = dealt
        return dealt

    def started(self, dealt: int) -> None:
        """Note that a turn of this round was taken: the ones before are over."""
        if dealt > self.now:
            self.now = dealt
            self._last = {client: last for client, last in self._last.items() if last >= dealt}
