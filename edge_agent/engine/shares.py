"""What of a bounded room one client may take, and in which order clients take turns. Pure.

One client alone may fill the room. Beyond that there are places that only others find: a client may hold at most three
times what is left free (dynamic thresholds, Choudhury and Hahne 1998). So clients that all want more than there is come
to have the same, and what comes free is a new one's. Nothing is known of who may come, and nobody is thrown out.

Turns are dealt in rounds (start-time fair queueing: Goyal, Vin and Cheng 1996): a client has one turn in each, so that
whoever asks for little is behind one turn of each other client, however many those have waiting. A turn is so much
work, not a call: a job of more rows takes several, one of fewer a part of one.
"""

from __future__ import annotations

import math

GENEROSITY = 3
"""How many times what is left free one client may hold."""
TURN_ROWS = 64
"""Rows of one turn, which a step of the llama engine may have."""
TURNS_MIN = 0.25
"""What a job takes at least: it costs more than its rows."""
KEPT_PLACES = 4
"""Of the places where jobs run, one in so many is kept from each single client."""
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


def turns_of(rows: int) -> float:
    """Return the turns that a job of so many rows takes. One takes a turn where rows are not counted."""
    return max(rows / TURN_ROWS, TURNS_MIN)


def most_of(places: int) -> int:
    """Return how many places one client may have jobs in."""
    return max(places - places // KEPT_PLACES, 1)


class Rounds:
    """Deals out turns."""

    def __init__(self) -> None:
        """Begin with the first round."""
        self.now = 0
        """The round of the last turn that was taken."""
        self._until: dict[str, float] = {}
        """Of each client, where its turns end."""

    def deal(self, client: str, turns: float = 1.0) -> int:
        """Return the round in which the next turns of this client begin: behind its last, and not in the past."""
        if len(self._until) >= CLIENTS_MAX:
            self.started(self.now + 1)
        begin = max(float(self.now), self._until.get(client, 0.0))
        self._until[client] = begin + turns
        return int(begin)

    def correct(self, client: str, turns: float) -> None:
        """Count so many turns more of a client, or fewer, than were dealt."""
        if client in self._until:
            self._until[client] += turns

    def started(self, dealt: int) -> None:
        """Note that a turn of this round was taken: the ones before are over."""
        if dealt > self.now:
            self.now = dealt
            self._until = {client: until for client, until in self._until.items() if until > dealt}
