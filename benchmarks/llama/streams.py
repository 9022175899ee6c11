"""What a caller sees of a stream: when pieces came, how many tokens they were, how long it stood still. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SHORTER = 0.9
"""Of the tokens asked for: a stream that writes fewer has met an end of its own."""


class GenerationTooShort(ValueError):
    """The model ended its text before all was measured: nothing is known."""


@dataclass(frozen=True)
class Generation:
    """One generation, in seconds of one clock."""

    asked: float
    times: tuple[float, ...]
    """When its pieces came; a piece may be several tokens, and a token no piece."""
    ended: float
    tokens: int

    @property
    def first_at(self) -> float:
        """When the first piece came; of an answer without any, when it ended."""
        return self.times[0] if self.times else self.ended

    @property
    def first(self) -> float:
        """Seconds until then."""
        return self.first_at - self.asked


def short(streams: Sequence[Generation], tokens: int) -> float:
    """Return the share of streams that the model ended before the requested number of tokens."""
    return sum(each.tokens < SHORTER * tokens for each in streams) / len(streams)


def rate(streams: Sequence[Generation]) -> float:
    """Return the tokens per second of concurrent streams, until the last one ended."""
    taken = max(each.ended for each in streams) - min(each.asked for each in streams)
    return sum(each.tokens for each in streams) / taken


def pace(stream: Generation) -> float:
    """Return the tokens a second of a stream from its first piece to its last; there have to be two."""
    return (stream.tokens - 1) / (stream.times[-1] - stream.times[0])


def stall(times: Sequence[float], start: float, end: float) -> float:
    """Return the longest time from one piece to the next of those that touch the time from `start` to `end`.

    Raises:
        GenerationTooShort: the stream did not run all that time.
    """
    if not times or times[0] > start or times[-1] < end:
        raise GenerationTooShort("the stream has to run before, through and after")
    return max(later - sooner for sooner, later in pairwise(times) if later > start and sooner < end)
