"""How long answers take, from what the daemon has counted. Pure."""

from __future__ import annotations

from itertools import accumulate

from edge_agent.client import Durations, Status

_LOCAL_SHARE_MIN = 0.5
"""The usual time of all answers is that of those from here only while most are."""
NOTHING_TIMED = Durations((), (), 0.0)


def local_ms(status: Status) -> dict[str, float]:
    """Return the usual time of an answer from here, by task, where most answers are."""
    found = {}
    for counts in status.counts:
        usual, every = quantile(0.5, NOTHING_TIMED, counts.total), sum(counts.answers.values())
        if usual is not None and counts.answers.get("local", 0) > _LOCAL_SHARE_MIN * every:
            found[counts.task] = 1000 * usual
    return found


def quantile(share: float, before: Durations, after: Durations) -> float | None:
    """Return a quantile of what was counted in between, in seconds, as Prometheus estimates it; None = nothing was.

    Inside a bucket it is taken to be spread evenly; above the last bound, the bound is all that is known.
    """
    earlier = before.counts or (0,) * len(after.counts)
    counted = [later - early for later, early in zip(after.counts, earlier, strict=True)]
    reached = list(accumulate(counted))
    if not reached or not reached[-1]:
        return None
    rank = share * reached[-1]
    place = next(number for number, total in enumerate(reached) if total >= rank and counted[number])
    bounds = (0.0, *after.bounds_seconds)
    if place >= len(after.bounds_seconds):
        return bounds[-1]
    inside = (rank - (reached[place] - counted[place])) / counted[place]
    return bounds[place] + (bounds[place + 1] - bounds[place]) * inside
