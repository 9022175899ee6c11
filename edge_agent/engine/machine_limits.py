"""What this machine offers to engines: processor threads, memory, and the devices that the installed libraries know.

Every engine gets the same whole number of threads, rounded down, and at least one: a llama engine computes each step
with that many, an onnx engine computes that many batches at the same time, each on one. The aim is a core for each
thread, because a step of several threads waits for the slowest of them. More threads than cores can be ready to run:

- with more engines than cores, because each engine has at least one thread;
- after an engine was added, until the others restart: an engine takes its share when it starts;
- while a task moves to a new engine, because the old one still answers and is no longer counted;
- during a request, because the daemon and the tokenizer of an onnx engine compute for a short time as well, and
  while a bundle is attached, which computes a few inputs.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from edge_agent.engine.accelerator_policy import DeviceSupport

_BYTES_IN_KIB = 1024
_CGROUP_LIMITS = ("memory.max", "memory.high")


def threads_per_engine(total: int, engines: int) -> int:
    """Return the threads of each engine."""
    return max(1, total // max(1, engines))


def available_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process can keep busy, at least 1: its affinity, and the quotas of its control groups.

    `root` is where proc and sys are mounted.
    """
    quotas = [_text(group / "cpu.max") for group in own_cgroups(root)]
    return allowed_cores(len(os.sched_getaffinity(0)), quotas)


def allowed_cores(schedulable: int, cpu_max: Iterable[str]) -> int:
    """Return how many cores a process can keep busy. Pure.

    Args:
        schedulable: cores that it may run on, sched_getaffinity(2).
        cpu_max: the contents of cpu.max of its control group and those around it (cgroup v2): "150000 100000" is 150 ms
            in each 100 ms. Rounded down: a thread too many uses the time up early, and then all of them are stopped.
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
    """What it was granted and takes step by step, while it loads; 0 = it has not asked yet. None = it does not load."""

    @property
    def counted(self) -> int:
        """What others cannot have. A child that has not asked yet will ask after them."""
        if self.granted is None:
            return self.resident
        return max(self.granted, self.resident) if self.granted else 0

    @property
    def coming(self) -> int:
        """The part of it that it has not taken yet."""
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
    limits = [_free_in_machine(root), *(free for group in own_cgroups(root) for free in _free_in_cgroup(group))]
    free = min(limit - reserve for limit in limits) + own - sum(each.coming for each in others)
    return max(1, min(free, cap - sum(each.counted for each in others)) if cap else free)


def own_cgroups(root: Path = Path("/")) -> list[Path]:
    """Return the folders of the control group of this process and of all around it, the innermost first (cgroup v2)."""
    # proc(5): "0::/system.slice/edge-agent.service" is the line of cgroup v2
    own = re.search(r"^0::/(.*)$", _text(root / "proc/self/cgroup"), re.MULTILINE)
    if own is None:
        return []
    mount = root / "sys/fs/cgroup"
    folder = mount / own[1]
    groups = [folder, *folder.parents]
    return groups[: groups.index(mount) + 1]


def _free_in_machine(root: Path) -> int:
    """Return MemAvailable of proc(5): what can be had without swapping, unused page cache included."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", (root / "proc/meminfo").read_text(), re.MULTILINE)
    assert found, "Linux 3.14 and newer have MemAvailable"
    return int(found[1]) * _BYTES_IN_KIB


def _free_in_cgroup(group: Path) -> list[int]:
    """Return what is left below each limit of a control group."""
    # Like MemAvailable: the kernel gives up unused page cache when memory is needed.
    idle = re.search(r"^inactive_file (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    current = _text(group / "memory.current")
    limits = [_text(group / name) for name in _CGROUP_LIMITS]
    taken = int(current or 0) - (int(idle[1]) if idle else 0)
    return [int(limit) - taken for limit in limits if limit.isdecimal()]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


NODES = {"cuda": ("dev/nvidia[0-9]*",), "vulkan": ("dev/dri/renderD*", "dev/nvidia[0-9]*")}
# Runtime and device: where the library that a build for it brings may lie, below the folder of the packages.
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
    packages = packages or _packages_of(_PACKAGES.get(runtime, "echo"))
    return DeviceSupport(known=tuple(libraries), built=_found(packages, libraries), present=devices_present(root))


def devices_present(root: Path = Path("/")) -> list[str]:
    """Return the devices of which this machine has a node."""
    return _found(root, NODES)


def _found(root: Path, patterns: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return the devices of which a file is there."""
    return [device for device, each in patterns.items() if any(any(root.glob(pattern)) for pattern in each)]


def _packages_of(package: str) -> Path:
    """Return where a package is installed; it is not imported."""
    found = importlib.util.find_spec(package)
    return Path(found.origin).parent.parent if found and found.origin else Path("/nowhere")
