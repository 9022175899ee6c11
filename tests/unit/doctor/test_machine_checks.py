"""`doctor` about clock, disks, memory, processor and kernel, and its probes on the real machine."""

import platform
import time

import pytest

from edge_agent.doctor import machine_checks
from edge_agent.doctor.machine_checks import ClockFacts, CpuFacts, KernelFacts, MemoryFacts, Volume
from tests.support.doctor_cases import DAY, looked, only, place, told, verdicts

NOW = 1_790_000_000.0
GIB = 2**30


def clock(now: float = NOW, signed: float | None = None, jumped: float | None = None, synchronized: bool | None = None):
    return list(machine_checks.judge_clock(ClockFacts(now, "2026-09-21 13:33 UTC", signed, jumped, synchronized)))


@pytest.mark.parametrize(
    ("verdict", "facts"),
    [
        ("fault", {"now": 0.0}),  # 1970
        ("fault", {"now": 0.0, "signed": NOW}),
        ("fault", {"signed": NOW + 2 * DAY}),  # the fleet has signed tomorrow already
        ("fault", {"now": 2_208_988_801.0}),  # 2040
        ("fault", {"signed": NOW - 3 * 365 * DAY}),  # nothing was signed for three years, or it runs ahead
        ("note", {"synchronized": False}),
        ("ok", {"synchronized": True, "signed": NOW - DAY}),
        ("ok", {"signed": NOW + 60}),
    ],
)
def test_clock_is_compared_with_signatures(verdict, facts):
    """A clock in 1970 or 2040, behind the newest signature, or three years ahead of it is a fault with a command; one
    that is not synchronized is a note."""
    found = clock(**facts)
    assert (verdict, verdict != "ok") == told(found, "clock")


def test_clock_fault_states_the_difference_in_days():
    """The finding of a wrong clock states by how many days it is behind the newest signature."""
    said = only(clock(signed=NOW + 30 * DAY), "clock").seen
    assert "it shows 2026-09-21 13:33 UTC, 30 days behind the newest signature seen here" == said


@pytest.mark.parametrize(("verdict", "jumped"), [("note", 3600.0), ("note", -7200.0), ("ok", 1.5), ("ok", -59.0)])
def test_clock_jump_over_a_minute_is_a_note(verdict, jumped):
    """A clock jump of more than a minute, forward or back, is a note."""
    assert verdict == verdicts(clock(jumped=jumped))["clock-jump"]


def volume(free: int = 50 * GIB, inodes: int = 10**6, reserve: int = 64 * 2**20, **more) -> Volume:
    of = {"total_inodes": 2 * 10**6, "read_only": False, **more}
    return Volume("/var", "bundles", free, 100 * GIB, inodes, of["total_inodes"], of["read_only"], reserve)


@pytest.mark.parametrize(
    ("disk", "inodes", "facts"),
    [
        ("ok", "ok", {}),
        ("warning", "ok", {"free": GIB}),
        ("fault", "ok", {"free": 10 * 2**20}),
        ("fault", "ok", {"read_only": True}),
        ("ok", "warning", {"inodes": 9999}),
        ("ok", "fault", {"inodes": 3}),
        ("ok", None, {"total_inodes": 0, "inodes": 0}),  # btrfs makes them as it goes
    ],
)
def test_disks_are_judged_by_space_inodes_and_mode(disk, inodes, facts):
    """A disk below the reserve or read-only is a fault; little space or few inodes are a warning; a file system without
    an inode limit has no such finding."""
    found = verdicts(machine_checks.judge_disks((volume(**facts),)))
    assert (disk, inodes) == (found["disk"], found.get("inodes"))


def test_each_file_system_has_its_own_finding():
    """Two file systems have two findings, each with its path."""
    second = Volume("/opt", "the program", GIB, 10 * GIB, 10**6, 10**6, False, 0)
    found = [finding for finding in machine_checks.judge_disks((volume(), second)) if finding.check == "disk"]
    assert [("/var", "ok"), ("/opt", "warning")] == [(each.about, each.verdict) for each in found]


@pytest.mark.parametrize(("verdict", "available"), [("ok", GIB), ("warning", 100 * 2**20)])
def test_too_little_memory_is_a_warning(verdict, available):
    """Available memory below the configured reserve is a warning."""
    assert verdict == verdicts(machine_checks.judge_memory(MemoryFacts(available, 4 * GIB, 256 * 2**20)))["memory"]


@pytest.mark.parametrize(
    ("verdict", "name", "flags"),
    [
        ("ok", "x86_64", {"avx2", "avx512f"}),
        ("warning", "x86_64", {"sse4_2"}),
        ("warning", "x86_64", set()),
        ("ok", "aarch64", {"asimd"}),
    ],
)
def test_x86_cpu_without_avx2_is_a_warning(verdict, name, flags):
    """An x86 processor without AVX2 is a warning, because models run slowly on it."""
    assert verdict == verdicts(machine_checks.judge_cpu(CpuFacts(name, 2, frozenset(flags))))["cpu"]


@pytest.mark.parametrize(("cores", "seen"), [(1, "aarch64, 1 core"), (4, "aarch64, 4 cores")])
def test_cpu_finding_counts_cores(cores, seen):
    """The finding counts the processor's cores, with the noun in the singular for one."""
    assert seen == only(machine_checks.judge_cpu(CpuFacts("aarch64", cores, frozenset())), "cpu").seen


@pytest.mark.parametrize(
    ("kernel", "pages", "facts"),
    [
        ("ok", "ok", (True, True, "madvise")),
        ("warning", "ok", (False, True, "always")),
        ("warning", "note", (True, False, "never")),
        ("ok", "note", (True, True, "")),
    ],
)
def test_missing_kernel_features_are_judged(kernel, pages, facts):
    """A kernel without Landlock or seccomp is a warning, one without huge pages a note."""
    found = verdicts(machine_checks.judge_kernel(KernelFacts("6.1", *facts)))
    assert (kernel, pages) == (found["kernel"], found["huge-pages"])


def test_probes_read_the_real_machine(tmp_path):
    """The probes read the real clock, disk and kernel, and the files below another root."""
    where = place(tmp_path)
    for path, text in {
        "proc/meminfo": "MemTotal:        1000 kB\nMemAvailable:     100 kB\n",
        "proc/cpuinfo": "flags\t\t: fpu sse4_2\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always madvise [never]\n",
    }.items():
        where.at(path).parent.mkdir(parents=True, exist_ok=True)
        where.at(path).write_text(text)
    found = looked(where)
    expected = {"memory": "warning", "huge-pages": "note", "disk": "ok", "kernel": "ok"}
    assert expected == {name: found[name].verdict for name in expected}
    assert ("102.4 kB of 1.0 MB available" in found["memory"].seen, time.strftime("%Y") in found["clock"].seen) == (
        True,
        True,
    )
    assert (platform.machine() != "x86_64") == (found["cpu"].verdict == "ok")


def test_real_disk_below_its_reserve_is_a_fault(tmp_path):
    """A real disk with less free space than `store.disk_reserve_bytes` is a fault."""
    assert "fault" == looked(place(tmp_path, store={"disk_reserve_bytes": 2**62}))["disk"].verdict
