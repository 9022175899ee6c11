"""What this machine offers to engines: processor threads, memory, and the devices that the installed libraries know.

Every engine gets the same whole number of threads, rounded down, and at least one: a llama engine computes each step
with that many, an onnx engine computes that many batches at the same time, each on one. The aim is a core for each
thread, because a step of several threads waits for the slowest of them. More threads than cores can be ready to run:

- with more engines than cores, because each engine has at least one thread;
- after an engine was added, until the others restart: an engine takes its share when it starts;
- while a task moves to a new engine, because the old one still answers and is no longer counted;
- during a request, because the daemon and the tokenizer of an onnx engine compute for a short time as well, and
  while a bundle is attached, which computes a few inputs.

`AcceleratorPolicy` decides on which device the next child of an engine computes, and when one that failed is tried
again. A child has one device for its whole life, because its confinement depends on the device, and a failed driver
ends with the child. A device that cannot be used (`DeviceUnusable`) is left at once; one on which children die or do
not load is left after `failures_max` failures within `retry_seconds`. Then the CPU computes, and status and answers
show it. After a cause that may pass (no memory, a lost device) the device is tried again after `retry_seconds`, then
after twice that, up to a day; after a lasting cause (another build, no device, different answers) when the daemon
starts the next time.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from edge_agent.backoff import backoff_seconds
from edge_agent.errors import DeviceUnusable, EdgeAgentError

_BYTES_IN_KIB = 1024
_CGROUP_LIMITS = ("memory.max", "memory.high")


def threads_per_engine(total: int, engines: int) -> int:
    """Return the threads of each engine."""
    return max(1, total // max(1, engines))


def available_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process can keep busy, at least 1: its affinity, and the quotas of its control groups.

    `root` is where proc and sys are mounted.
    """
    quotas = [_read_text(group / "cpu.max") for group in own_cgroups(root)]
    return allowed_cores(len(os.sched_getaffinity(0)), quotas)


def allowed_cores(schedulable: int, cpu_max: Iterable[str]) -> int:
    """Return how many cores a process can keep busy. Pure.

    Args:
        schedulable: cores that it may run on, sched_getaffinity(2).
        cpu_max: the contents of cpu.max of its control group and those around it (cgroup v2): "150000 100000" is 150 ms
            in each 100 ms. Rounded down: with one thread too many the quota is used up early, and all threads stop.
    """
    limits = [schedulable]
    for content in cpu_max:
        quota, _, period = content.strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            limits.append(int(quota) // int(period))
    return max(1, min(limits))


class EngineMemoryUse(NamedTuple):
    """What one engine takes, in bytes."""

    resident: int
    granted: int | None = None
    """What it was granted and takes gradually while it loads; 0 = it has not asked yet. None = it does not load."""

    @property
    def counted(self) -> int:
        """What others cannot have; nothing for a child that has not asked yet, since it gets only what they leave."""
        if self.granted is None:
            return self.resident
        return max(self.granted, self.resident) if self.granted else 0

    @property
    def pending(self) -> int:
        """The part of `counted` that it has not taken yet."""
        return max(0, self.counted - self.resident)


def available_memory(
    reserve: int, cap: int, own: int, others: Sequence[EngineMemoryUse], root: Path = Path("/")
) -> int:
    """Return how much one engine may take in all, in bytes, at least 1.

    Args:
        reserve: what stays for the rest of the machine.
        cap: the most that all engines together may take; 0 = no such limit.
        own: what it has taken already, in bytes.
        others: the other engines.
        root: where proc and sys are mounted.
    """
    # What can be allocated without swapping, unused page cache included (proc(5)).
    match = re.search(r"^MemAvailable: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    assert match, "Linux 3.14 and newer have MemAvailable"
    free_in_machine = int(match[1]) * _BYTES_IN_KIB
    limits = [free_in_machine, *(free for group in own_cgroups(root) for free in _free_in_cgroup(group))]
    free = min(limit - reserve for limit in limits) + own - sum(each.pending for each in others)
    return max(1, min(free, cap - sum(each.counted for each in others)) if cap else free)


def own_cgroups(root: Path = Path("/")) -> list[Path]:
    """Return the folders of the control group of this process and of all around it, the innermost first (cgroup v2)."""
    # proc(5): "0::/system.slice/edge-agent.service" is the line of cgroup v2
    match = re.search(r"^0::/(.*)$", _read_text(root / "proc/self/cgroup"), re.MULTILINE)
    if match is None:
        return []
    mount = root / "sys/fs/cgroup"
    folder = mount / match[1]
    groups = [folder, *folder.parents]
    return groups[: groups.index(mount) + 1]


def _free_in_cgroup(group: Path) -> list[int]:
    """Return what is left below each limit of a control group."""
    # Like MemAvailable: the kernel gives up unused page cache when memory is needed.
    inactive = re.search(r"^inactive_file (\d+)$", _read_text(group / "memory.stat"), re.MULTILINE)
    current = _read_text(group / "memory.current")
    limits = [_read_text(group / name) for name in _CGROUP_LIMITS]
    used = int(current or 0) - (int(inactive[1]) if inactive else 0)
    return [int(limit) - used for limit in limits if limit.isdecimal()]


def _read_text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


NODES = {"cuda": ("dev/nvidia[0-9]*",), "vulkan": ("dev/dri/renderD*", "dev/nvidia[0-9]*")}
# By runtime and device: where a build for that device has its library, below the folder of the packages.
LIBRARIES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "llama": {
        "cuda": ("bin/libggml-cuda.so", "llama_cpp/lib/libggml-cuda.so"),
        "vulkan": ("bin/libggml-vulkan.so", "llama_cpp/lib/libggml-vulkan.so"),
    },
    "onnx": {"cuda": ("onnxruntime/capi/libonnxruntime_providers_cuda.so",)},
}
_PACKAGES = {"llama": "llama_cpp", "onnx": "onnxruntime"}


def detect_support(runtime: str, root: Path = Path("/"), packages: Path | None = None) -> DeviceSupport:
    """Look at what a runtime could compute on.

    Args:
        runtime: llama, onnx or echo; echo computes nothing.
        root: where dev is mounted.
        packages: where the libraries are installed; None = where this interpreter finds them.
    """
    libraries = LIBRARIES.get(runtime, {})
    packages = packages or _packages_folder(_PACKAGES.get(runtime, "echo"))
    return DeviceSupport(
        known=tuple(libraries), built=_devices_with_files(packages, libraries), present=_devices_with_files(root, NODES)
    )


def _devices_with_files(root: Path, patterns: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the devices of which a file exists."""
    return [device for device, globs in patterns.items() if any(any(root.glob(each)) for each in globs)]


def _packages_folder(package: str) -> Path:
    """Return where a package is installed; it is not imported."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent.parent if spec and spec.origin else Path("/nowhere")


CPU = "cpu"
DEVICE_FALLBACK, DEVICE_PARTIAL = "DEVICE_FALLBACK", "DEVICE_PARTIAL"  # as answers carry them in `degraded`
BEST_FIRST = ("cuda", "vulkan")
RETRY_SECONDS_MAX = 86_400.0


@dataclass(frozen=True)
class DeviceSupport:
    """What a runtime could compute on, in addition to the CPU."""

    known: Collection[str] = ()
    """Devices that the library can be built for."""
    built: Collection[str] = ()
    """Those that the installed one is built for."""
    present: Collection[str] = ()
    """Those that this machine has."""


def candidate_devices(setting: str, required: str, support: DeviceSupport) -> tuple[str, ...]:
    """Return the devices to try, the best first; none = the CPU was asked for, or there is nothing else.

    Args:
        setting: `engine.device`: auto, cpu, cuda or vulkan. A device that the runtime can never use counts as cpu.
        required: `requires.device` of the first bundle: any, cuda or vulkan.
        support: by the runtime and the machine.
    """
    chosen = required if required != "any" and setting == "auto" else setting
    if chosen == "auto":
        usable = set(support.built).intersection(support.present)
        return tuple(filter(usable.__contains__, BEST_FIRST))
    return (chosen,) if chosen in support.known else ()


@dataclass
class _DeviceRecord:
    """Why a device is not used, and its recent failures."""

    reason: str = ""
    unused_until: float = 0.0
    """It is not used before this time."""
    failures: list[float] = field(default_factory=list)
    """Times of recent failures."""
    times_abandoned: int = 0
    """How often it was abandoned."""


class AcceleratorPolicy:
    """The devices of one engine."""

    def __init__(self, devices: Collection[str] = (), failures_max: int = 2, retry_seconds: float = 3600.0) -> None:
        """Begin with the first of `devices`; see the module."""
        self.device = CPU
        self._records = {device: _DeviceRecord() for device in devices}
        self._failures_max, self._retry_seconds = failures_max, retry_seconds

    def rule_out(self, device: str, reason: str) -> None:
        """Note that a device cannot be used while the daemon runs."""
        self._records[device] = _DeviceRecord(reason, math.inf)

    def choose_device(self, now: float) -> str:
        """Choose the device of a child that starts now."""
        self.device = self._best(now)
        return self.device

    @property
    def fallback(self) -> str:
        """Why the child is not on the most wanted device; empty = it is."""
        better_devices = itertools.takewhile(lambda device: device != self.device, self._records)
        return "; ".join(f"{device} is not used: {self._records[device].reason}" for device in better_devices)

    def record_failure(self, error: EdgeAgentError, now: float) -> None:
        """Note that the child's device could not be used, or that the child died on it."""
        record = self._records[self.device]
        if record.unused_until > now:
            return  # it has been left already, and the child's death is a consequence of that
        record.reason = error.message
        if isinstance(error, DeviceUnusable):
            self._abandon(record, now, lasting=error.lasting)
            return
        record.failures = [each for each in record.failures if now - each < self._retry_seconds] + [now]
        if len(record.failures) >= self._failures_max:
            record.reason = f"{len(record.failures)} failures, the last: {error.message}"
            self._abandon(record, now, lasting=False)

    def has_better_device(self, now: float) -> bool:
        """Tell whether a better device than that of the child is to be tried again."""
        order = [*self._records, CPU]
        return order.index(self._best(now)) < order.index(self.device)

    def _best(self, now: float) -> str:
        return next((device for device, record in self._records.items() if record.unused_until <= now), CPU)

    def _abandon(self, record: _DeviceRecord, now: float, *, lasting: bool) -> None:
        if now - record.unused_until > RETRY_SECONDS_MAX:  # it worked for a day
            record.times_abandoned = 0
        pause = backoff_seconds(record.times_abandoned + 1, self._retry_seconds, RETRY_SECONDS_MAX)
        record.unused_until = math.inf if lasting else now + pause
        record.failures.clear()
        record.times_abandoned += 1
