"""edge_agent/engine/budget.py and cores.py: how many threads, and for whom."""

from __future__ import annotations

import os

import pytest

from edge_agent.engine import cores
from edge_agent.engine.budget import allowed_cores, share

SCHEDULABLE = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("total", "engines", "each"),
    [(4, 1, 4), (4, 2, 2), (4, 3, 1), (4, 4, 1), (7, 2, 3), (1, 1, 1), (2, 0, 2)],
)
def test_engines_share_evenly(total, engines, each):
    """Each engine gets the same whole number of threads, rounded down."""
    assert each == share(total, engines)


def test_shares_stay_within_the_total():
    """All shares together are at most the total as long as there is a core for each engine."""
    for total in range(1, 65):
        assert all(share(total, engines) * engines <= total for engines in range(1, total + 1))


def test_every_engine_gets_a_thread():
    """With more engines than cores each still has one thread."""
    assert 1 == share(2, 5)


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
    assert SCHEDULABLE == cores.available(tmp_path)
    (own.parent / "cpu.max").write_text("100000 100000\n")
    assert 1 == cores.available(tmp_path)


def test_quota_in_a_container_limits(tmp_path):
    """In a namespace of its own a process sees its group as the root, which then has a limit."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    assert 1 == cores.available(tmp_path)


def test_without_control_groups_the_affinity_counts(tmp_path):
    """Where nothing can be read, every core that the process may run on is counted."""
    assert SCHEDULABLE == cores.available(tmp_path)
    assert 1 <= cores.available() <= SCHEDULABLE
