"""How many threads and how much memory engines may use.

What the installed libraries and the machine offer to compute on, by the files that are there.
"""

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
def test_engines_share_evenly(total, engines, each):
    """Each engine gets the same whole number of threads, rounded down."""
    assert each == threads_per_engine(total, engines)


def test_shares_stay_within_the_total():
    """All shares together are at most the total as long as there is a core for each engine."""
    for total in range(1, 65):
        assert all(threads_per_engine(total, engines) * engines <= total for engines in range(1, total + 1))


def test_every_engine_gets_a_thread():
    """With more engines than cores each still has one thread."""
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
def test_the_tightest_quota_counts(cpu_max, cores_left):
    """Quotas round down to whole cores, at least one; no quota, and one that is no quota, limits nothing."""
    assert cores_left == allowed_cores(8, cpu_max)


def test_quota_of_an_outer_group_limits(tmp_path):
    """A limit on a slice holds for the service in it."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("3:cpuset:/elsewhere\n0::/edge.slice/edge-agent.service\n")
    own = tmp_path / "sys/fs/cgroup/edge.slice/edge-agent.service"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    assert SCHEDULABLE == available_cores(tmp_path)
    (own.parent / "cpu.max").write_text("100000 100000\n")
    assert 1 == available_cores(tmp_path)


def test_quota_in_a_container_limits(tmp_path):
    """In a namespace of its own a process sees its group as the root, which then has a limit."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    assert 1 == available_cores(tmp_path)


def test_without_control_groups_the_affinity_counts(tmp_path):
    """Where nothing can be read, every core that the process may run on is counted."""
    assert SCHEDULABLE == available_cores(tmp_path)
    assert 1 <= available_cores() <= SCHEDULABLE


def machine(root: Path, available_kib: int = 1000, group: str = "") -> Path:
    """Write what Linux tells of memory; `group` is the own control group of version 2."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text(f"MemTotal:  9999 kB\nMemAvailable:   {available_kib} kB\nBuffers: 1 kB\n")
    if group:
        (root / "proc/self/cgroup").write_text(f"9:name=systemd:/\n0::{group}\n")
    return root


def limit(root: Path, group: str, **values: str) -> None:
    """Write the files of one control group, `memory_max` as memory.max."""
    folder = root / "sys/fs/cgroup" / group
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("_", ".", 1)).write_text(value + "\n")


def test_the_machine_keeps_its_reserve(tmp_path: Path) -> None:
    """What is available is MemAvailable without the reserve."""
    assert 1000 * 1024 - 24 == available_memory(24, 0, 0, [EngineMemoryUse(500)], machine(tmp_path))


def test_nothing_left_is_not_the_same_as_no_limit(tmp_path: Path) -> None:
    """An exhausted machine has 1 byte, because 0 would mean that nobody measured."""
    assert 1 == available_memory(10**9, 0, 0, [], machine(tmp_path))
    assert 1 == available_memory(0, 100, 0, [EngineMemoryUse(100)], tmp_path)


def test_the_cap_is_for_all_engines_together(tmp_path: Path) -> None:
    """What running engines take is no longer there; a cap above what the machine has changes nothing."""
    root = machine(tmp_path)
    assert 700 == available_memory(24, 1000, 0, [EngineMemoryUse(300)], root)
    assert 1000 * 1024 - 24 == available_memory(24, 10**9, 0, [EngineMemoryUse(300)], root)


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    """The limits of the own group and of all above it hold; idle page cache is not counted as taken."""
    root = machine(tmp_path, 1000, "/system.slice/edge-agent.service")
    limit(root, "system.slice", memory_max="50000", memory_current="30000")
    limit(root, "system.slice/edge-agent.service", memory_max="max", memory_high="90000", memory_current="1000")
    assert 20_000 == available_memory(0, 0, 0, [], root)
    limit(root, "system.slice", memory_stat="anon 1\ninactive_file 25000\nactive_file 3")
    assert 45_000 == available_memory(0, 0, 0, [], root)
    limit(root, "system.slice/edge-agent.service", memory_high="9000")
    assert 7_999 == available_memory(1, 0, 0, [], root)


@pytest.mark.parametrize("group", ["", "/", "/gone"])
def test_without_a_limit_the_machine_counts(tmp_path: Path, group: str) -> None:
    """No control groups, the root group, and one whose files are not there leave MemAvailable."""
    assert 1000 * 1024 == available_memory(0, 0, 0, [], machine(tmp_path, group=group))


def lay(root: Path, *paths: str) -> Path:
    """Make empty files."""
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
def test_a_build_is_known_by_its_libraries(
    tmp_path: Path, runtime: str, files: tuple[str, ...], offered: DeviceSupport
):
    """Of the portable build in a folder of their own, otherwise beside the library."""
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
def test_a_device_is_known_by_its_node(tmp_path: Path, nodes: tuple[str, ...], present: list[str]):
    """A render node, or a numbered card of NVIDIA, which also speaks Vulkan; its control node alone is no card."""
    assert present == machine_limits.detect_support("echo", lay(tmp_path, *(f"dev/{node}" for node in nodes))).present


def test_looking_loads_nothing():
    """The daemon asks without loading a library that only a child may have."""
    script = (
        "import sys; from edge_agent.engine.machine_limits import detect_support as detect; "
        "detect('llama'); detect('onnx'); "
        "print({'llama_cpp', 'onnxruntime', 'numpy'} & set(sys.modules))"
    )
    assert (
        "set()\n" == subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    )
