"""The memory limit of a child: the refusal of a model that does not fit, the limit that follows from the estimate, and
how the daemon sets and reports it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.engine.memory_cap import (
    DEVICE_BYTES,
    RUNTIME_BYTES,
    THREAD_BYTES,
    MemoryCap,
    MemoryNeed,
    cap_bytes,
    delegated_cgroup,
    make_child_group,
)
from edge_agent.engine.protocol import MemoryEstimate, MemoryGrant
from edge_agent.errors import MemoryShort

MB = 10**6
NEED = MemoryNeed(weights=100 * MB, copies=50 * MB, cache=30 * MB, compute=20 * MB, process=60 * MB)


def test_fitting_model_is_not_refused() -> None:
    """A need up to the available memory passes; 0 available means that memory was not measured."""
    NEED.check(260 * MB)
    NEED.check(0)
    NEED.check(0, required=10**12)


def test_memory_refusal_has_all_numbers() -> None:
    """The message lists the parts of the need, the metadata has them in bytes, and the remedy names
    `memory_bytes_max`."""
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


def test_memory_required_by_the_manifest_applies() -> None:
    """A manifest that requires more memory than the estimate is held to its own number."""
    NEED.check(300 * MB, required=300 * MB)
    with pytest.raises(MemoryShort, match=r"the bundle asks for 300\.0 MB of memory; 299\.0 MB is available"):
        NEED.check(299 * MB, required=300 * MB)


def test_status_details_have_estimate_and_limit() -> None:
    """The details have the estimated need and the limit that it was compared with, in bytes."""
    assert {"memory_estimated_bytes": "260000000", "memory_limit_bytes": "7"} == NEED.details(7)


MIB = 2**20
ESTIMATE = MemoryEstimate(needed_bytes=400 * MIB, headroom_bytes=40 * MIB, threads=2)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that waits for input."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as made:
        yield made
        made.kill()


def limits(pid: int) -> tuple[int, int]:
    return resource.prlimit(pid, resource.RLIMIT_DATA)


def test_memory_limit_follows_from_the_estimate() -> None:
    """The limit is one and a half times the need and the memory of long inputs, plus allowances for the runtime, each
    thread and the driver."""
    assert 660 * MIB + RUNTIME_BYTES + 2 * THREAD_BYTES == cap_bytes(ESTIMATE)
    device = MemoryEstimate(needed_bytes=0, threads=0, device="cuda")
    assert RUNTIME_BYTES + DEVICE_BYTES == cap_bytes(device)


def test_grant_sets_the_soft_limit(process: subprocess.Popen[bytes]) -> None:
    """A grant sets the soft limit, keeps the hard limit and reports the available memory to the child."""
    hard = limits(process.pid)[1]
    cap = MemoryCap(process.pid)
    assert MemoryGrant(available_bytes=7) == cap.grant(ESTIMATE, 7)
    assert (cap_bytes(ESTIMATE), hard) == limits(process.pid)
    assert (cap.limit_bytes, cap.granted_bytes) == (cap_bytes(ESTIMATE), 0)
    cap.grant(ESTIMATE, 400 * MIB)
    assert 400 * MIB == cap.granted_bytes


def test_a_later_estimate_never_lowers_the_limit(process: subprocess.Popen[bytes]) -> None:
    """A larger estimate of a further bundle raises the limit; a smaller one leaves it, because the other bundles are
    still loaded."""
    cap = MemoryCap(process.pid)
    cap.grant(ESTIMATE, 0)
    before = limits(process.pid)[0]
    cap.grant(MemoryEstimate(needed_bytes=MIB), 0)
    assert before == limits(process.pid)[0]
    cap.grant(MemoryEstimate(needed_bytes=800 * MIB), 0)
    assert before < limits(process.pid)[0]


def test_limit_never_exceeds_the_hard_limit(process: subprocess.Popen[bytes]) -> None:
    """The limit of a child never exceeds its hard limit, which is the memory that was free when it started."""
    resource.prlimit(process.pid, resource.RLIMIT_DATA, (300 * MIB, 300 * MIB))
    cap = MemoryCap(process.pid)
    cap.grant(ESTIMATE, 0)
    assert (300 * MIB, 300 * MIB) == limits(process.pid)
    assert 300 * MIB == cap.limit_bytes


def test_summary_and_metadata_have_estimate_limit_and_peak() -> None:
    """Estimate, limit and peak are reported as text and as metadata; before an estimate both are empty."""
    assert ("", {}) == (MemoryCap().summary, MemoryCap().metadata)
    cap = MemoryCap(estimated_bytes=4 * 10**6, limit_bytes=6 * 10**6, peak_bytes=5 * 10**6)
    said = "; it was estimated to need 4.0 MB of memory and limited to 6.0 MB, and had taken 5.0 MB"
    assert said == cap.summary
    assert ["4000000", "6000000", "5000000"] == list(cap.metadata.values())


def tree(root: Path, own: str = "/unit/serve", shared: str = "cpu memory", marked: bool = True) -> Path:
    """Write the cgroup files of a machine on which this process is in group `own`; return the group above it."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(f"0::{own}\n")
    group = root / "sys/fs/cgroup" / own[1:]
    group.mkdir(parents=True)
    (group.parent / "cgroup.subtree_control").write_text(shared)
    if marked:
        os.setxattr(group.parent, "user.delegate", b"1")
    return group.parent


def test_delegated_cgroup_is_found(tmp_path: Path) -> None:
    """The delegated group is the one above the daemon's own, marked by systemd; its memory controller is enabled if it
    is not yet."""
    folder = tree(tmp_path / "a")
    assert folder == delegated_cgroup(tmp_path / "a")
    folder = tree(tmp_path / "b", shared="")
    assert folder == delegated_cgroup(tmp_path / "b")
    assert "+memory" == (folder / "cgroup.subtree_control").read_text()


def test_cgroup_without_delegation_is_not_used(tmp_path: Path) -> None:
    """Without systemd's mark, without cgroup v2 and in the topmost group no delegated group is found, although root
    could write there."""
    tree(tmp_path / "a", marked=False)
    assert [None, None] == [delegated_cgroup(tmp_path / "a"), delegated_cgroup(tmp_path / "nothing")]
    (tmp_path / "b/proc/self").mkdir(parents=True)
    (tmp_path / "b/proc/self/cgroup").write_text("4:memory:/x\n0::/\n")
    assert delegated_cgroup(tmp_path / "b") is None


def test_child_group_has_process_id_and_memory_limit(tmp_path: Path, process: subprocess.Popen[bytes]) -> None:
    """The child's process id and memory limit are written to its own control group; without a usable parent group none
    is made."""
    folder = tree(tmp_path)
    cap = MemoryCap(process.pid, make_child_group(folder, 4321))
    cap.grant(ESTIMATE, 0)
    files = [folder / "engine-4321" / name for name in ("cgroup.procs", "memory.max")]
    assert ["4321", str(cap_bytes(ESTIMATE))] == [file.read_text() for file in files]
    assert (None, None) == (make_child_group(None, 1), make_child_group(tmp_path / "gone", 1))
