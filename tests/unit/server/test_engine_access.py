"""What a machine has, read from proc."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.formats.plan import MachineCapabilities
from edge_agent.server import engine_access

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512_vnni\nbugs\t\t: spectre\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 48.00\nFeatures\t: fp asimd asimddp\n\n"


def lay(root: Path, cpuinfo: str) -> Path:
    """Lay out a proc."""
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(cpuinfo)
    (root / "proc/meminfo").write_text("MemTotal:        4096000 kB\nMemFree:  12 kB\n")
    return root


@pytest.mark.parametrize(
    ("cpuinfo", "devices", "expected"),
    [
        (
            X86,
            ("cpu", "cuda"),
            MachineCapabilities(4096000 * 1024, frozenset({"cpu", "cuda"}), frozenset({"fpu", "avx2", "avx512_vnni"})),
        ),
        (
            ARM,
            ("cpu", "vulkan"),
            MachineCapabilities(4096000 * 1024, frozenset({"cpu", "vulkan"}), frozenset({"fp", "asimd", "asimddp"})),
        ),
        ("", ("cpu",), MachineCapabilities(4096000 * 1024)),
    ],
)
def test_a_machine_is_read(tmp_path: Path, cpuinfo: str, devices: tuple[str, ...], expected: MachineCapabilities):
    """Memory in bytes, the devices that the engines may use, and the features of a core, by either name."""
    assert expected == engine_access.read_machine(frozenset(devices), lay(tmp_path, cpuinfo))


def test_a_machine_that_says_nothing_has_a_processor(tmp_path: Path):
    """Conditions of a plan then do not hold, and nothing else is wrong."""
    assert MachineCapabilities(0) == engine_access.read_machine(root=tmp_path)


def test_this_machine_has_memory():
    """The real files."""
    here = engine_access.read_machine()
    assert here.memory_bytes > 2**28
    assert here.cpu_features
