"""Resources of this process: resident memory, memory that malloc keeps, and file descriptors. Linux only.

After a flood of calls glibc keeps most of the memory: it returns nothing between two blocks in use unless asked to
(malloc_trim(3)). Measured: 580 MB after 100,000 headers on eight connections, 185 MB after a trim of 60 ms. Python's
own small objects do not come from malloc and stay.

Each connection takes a descriptor, as do the store, the spool and the pipes to the engines. A shell's usual limit of
1024 could be used up by one client: then no other client connects, not even the operator, and no file opens. The
systemd units set a higher limit; a daemon started by hand raises its own.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import resource
from collections.abc import Callable
from pathlib import Path

import structlog


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process in bytes; 0 if it has ended, and for pid 0."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) if pid else 0
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


log = structlog.get_logger("edge_agent.server")

TRIM_EVERY_SECONDS = 5.0
KEPT_BYTES_MAX = 32 << 20
"""Trim only after more growth than this: a trim blocks allocations for 5 to 150 ms."""
ARENAS_MAX = 2
"""Most arenas of malloc; its default is eight per processor. More arenas keep more memory between blocks in use."""
_M_ARENA_MAX = -8  # malloc.h
OBJECTS_BETWEEN_COLLECTIONS = (700, 10, 10)
"""Python's own defaults (gc.set_threshold)."""


def limit_malloc_arenas() -> None:
    """Limit malloc's arenas (mallopt(3)); call it before any thread starts."""
    if hasattr(ctypes.CDLL(None), "mallopt"):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, ARENAS_MAX)


def freeze_startup_objects() -> None:
    """Exclude everything loaded so far from Python's garbage collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*OBJECTS_BETWEEN_COLLECTIONS)


async def trim_periodically(every_seconds: float = TRIM_EVERY_SECONDS) -> None:
    """Trim malloc's memory when the process has grown, until cancelled; return at once without malloc_trim."""
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None:  # musl does not have it, and keeps little
        return
    floor = resident_bytes(os.getpid())
    while True:
        await asyncio.sleep(every_seconds)
        if resident_bytes(os.getpid()) - floor > KEPT_BYTES_MAX:
            await asyncio.to_thread(trim, 0)
            floor = resident_bytes(os.getpid())
        floor = min(floor, resident_bytes(os.getpid()))


_LISTENERS = 4
_OTHER_DESCRIPTORS = 512
"""Descriptors for everything except the callers' connections."""


def raise_descriptor_limit(connections_max: int) -> None:
    """Raise this process's descriptor limit, up to the hard limit, to `connections_max` for each listener."""
    needed = _LISTENERS * connections_max + _OTHER_DESCRIPTORS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft in range(needed):  # RLIM_INFINITY is -1
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft in range(needed):
        remedy = "raise the hard limit ('ulimit -Hn', LimitNOFILE=), or lower 'connections_max' under 'access'"
        log.warning("descriptors_short", limit=soft, needed=needed, remedy=remedy)
