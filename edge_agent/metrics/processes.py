"""What the kernel says of our processes: proc(5), read by the thread that answers a scraper."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from edge_agent.metrics.text import Sample

# Fields of /proc/PID/stat behind the name, which may hold anything.
_USER, _SYSTEM, _THREADS, _STARTED, _PAGES = 11, 12, 17, 19, 21


def samples(name: str, pid: int, root: Path = Path("/")) -> Iterator[Sample]:
    """Yield the figures of one process; none when it is gone. `root` is where proc is mounted."""
    place = root / "proc" / str(pid)
    try:
        fields = (place / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    ticks = os.sysconf("SC_CLK_TCK")
    cpu = (int(fields[_USER]) + int(fields[_SYSTEM])) / ticks
    yield Sample("process_cpu_seconds_total", cpu, (name,))
    yield Sample("process_threads", int(fields[_THREADS]), (name,))
    yield Sample("process_resident_memory_bytes", int(fields[_PAGES]) * os.sysconf("SC_PAGE_SIZE"), (name,))
    yield Sample("process_start_time_seconds", _booted(root) + int(fields[_STARTED]) / ticks, (name,))
    try:
        yield Sample("process_open_fds", len(os.listdir(place / "fd")), (name,))  # noqa: PTH208 - counted, not walked
    except OSError:
        return  # a confined child's are hidden from us


def _booted(root: Path) -> int:
    found = re.search(r"^btime (\d+)$", (root / "proc/stat").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0
