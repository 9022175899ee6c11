"""The machine itself: its clock, disks, memory, processor and kernel. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edge_agent.byte_sizes import format_bytes
from edge_agent.doctor.findings import Case, Check, Finding, first, lasting, otherwise

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
"""So long after the newest signature either nobody publishes any more, or the clock runs ahead."""
JUMP_SECONDS_MAX = 60.0
SLACK_SECONDS = 300.0
FREE_BYTES_WANTED = 2 * 10**9
"""Room for a small model and the version before it."""
INODES_WANTED = 10_000
INODES_NEEDED = 500
WANTED_CPU_FLAGS = ("avx2", "avx512f", "avx512_vnni")
_SET_CLOCK = "sudo timedatectl set-ntp true || sudo timedatectl set-time 'YYYY-MM-DD HH:MM'"
_DISK_REMEDY = "Free some space: remove versions that do not answer, shrink the system's journal."
_DISK_COMMAND = "edge-agent models; edge-agent remove TASK VERSION; sudo journalctl --vacuum-size=100M"


@dataclass(frozen=True)
class ClockFacts:
    """Times in seconds since 1970."""

    now: float
    shown: str
    """The same for people."""
    signed: float | None
    """Newest time that the fleet has signed, as far as this site has seen; None = none, or it could not be read."""
    jumped_seconds: float | None
    """How much more the wall clock went than the daemon ran; None = it is not running."""
    synchronized: bool | None
    """Whether a time server keeps it; None = nobody knows."""

    @property
    def ahead_seconds(self) -> float:
        """How far it is ahead of the newest signature; 0 where there is none."""
        return self.now - self.signed if self.signed else 0.0

    @property
    def ahead(self) -> str:
        """The same for people."""
        return lasting(self.ahead_seconds)

    @property
    def behind(self) -> str:
        """How far it is behind, for people."""
        return lasting(-self.ahead_seconds)

    @property
    def jump(self) -> float:
        """The jump in either direction, in seconds."""
        return self.jumped_seconds or 0.0

    @property
    def jumped(self) -> str:
        """The same for people."""
        return f"{lasting(abs(self.jump))} {'forward' if self.jump > 0 else 'back'}"


_SET = "Set the clock; updates that expired or were refused for it are then tried again by themselves."
_AFTER = "{f.ahead} after the newest signature seen here. Updates count as expired"
_CLOCK: tuple[Case[ClockFacts], ...] = (
    Case(
        "fault",
        lambda f: f.ahead_seconds < -SLACK_SECONDS,
        "it says {f.shown}: {f.behind} behind the newest signature seen here",
        _SET,
        _SET_CLOCK,
    ),
    Case("fault", lambda f: f.now < EARLIEST, "it says {f.shown}: this program is newer", _SET, _SET_CLOCK),
    Case("fault", lambda f: f.ahead_seconds > SIGNED_AGE_SECONDS_MAX, "it says {f.shown}: " + _AFTER, _SET, _SET_CLOCK),
    Case("fault", lambda f: f.now > LATEST, "it says {f.shown}: that is far ahead", _SET, _SET_CLOCK),
    Case(
        "note",
        lambda f: f.synchronized is False,
        "it says {f.shown}; no time server keeps it",
        "Compare it with a watch now and then, or give the machine a time server.",
        "timedatectl",
    ),
    Case("ok", otherwise, "it says {f.shown}"),
)
_JUMP: tuple[Case[ClockFacts], ...] = (
    Case(
        "note",
        lambda f: abs(f.jump) > JUMP_SECONDS_MAX,
        "it jumped {f.jumped} since the daemon started",
        "Nothing is lost by it: spans are measured in running time. Is its battery flat?",
        "timedatectl",
    ),
    Case("ok", lambda f: f.jumped_seconds is not None, "it has not jumped since the daemon started"),
)


def clock(facts: ClockFacts) -> Iterator[Finding]:
    """Judge the clock."""
    yield from first(CLOCK, _CLOCK, facts)
    yield from first(JUMP, _JUMP, facts)


@dataclass(frozen=True)
class Volume:
    """One file system that something of ours lies on."""

    path: str
    what: str
    free_bytes: int
    total_bytes: int
    free_inodes: int
    total_inodes: int
    """0 = the file system has no fixed number."""
    read_only: bool
    reserve_bytes: int
    """What our own settings leave free on it."""

    @property
    def room(self) -> str:
        """What is free, for people."""
        return f"{self.path} ({self.what}): {format_bytes(self.free_bytes)} of {format_bytes(self.total_bytes)} free"

    @property
    def reserve(self) -> str:
        """The reserve, for people."""
        return format_bytes(self.reserve_bytes)


_ROOM: tuple[Case[Volume], ...] = (
    Case(
        "fault",
        lambda f: f.read_only,
        "{f.room}, mounted read-only",
        "The kernel turned the disk read-only after an error, or it was mounted so. Look why, then remount it.",
        "sudo dmesg | tail -50; findmnt",
    ),
    Case(
        "fault",
        lambda f: f.free_bytes < f.reserve_bytes,
        "{f.room}, under the reserve of {f.reserve}: nothing new is kept",
        _DISK_REMEDY,
        _DISK_COMMAND,
    ),
    Case(
        "warning",
        lambda f: f.free_bytes < FREE_BYTES_WANTED,
        "{f.room}; a new version may not fit",
        _DISK_REMEDY,
        _DISK_COMMAND,
    ),
    Case("ok", otherwise, "{f.room}"),
)
_INODES_REMEDY = "Some program has filled the disk with small files: find the folder, and remove them."
_INODES_COMMAND = "sudo du --inodes -xd3 {f.path} | sort -n | tail"
_LEFT = "{f.path}: {f.free_inodes} of {f.total_inodes} free"
_INODES: tuple[Case[Volume], ...] = (
    Case("ok", lambda f: f.free_inodes >= INODES_WANTED, _LEFT),
    Case("warning", lambda f: f.free_inodes >= INODES_NEEDED, _LEFT, _INODES_REMEDY, _INODES_COMMAND),
    Case("fault", lambda f: f.total_inodes, _LEFT + ": no file can be made soon", _INODES_REMEDY, _INODES_COMMAND),
)


def disks(volumes: tuple[Volume, ...]) -> Iterator[Finding]:
    """Judge room and inodes of each file system."""
    for volume in volumes:
        yield from first(DISK, _ROOM, volume, about=volume.path)
        yield from first(INODES, _INODES, volume, about=volume.path)


@dataclass(frozen=True)
class MemoryFacts:
    """Bytes."""

    available: int
    total: int
    reserve: int
    """What engines leave to the rest of the machine."""


def memory(facts: MemoryFacts) -> Iterator[Finding]:
    """Judge what is free."""
    said = f"{format_bytes(facts.available)} of {format_bytes(facts.total)} available"
    if facts.available < facts.reserve:
        remedy = "Find what takes it; a new model does not load until there is room."
        yield MEMORY.warning(
            f"{said}, under the reserve of {format_bytes(facts.reserve)}", remedy, "ps aux --sort=-rss | head"
        )
    else:
        yield MEMORY.ok(said)


@dataclass(frozen=True)
class CpuFacts:
    """What /proc/cpuinfo says."""

    machine: str
    cores: int
    flags: frozenset[str]


def cpu(facts: CpuFacts) -> Iterator[Finding]:
    """Judge the processor."""
    said = f"{facts.machine}, {facts.cores} cores"
    if facts.machine not in ("x86_64", "AMD64"):
        yield CPU.ok(said)
    elif "avx2" in facts.flags:
        yield CPU.ok(f"{said}, {', '.join(flag for flag in WANTED_CPU_FLAGS if flag in facts.flags)}")
    else:
        remedy = "Models run, but several times slower than on a CPU with AVX2."
        yield CPU.warning(f"{said}, no AVX2", remedy, "grep -m1 '^flags' /proc/cpuinfo")


@dataclass(frozen=True)
class KernelFacts:
    """What the kernel offers to children that give up their rights, and to large memory."""

    release: str
    landlock: bool | None
    seccomp: bool
    huge_pages: str
    """always, madvise or never; empty = this kernel has none."""


def kernel(facts: KernelFacts) -> Iterator[Finding]:
    """Judge the kernel: confinement, then huge pages."""
    missing = [name for name, has in (("Landlock", facts.landlock), ("seccomp", facts.seccomp)) if has is False]
    if missing:
        remedy = "Use a kernel with seccomp and Landlock (5.13 or newer); until then install only bundles you trust."
        said = f"Linux {facts.release} has no {' and no '.join(missing)}: engines are less confined"
        yield KERNEL.warning(said, remedy, "cat /sys/kernel/security/lsm; uname -r")
    else:
        yield KERNEL.ok(f"Linux {facts.release}, seccomp and Landlock")
    if facts.huge_pages in ("always", "madvise"):
        yield HUGE_PAGES.ok(f"mode {facts.huge_pages}")
    else:
        said = f"mode {facts.huge_pages or 'none'}: encoders answer some 5 % slower than they could"
        command = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
        yield HUGE_PAGES.note(said, "Allow huge pages to those who ask for them.", command)
