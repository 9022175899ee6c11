"""The machine: its clock, disks, memory, processor and kernel."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from edge_agent.doctor.findings import Check, Finding, FindingRule, ProbeFailure, first_match, otherwise
from edge_agent.doctor.installation import read_text, stat_file
from edge_agent.doctor.probe_context import CheckGroup, ProbeContext, running_seconds
from edge_agent.engine import confinement
from edge_agent.formatting import counted, format_bytes, format_duration

CLOCK = Check("clock", "machine")
JUMP = Check("clock-jump", "machine")
DISK = Check("disk", "machine")
INODES = Check("inodes", "machine")
MEMORY = Check("memory", "machine")
CPU = Check("cpu", "machine")
KERNEL = Check("kernel", "machine")
HUGE_PAGES = Check("huge-pages", "machine")

EARLIEST = 1_735_689_600.0  # 2025-01-01: this program is newer
LATEST = 2_208_988_800.0  # 2040-01-01
YEAR_SECONDS = 365 * 86_400.0
SIGNED_AGE_SECONDS_MAX = 2 * YEAR_SECONDS
"""Longer after the newest signature, either publishing has ended or the clock runs ahead."""
JUMP_SECONDS_MAX = 60.0
SLACK_SECONDS = 300.0
FREE_BYTES_ADVISED = 2 * 10**9
"""Enough for a small model and its previous version."""
INODES_ADVISED = 10_000
INODES_REQUIRED = 500
USEFUL_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni")
_SET_CLOCK = "sudo timedatectl set-ntp true || sudo timedatectl set-time 'YYYY-MM-DD HH:MM'"
_DISK_REMEDY = "Free some space: remove versions that are not in use, and shrink the system journal."
_DISK_COMMAND = "edge-agent bundles list; edge-agent remove TASK VERSION; sudo journalctl --vacuum-size=100M"


@dataclass(frozen=True)
class ClockFacts:
    """Times in seconds since 1970."""

    now: float
    now_text: str
    """`now` as text."""
    signed_at: float | None
    """Newest signing time that this site has seen; None when there is none, or it could not be read."""
    jumped_seconds: float | None
    """How far the wall clock moved beyond the daemon's running time; None when the daemon does not run."""
    synchronized: bool | None
    """A time server keeps it; None when timedatectl does not answer."""

    @property
    def ahead_seconds(self) -> float:
        """Seconds ahead of the newest signature; 0 when there is none."""
        return self.now - self.signed_at if self.signed_at else 0.0

    @property
    def ahead_text(self) -> str:
        """`ahead_seconds` as text."""
        return format_duration(self.ahead_seconds)

    @property
    def behind_text(self) -> str:
        """How far it is behind the newest signature, as text."""
        return format_duration(-self.ahead_seconds)

    @property
    def jump_seconds(self) -> float:
        """The jump in either direction, in seconds."""
        return self.jumped_seconds or 0.0

    @property
    def jump_text(self) -> str:
        """Size and direction of the jump, as text."""
        return f"{format_duration(abs(self.jump_seconds))} {'forward' if self.jump_seconds > 0 else 'back'}"


_CLOCK_REMEDY = "Set the clock. The daemon then retries updates that it refused because of the wrong time."
_AFTER = "{f.ahead_text} after the newest signature seen here, so updates count as expired"
_CLOCK: tuple[FindingRule[ClockFacts], ...] = (
    FindingRule(
        "fault",
        lambda f: f.ahead_seconds < -SLACK_SECONDS,
        "it shows {f.now_text}, {f.behind_text} behind the newest signature seen here",
        _CLOCK_REMEDY,
        _SET_CLOCK,
    ),
    FindingRule(
        "fault",
        lambda f: f.now < EARLIEST,
        "it shows {f.now_text}, which is before this program was made",
        _CLOCK_REMEDY,
        _SET_CLOCK,
    ),
    FindingRule(
        "fault",
        lambda f: f.ahead_seconds > SIGNED_AGE_SECONDS_MAX,
        "it shows {f.now_text}, " + _AFTER,
        _CLOCK_REMEDY,
        _SET_CLOCK,
    ),
    FindingRule(
        "fault",
        lambda f: f.now > LATEST,
        "it shows {f.now_text}, which is far in the future",
        _CLOCK_REMEDY,
        _SET_CLOCK,
    ),
    FindingRule(
        "note",
        lambda f: f.synchronized is False,
        "it shows {f.now_text}; no time server keeps it",
        "Compare it with a watch from time to time, or configure a time server.",
        "timedatectl",
    ),
    FindingRule("ok", otherwise, "it shows {f.now_text}"),
)
_JUMP: tuple[FindingRule[ClockFacts], ...] = (
    FindingRule(
        "note",
        lambda f: abs(f.jump_seconds) > JUMP_SECONDS_MAX,
        "it jumped {f.jump_text} since the daemon started",
        "No data is lost: the daemon measures time spans by a clock that cannot jump. Check the battery of the clock.",
        "timedatectl",
    ),
    FindingRule("ok", lambda f: f.jumped_seconds is not None, "it has not jumped since the daemon started"),
)


def judge_clock(facts: ClockFacts) -> Iterator[Finding]:
    """Judge the clock."""
    yield from first_match(CLOCK, _CLOCK, facts)
    yield from first_match(JUMP, _JUMP, facts)


@dataclass(frozen=True)
class Volume:
    """One file system that holds files of Edge Agent."""

    path: str
    content: str
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int
    """0 when the file system has no fixed number."""
    read_only: bool
    reserve_bytes: int
    """Bytes that the configuration keeps free on it."""

    @property
    def free_text(self) -> str:
        """What is free, as text."""
        return f"{self.path} ({self.content}): {format_bytes(self.free_bytes)} of {format_bytes(self.total_bytes)} free"

    @property
    def reserve_text(self) -> str:
        """The reserve, as text."""
        return format_bytes(self.reserve_bytes)


_DISK: tuple[FindingRule[Volume], ...] = (
    FindingRule(
        "fault",
        lambda f: f.read_only,
        "{f.free_text}, mounted read-only",
        "The kernel made it read-only after a disk error, or it was mounted so. Find the cause, then remount it.",
        "sudo dmesg | tail -50; findmnt",
    ),
    FindingRule(
        "fault",
        lambda f: f.free_bytes < f.reserve_bytes,
        "{f.free_text}, below the reserve of {f.reserve_text}: the daemon stores nothing new",
        _DISK_REMEDY,
        _DISK_COMMAND,
    ),
    FindingRule(
        "warning",
        lambda f: f.free_bytes < FREE_BYTES_ADVISED,
        "{f.free_text}; a new version may not fit",
        _DISK_REMEDY,
        _DISK_COMMAND,
    ),
    FindingRule("ok", otherwise, "{f.free_text}"),
)
_INODES_REMEDY = "A program has filled the disk with small files. Find the folder, and remove them."
_INODES_COMMAND = "sudo du --inodes -xd3 {f.path} | sort -n | tail"
_LEFT = "{f.path}: {f.free_inodes} of {f.total_inodes} free"
_INODES: tuple[FindingRule[Volume], ...] = (
    FindingRule("ok", lambda f: f.free_inodes >= INODES_ADVISED, _LEFT),
    FindingRule("warning", lambda f: f.free_inodes >= INODES_REQUIRED, _LEFT, _INODES_REMEDY, _INODES_COMMAND),
    FindingRule(
        "fault", lambda f: f.total_inodes, _LEFT + ": no file can be made soon", _INODES_REMEDY, _INODES_COMMAND
    ),
)


def judge_disks(volumes: tuple[Volume, ...]) -> Iterator[Finding]:
    """Judge room and inodes of each file system."""
    for volume in volumes:
        yield from first_match(DISK, _DISK, volume, about=volume.path)
        yield from first_match(INODES, _INODES, volume, about=volume.path)


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes."""

    available: int
    total: int
    reserve: int
    """Bytes that engines leave to the rest of the machine."""


def judge_memory(facts: MemoryFacts) -> Iterator[Finding]:
    """Judge what is free."""
    seen = f"{format_bytes(facts.available)} of {format_bytes(facts.total)} available"
    if facts.available < facts.reserve:
        remedy = "Find the program that uses it. No new model loads until enough memory is free."
        yield MEMORY.warning(
            f"{seen}, below the reserve of {format_bytes(facts.reserve)}", remedy, "ps aux --sort=-rss | head"
        )
    else:
        yield MEMORY.ok(seen)


@dataclass(frozen=True)
class CpuFacts:
    """What /proc/cpuinfo reports."""

    machine: str
    cores: int
    flags: frozenset[str]


def judge_cpu(facts: CpuFacts) -> Iterator[Finding]:
    """Judge the processor."""
    seen = f"{facts.machine}, {counted(facts.cores, 'core')}"
    if facts.machine not in ("x86_64", "AMD64"):
        yield CPU.ok(seen)
    elif "avx2" in facts.flags:
        yield CPU.ok(f"{seen}, {', '.join(flag for flag in USEFUL_CPU_FLAGS if flag in facts.flags)}")
    else:
        remedy = (
            "Models run, but several times slower than on a CPU with AVX2. Use another machine if that is too slow."
        )
        yield CPU.warning(f"{seen}, no AVX2", remedy, "grep -m1 '^flags' /proc/cpuinfo")


@dataclass(frozen=True)
class KernelFacts:
    """What the kernel offers for confining engines, and for large memory pages."""

    release: str
    landlock: bool | None
    seccomp: bool
    huge_pages: str
    """always, madvise or never; empty when this kernel has no huge pages."""


def judge_kernel(facts: KernelFacts) -> Iterator[Finding]:
    """Judge the kernel: confinement, then huge pages."""
    missing = [name for name, has in (("Landlock", facts.landlock), ("seccomp", facts.seccomp)) if has is False]
    if missing:
        remedy = "Use a kernel with seccomp and Landlock (5.13 or newer); until then install only bundles you trust."
        seen = f"Linux {facts.release} has no {' and no '.join(missing)}: engines are less confined"
        yield KERNEL.warning(seen, remedy, "cat /sys/kernel/security/lsm; uname -r")
    else:
        yield KERNEL.ok(f"Linux {facts.release}, seccomp and Landlock")
    if facts.huge_pages in ("always", "madvise"):
        yield HUGE_PAGES.ok(f"mode {facts.huge_pages}")
    else:
        seen = f"mode {facts.huge_pages or 'none'}: encoders answer about 5% slower than with huge pages"
        command = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield HUGE_PAGES.note(seen, "Allow huge pages to programs that request them.", command)


_KIB = 1024
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_VERSION = 1


def probe_clock(context: ProbeContext) -> ClockFacts:
    """Read the clock, and what it can be compared with."""
    now = time.time()
    signed_at = None if isinstance(context.stored, ProbeFailure) else context.stored.signed_at
    answer = context.installation.run(("timedatectl", "show", "--property=NTPSynchronized", "--value"))
    synchronized = {"yes": True, "no": False}.get((answer or "").strip())
    now_text = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    jumped_seconds = None
    if context.status is not None and context.started is not None:
        # The wall clock's time since the daemon started, compared with how long its process has run.
        jumped_seconds = (now - context.status.start_time.timestamp()) - (running_seconds() - context.started)
    return ClockFacts(now, now_text, signed_at, jumped_seconds, synchronized)


def probe_disks(context: ProbeContext) -> tuple[Volume, ...]:
    """Look once at each file system that holds files of Edge Agent."""
    config = context.installation.config
    opt = context.installation.at("opt/edge-agent")
    folders = [
        (config.state_dir, "bundles and examples", config.store.disk_reserve_bytes),
        (config.outbox, "outgoing examples", config.examples.disk_reserve_bytes),
        (config.incoming, "updates", config.uplink.disk_reserve_bytes),
        *([(opt, "the program", 0)] if stat_file(opt).kind else []),
    ]
    volumes: dict[int, Volume] = {}
    for folder, content, reserve in folders:
        path = next(each for each in (folder.absolute(), *folder.absolute().parents) if stat_file(each).kind)
        device, stat = path.stat().st_dev, os.statvfs(path)
        volume = Volume(
            path=str(path),
            content=content,
            free_bytes=stat.f_bavail * stat.f_frsize,
            total_bytes=stat.f_blocks * stat.f_frsize,
            free_inodes=stat.f_favail,
            total_inodes=stat.f_files,
            read_only=bool(stat.f_flag & os.ST_RDONLY),
            reserve_bytes=reserve,
        )
        volumes.setdefault(device, volume)
    return tuple(volumes.values())


def probe_memory(context: ProbeContext) -> MemoryFacts:
    """Read /proc/meminfo."""
    text = read_text(context.installation.at("proc/meminfo"))
    sizes = {name: int(kib) * _KIB for name, kib in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    reserve = context.installation.config.engine.memory_reserve_bytes
    return MemoryFacts(sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0), reserve)


def probe_cpu(context: ProbeContext) -> CpuFacts:
    """Read /proc/cpuinfo."""
    features = re.search(r"^flags\s*: (.*)$", read_text(context.installation.at("proc/cpuinfo")), re.MULTILINE)
    flags = frozenset(features[1].split()) if features else frozenset()
    return CpuFacts(platform.machine(), os.cpu_count() or 1, flags)


def probe_kernel(context: ProbeContext) -> KernelFacts:
    """Ask the kernel for seccomp, Landlock and huge pages."""
    mode = re.search(r"\[(\w+)\]", read_text(context.installation.at("sys/kernel/mm/transparent_hugepage/enabled")))
    return KernelFacts(
        release=platform.release(),
        landlock=_has_landlock(),
        seccomp="\nSeccomp:" in read_text(Path("/proc/self/status")),
        huge_pages=mode[1] if mode else "",
    )


def _has_landlock() -> bool:
    try:
        confinement.system_call(_LANDLOCK_CREATE_RULESET, 0, 0, _LANDLOCK_VERSION)
    except OSError:
        return False
    return True


GROUPS = (
    CheckGroup((CLOCK, JUMP), probe_clock, judge_clock),
    CheckGroup((DISK, INODES), probe_disks, judge_disks),
    CheckGroup((MEMORY,), probe_memory, judge_memory),
    CheckGroup((CPU,), probe_cpu, judge_cpu),
    CheckGroup((KERNEL, HUGE_PAGES), probe_kernel, judge_kernel),
)
