"""Room for connections: each takes a descriptor, and so do the store, the spool and the pipes to the engines.

A shell gives a process 1024, which one client could use up: then nobody else gets in, the operator neither, and nothing
can be opened. The units give more; a daemon that is started by hand takes what it may have.
"""

from __future__ import annotations

import resource

import structlog

log = structlog.get_logger("edge_agent.server")

LISTENERS = 4
OTHERS = 512
"""For everything that is no connection of a caller."""


def make_room(connections_max: int) -> None:
    """Raise this process's own limit to what so many connections on each listener need, as far as it may."""
    needed = LISTENERS * connections_max + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in range(needed):  # RLIM_INFINITY is -1
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft in range(needed):
        remedy = "raise the hard limit ('ulimit -Hn', LimitNOFILE=), or lower 'connections_max' under 'access'"
        log.warning("descriptors_short", limit=soft, needed=needed, remedy=remedy)
