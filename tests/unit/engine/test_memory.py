"""What is available, and the refusal with its numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.engine.memory import Need, Use, available
from edge_agent.errors import MemoryShort

MB = 10**6
NEED = Need(weights=100 * MB, copies=50 * MB, cache=30 * MB, compute=20 * MB, process=60 * MB)


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


def test_what_fits_is_not_refused() -> None:
    """A need up to what is available passes; 0 means that nobody measured."""
    NEED.check(260 * MB)
    NEED.check(0)
    NEED.check(0, wanted=10**12)


def test_a_refusal_has_all_numbers() -> None:
    """The sentence adds up for people, the metadata holds bytes for programs, and the remedy names what to change."""
    with pytest.raises(MemoryShort) as caught:
        NEED.check(259 * MB)
    assert (
        "the model needs 260.0 MB of memory (weights 100.0 MB + repacked copies 50.0 MB + key-value cache 30.0 MB + "
        "compute 20.0 MB + process 60.0 MB); 259.0 MB is available"
    ) == caught.value.message
    parts = {"weights": 100, "copies": 50, "cache": 30, "compute": 20, "process": 60, "adapters": 0}
    sizes = {**parts, "needed": 260, "available": 259}
    assert {f"{name}_bytes": str(size * MB) for name, size in sizes.items()} == caught.value.metadata
    assert "memory_bytes_max" in caught.value.remedy


def test_what_the_bundle_asks_for_counts_as_well() -> None:
    """A manifest that asks for more than the reckoning finds is taken at its word."""
    NEED.check(300 * MB, wanted=300 * MB)
    with pytest.raises(MemoryShort, match=r"the bundle asks for 300\.0 MB of memory; 299\.0 MB is available"):
        NEED.check(299 * MB, wanted=300 * MB)


def test_status_shows_both_numbers() -> None:
    """The details hold the whole need and the limit that it was held against, in bytes."""
    assert {"memory_estimated_bytes": "260000000", "memory_limit_bytes": "7"} == NEED.details(7)


def test_the_machine_keeps_its_reserve(tmp_path: Path) -> None:
    """What is available is MemAvailable without the reserve."""
    assert 1000 * 1024 - 24 == available(24, 0, 0, [Use(500)], machine(tmp_path))


def test_nothing_left_is_not_the_same_as_no_limit(tmp_path: Path) -> None:
    """An exhausted machine has 1 byte, because 0 would mean that nobody measured."""
    assert 1 == available(10**9, 0, 0, [], machine(tmp_path))
    assert 1 == available(0, 100, 0, [Use(100)], tmp_path)


def test_the_cap_is_for_all_engines_together(tmp_path: Path) -> None:
    """What running engines take is no longer there; a cap above what the machine has changes nothing."""
    root = machine(tmp_path)
    assert 700 == available(24, 1000, 0, [Use(300)], root)
    assert 1000 * 1024 - 24 == available(24, 10**9, 0, [Use(300)], root)


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    """The limits of the own group and of all above it hold; idle page cache is not counted as taken."""
    root = machine(tmp_path, 1000, "/system.slice/edge-agent.service")
    limit(root, "system.slice", memory_max="50000", memory_current="30000")
    limit(root, "system.slice/edge-agent.service", memory_max="max", memory_high="90000", memory_current="1000")
    assert 20_000 == available(0, 0, 0, [], root)
    limit(root, "system.slice", memory_stat="anon 1\ninactive_file 25000\nactive_file 3")
    assert 45_000 == available(0, 0, 0, [], root)
    limit(root, "system.slice/edge-agent.service", memory_high="9000")
    assert 7_999 == available(1, 0, 0, [], root)


@pytest.mark.parametrize("group", ["", "/", "/gone"])
def test_without_a_limit_the_machine_counts(tmp_path: Path, group: str) -> None:
    """No control groups, the root group, and one whose files are not there leave MemAvailable."""
    assert 1000 * 1024 == available(0, 0, 0, [], machine(tmp_path, group=group))
