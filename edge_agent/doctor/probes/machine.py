"""Looks at clock, disks, memory, processor and kernel."""

from __future__ import annotations

import os
import platform
import re
import time
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.machine import ClockFacts, CpuFacts, KernelFacts, MemoryFacts, Volume
from edge_agent.doctor.probes.place import text
from edge_agent.doctor.probes.serving import Case, running_seconds
from edge_agent.engine.confinement import linux_calls

_KIB = 1024
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION = 1


def clock(case: Case) -> ClockFacts:
    """Read the clock, and what it can be held against."""
    now = time.time()
    signed = None if isinstance(case.stored, Unseen) else case.stored.signed
    said = case.place.run(("timedatectl", "show", "--property=NTPSynchronized", "--value"))
    synchronized = {"yes": True, "no": False}.get((said or "").strip())
    shown = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    return ClockFacts(now, shown, signed, _jumped(case, now), synchronized)


def _jumped(case: Case, now: float) -> float | None:
    """Hold the time since the daemon started by the wall clock against how long its process runs."""
    if case.status is None or case.started is None:
        return None
    return (now - case.status.start_time.timestamp()) - (running_seconds() - case.started)


def disks(case: Case) -> tuple[Volume, ...]:
    """Look at each file system that something of ours lies on, once."""
    config = case.place.config
    opt = case.place.at("opt/edge-agent")
    wanted = [
        (config.state_dir, "bundles and examples", config.store.disk_reserve_bytes),
        (config.outbox, "what leaves", config.examples.disk_reserve_bytes),
        (config.incoming, "updates", config.uplink.disk_reserve_bytes),
        *([(opt, "the program", 0)] if opt.exists() else []),
    ]
    found: dict[int, Volume] = {}
    for path, what, reserve in wanted:
        near = _nearest(path)
        found.setdefault(near.stat().st_dev, _volume(near, what, reserve))
    return tuple(found.values())


def _nearest(path: Path) -> Path:
    path = path.absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _volume(path: Path, what: str, reserve: int) -> Volume:
    said = os.statvfs(path)
    return Volume(
        path=str(path),
        what=what,
        free_bytes=said.f_bavail * said.f_frsize,
        total_bytes=said.f_blocks * said.f_frsize,
        free_inodes=said.f_favail,
        total_inodes=said.f_files,
        read_only=bool(said.f_flag & os.ST_RDONLY),
        reserve_bytes=reserve,
    )


def memory(case: Case) -> MemoryFacts:
    """Read /proc/meminfo."""
    said = text(case.place.at("proc/meminfo"))
    found = {name: int(kib) * _KIB for name, kib in re.findall(r"^(\w+): +(\d+) kB$", said, re.MULTILINE)}
    reserve = case.place.config.engine.memory_reserve_bytes
    return MemoryFacts(found.get("MemAvailable", 0), found.get("MemTotal", 0), reserve)


def cpu(case: Case) -> CpuFacts:
    """Read /proc/cpuinfo."""
    features = re.search(r"^flags\s*: (.*)$", text(case.place.at("proc/cpuinfo")), re.MULTILINE)
    flags = frozenset(features[1].split()) if features else frozenset()
    return CpuFacts(platform.machine(), os.cpu_count() or 1, flags)


def confinement(case: Case) -> KernelFacts:
    """Ask the kernel what it offers."""
    chosen = re.search(r"\[(\w+)\]", text(case.place.at("sys/kernel/mm/transparent_hugepage/enabled")))
    return KernelFacts(
        release=platform.release(),
        landlock=_has_landlock(),
        seccomp="\nSeccomp:" in text(Path("/proc/self/status")),
        huge_pages=chosen[1] if chosen else "",
    )


def _has_landlock() -> bool:
    try:
        linux_calls.call(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_VERSION)
    except OSError:
        return False
    return True
