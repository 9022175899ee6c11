"""Giving back to the kernel what malloc keeps for later.

After a flood of calls glibc keeps most of what it had handed out: between two pieces that are still in use nothing is
returned by itself (malloc_trim(3)). Measured: 580 MB after 100,000 headers on eight connections, 185 MB after a trim of
60 ms. Python's own small objects do not come from malloc and stay.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
from collections.abc import Callable

import structlog

from edge_agent.process_memory import resident_bytes

EVERY_SECONDS = 5.0
KEPT_BYTES_MAX = 32 << 20
"""Grown by less it is left alone: a trim stops whoever needs memory meanwhile, for 5 to 150 ms."""
ARENAS_MAX = 2
"""Of malloc's, by default eight for each processor: the more there are, the more is kept between pieces in use."""
_M_ARENA_MAX = -8  # malloc.h
OBJECTS_BETWEEN_COLLECTIONS = (700, 10, 10)
"""As Python begins with (gc.set_threshold)."""

Trim = Callable[[int], int]


def limit_malloc_arenas() -> None:
    """Have malloc make few arenas (mallopt(3)); to be called before there are threads."""
    if hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS_MAX)


def freeze_startup_objects() -> None:
    """Take what is loaded by now for what stays: Python's search for garbage passes over it from now on."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*OBJECTS_BETWEEN_COLLECTIONS)


async def trim_periodically(every_seconds: float = EVERY_SECONDS) -> None:
    """Trim whenever the process has grown; runs until it is cancelled, and at once ends where malloc cannot."""
    trim: Trim | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl has none, and keeps little
        return
    floor = resident_bytes(os.getpid())
    while True:
        await asyncio.sleep(every_seconds)
        if resident_bytes(os.getpid()) - floor > KEPT_BYTES_MAX:
            await asyncio.to_thread(trim, 0)
            floor = resident_bytes(os.getpid())
        floor = min(floor, resident_bytes(os.getpid()))


# Room for connections: each takes a descriptor, and so do the store, the spool and the pipes to the engines.
#
# A shell gives a process 1024, which one client could use up: then nobody else gets in, the operator
# neither, and nothing
# can be opened. The units give more; a daemon that is started by hand takes what it may have.
log = structlog.get_logger("edge_agent.server")

LISTENERS = 4
OTHERS = 512
"""For everything that is no connection of a caller."""


def raise_descriptor_limit(connections_max: int) -> None:
    """Raise this process's own limit to what so many connections on each listener need, as far as it may."""
    needed = LISTENERS * connections_max + OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in range(needed):  # RLIM_INFINITY is -1
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft in range(needed):
        remedy = "raise the hard limit ('ulimit -Hn', LimitNOFILE=), or lower 'connections_max' under 'access'"
        log.warning("descriptors_short", limit=soft, needed=needed, remedy=remedy)
