"""What the uplink knows while it runs, and how it says so in `uplink.json`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from edge_agent import __version__
from edge_agent.errors import EdgeAgentError
from edge_agent.formats import uplink
from edge_agent.formats.document import timestamp
from edge_agent.uplink import connectivity
from edge_agent.uplink.bandwidth import Bandwidth

PROBLEMS_SHOWN_MAX = 100


@dataclass
class SetAside:
    """Something that cannot be sent, and when it is tried again."""

    error: EdgeAgentError
    until: float


@dataclass
class Known:
    """What is known of the outbox and the upstream. Times by the running clock."""

    connectivity: connectivity.Connectivity
    bandwidth: Bandwidth
    waiting: dict[str, int] = field(default_factory=dict)
    set_aside: dict[str, SetAside] = field(default_factory=dict)
    status_mark: tuple[int, int] = (0, 0)
    status_sent: tuple[int, int] = (0, 0)
    scan_at: float = 0.0
    heartbeat_at: float = 0.0
    receipts_at: float = 0.0
    receipts_tag: str = ""
    paused_until: float = 0.0
    sent_segments: int = 0
    sent_bytes: int = 0


def describe(
    known: Known, problem: EdgeAgentError | None, upstream: str, clocks: tuple[float, float]
) -> uplink.UplinkState:
    """Return the state for others; `clocks` are seconds since 1970 and the running clock."""
    wall, running = clocks
    link = known.connectivity

    def at(seconds: float) -> str:
        return timestamp(wall - (running - seconds))

    shown = [(problem, "")] if problem else []
    shown += [(each.error, name) for name, each in known.set_aside.items()]
    return uplink.UplinkState(
        pid=os.getpid(),
        version=__version__,
        upstream=upstream[:500],
        at=timestamp(wall),
        running_seconds=running,
        state=link.state,
        since=at(link.since),
        last_contact=None if link.last_contact is None else at(link.last_contact),
        retry_at=at(link.retry_at) if link.retry_at > running else None,
        failures=link.failures,
        waiting_segments=len(known.waiting),
        waiting_bytes=sum(known.waiting.values()),
        sent_segments=known.sent_segments,
        sent_bytes=known.sent_bytes,
        problems=tuple(
            uplink.Problem(reason=each.reason, message=each.message[:1000], remedy=each.remedy[:1000], about=name)
            for each, name in shown[:PROBLEMS_SHOWN_MAX]
        ),
    )
