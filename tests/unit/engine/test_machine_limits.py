"""The threads and memory that engines may use, and the devices that the installed libraries and the machine offer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.engine import machine_limits
from edge_agent.engine.machine_limits import (
    DeviceSupport,
    EngineMemoryUse,
    allowed_cores,
    available_cores,
    available_memory,
    threads_per_engine,
)

SCHEDULABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("total", "engines", "each"),
    [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 4, 1), (7, 2, 3), (1, 1, 1), (2, 0, 2)],
)
def test_engines_share_threads_evenly(total, engines, each):
    """Each engine gets the same whole number of threads, rounded down."""
    assert each == threads_per_engine(total, engines)


def test_thread_shares_stay_within_the_total():
    """The threads of all engines add up to at most the total as long as there is a core for each engine."""
    for total in range(1, 65):
        assert all(threads_per_engine(total, engines) * engines <= total for engines in range(1, total + 1))


def test_every_engine_gets_a_thread():
    """With more engines than cores, each engine still gets one thread."""
    assert 1 == threads_per_engine(2, 5)


@pytest.mark.parametrize(
    ("cpu_max", "cores_left"),
    [
        ([], 8),
        (["max 100000\n"], 8),
        (["400000 100000\n"], 4),
        (["350000 100000\n"], 3),
        (["50000 100000\n"], 1),
        (["1600000 100000\n"], 8),
        (["600000 100000\n", "max 100000\n", "200000 100000\n"], 2),
        (["", "nonsense", "1 0", "-1 100000"], 8),
    ],
)
def test_tightest_cpu_quota_applies(cpu_max, cores_left):
    """CPU quotas are rounded down to whole cores, at least one; a missing or invalid quota limits nothing."""
    assert cores_left == allowed_cores(8, cpu_max)


def test_cpu_quota_of_an_outer_cgroup_applies(tmp_path):
    """A CPU quota on a slice limits the service in it."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpuset:/elsewhere\n0::/edge.slice/edge-agent.service\n")
    own = tmp_path / "sys/fs/cgroup/edge.slice/edge-agent.service"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    assert SCHEDULABLE == available_cores(tmp_path)
    (own.parent / "cpu.max").write_text("100000 100000\n")
    assert 1 == available_cores(tmp_path)


def test_cpu_quota_in_a_container_applies(tmp_path):
    """In its own cgroup namespace a process sees its group as the root, and the quota there applies."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    assert 1 == available_cores(tmp_path)


def test_cpu_affinity_applies_without_cgroups(tmp_path):
    """Where no cgroup file can be read, every core that the process may run on is counted."""
    assert SCHEDULABLE == available_cores(tmp_path)
    assert 1 <= available_cores() <= SCHEDULABLE


def machine(root: Path, available_kib: int = 1000, group: str = "") -> Path:
    """Write the memory files of Linux under /proc; `group` is the process's own control group (cgroup v2)."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  9999 kB\nMemAvailable:   {available_kib} kB\nBuffers: 1 kB\n")
    if group:
        (root / "proc/self/cgroup").write_text(f"9:name=systemd:/\n0::{group}\n")
    return root


def limit(root: Path, group: str, **values: str) -> None:
    """Write the files of one control group; `memory_max` becomes memory.max."""
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("_", ".", 1)).write_text(value + "\n")


def test_available_memory_excludes_the_reserve(tmp_path: Path) -> None:
    """The available memory is MemAvailable minus the reserve."""
    assert 1000 * 1024 - 24 == available_memory(24, 0, 0, [EngineMemoryUse(500)], machine(tmp_path))


def test_exhausted_memory_is_reported_as_one_byte(tmp_path: Path) -> None:
    """An exhausted machine reports 1 available byte, because 0 would mean that memory was not measured."""
    assert 1 == available_memory(10**9, 0, 0, [], machine(tmp_path))
    assert 1 == available_memory(0, 100, 0, [EngineMemoryUse(100)], tmp_path)


def test_memory_cap_covers_all_engines_together(tmp_path: Path) -> None:
    """The memory of running engines is subtracted from the cap; a cap above the machine's memory changes nothing."""
    root = machine(tmp_path)
    assert 700 == available_memory(24, 1000, 0, [EngineMemoryUse(300)], root)
    assert 1000 * 1024 - 24 == available_memory(24, 10**9, 0, [EngineMemoryUse(300)], root)


def test_tightest_cgroup_memory_limit_applies(tmp_path: Path) -> None:
    """The memory limits of the own control group and of all groups above it apply; inactive page cache does not count
    as used."""
    root = machine(tmp_path, 1000, "/system.slice/edge-agent.service")
    limit(root, "system.slice", memory_max="50000", memory_current="30000")
    limit(root, "system.slice/edge-agent.service", memory_max="max", memory_high="90000", memory_current="1000")
    assert 20_000 == available_memory(0, 0, 0, [], root)
    limit(root, "system.slice", memory_stat="anon 1\ninactive_file 25000\nactive_file 3")
    assert 45_000 == available_memory(0, 0, 0, [], root)
    limit(root, "system.slice/edge-agent.service", memory_high="9000")
    assert 7_999 == available_memory(1, 0, 0, [], root)


@pytest.mark.parametrize("group", ["", "/", "/gone"])
def test_machine_memory_applies_without_a_cgroup_limit(tmp_path: Path, group: str) -> None:
    """Without control groups, in the root group, and in a group without files, MemAvailable applies."""
    assert 1000 * 1024 == available_memory(0, 0, 0, [], machine(tmp_path, group=group))


def lay(root: Path, *paths: str) -> Path:
    """Create empty files."""
    root.mkdir(exist_ok=True)
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return root


@pytest.mark.parametrize(
    ("runtime", "files", "offered"),
    [
        ("llama", (), DeviceSupport(("cuda", "vulkan"), [], [])),
        ("llama", ("bin/libggml-vulkan.so",), DeviceSupport(("cuda", "vulkan"), ["vulkan"], [])),
        ("llama", ("llama_cpp/lib/libggml-cuda.so",), DeviceSupport(("cuda", "vulkan"), ["cuda"], [])),
        ("onnx", ("bin/libggml-cuda.so",), DeviceSupport(("cuda",), [], [])),
        ("onnx", ("onnxruntime/capi/libonnxruntime_providers_cuda.so",), DeviceSupport(("cuda",), ["cuda"], [])),
        ("echo", ("bin/libggml-cuda.so",), DeviceSupport((), [], [])),
    ],
)
def test_supported_devices_follow_from_installed_libraries(
    tmp_path: Path, runtime: str, files: tuple[str, ...], offered: DeviceSupport
):
    """The devices that a runtime supports are detected from its libraries: in the portable build's own folder,
    otherwise next to the main library."""
    assert offered == machine_limits.detect_support(runtime, tmp_path / "root", lay(tmp_path / "packages", *files))


@pytest.mark.parametrize(
    ("nodes", "present"),
    [
        ((), []),
        (("dri/card0",), []),
        (("dri/renderD128",), ["vulkan"]),
        (("dri/renderD129",), ["vulkan"]),
        (("nvidia0", "nvidiactl"), ["cuda", "vulkan"]),
        (("nvidiactl",), []),
    ],
)
def test_device_is_detected_by_its_node(tmp_path: Path, nodes: tuple[str, ...], present: list[str]):
    """A render node or a numbered NVIDIA card counts as a device, and the card also supports Vulkan; NVIDIA's control
    node alone does not count."""
    assert present == machine_limits.detect_support("echo", lay(tmp_path, *(f"dev/{node}" for node in nodes))).present


def test_device_detection_loads_no_runtime_library():
    """The daemon detects devices without loading a library that only a child may load."""
    script = (
        "import sys; from edge_agent.engine.machine_limits import detect_support as detect; "
        "detect('llama'); detect('onnx'); "
        "print({'llama_cpp', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    assert (
        "set()\n" == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    )
