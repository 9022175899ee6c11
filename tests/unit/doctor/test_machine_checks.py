"""doctor's rules about clock, disks, memory, processor, kernel; and what the probes see of real ones."""

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
def test_a_clock_is_held_against_what_was_signed(verdict, facts):
    """1970, behind the newest signature, far ahead: a fault with the command that sets it."""
    found = clock(**facts)
    assert (verdict, verdict != "ok") == told(found, "clock")


def test_a_fault_of_the_clock_says_how_far_it_is_off():
    """The number of days stands in the sentence."""
    said = only(clock(signed=NOW + 30 * DAY), "clock").seen
    assert "it shows 2026-09-21 13:33 UTC, 30 days behind the newest signature seen here" == said


@pytest.mark.parametrize(("verdict", "jumped"), [("note", 3600.0), ("note", -7200.0), ("ok", 1.5), ("ok", -59.0)])
def test_a_jump_is_worth_a_note(verdict, jumped):
    """More than a minute, forward or back; nothing is lost by it."""
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
def test_disks_are_judged_by_room_inodes_and_mode(disk, inodes, facts):
    """Below the reserve and read-only are faults; room for no new version is a warning; so are few inodes."""
    found = verdicts(machine_checks.judge_disks((volume(**facts),)))
    assert (disk, inodes) == (found["disk"], found.get("inodes"))


def test_every_disk_has_its_own_line():
    """Two file systems, two findings, each with its path."""
    second = Volume("/opt", "the program", GIB, 10 * GIB, 10**6, 10**6, False, 0)
    found = [finding for finding in machine_checks.judge_disks((volume(), second)) if finding.check == "disk"]
    assert [("/var", "ok"), ("/opt", "warning")] == [(each.about, each.verdict) for each in found]


@pytest.mark.parametrize(("verdict", "available"), [("ok", GIB), ("warning", 100 * 2**20)])
def test_too_little_memory_is_a_warning(verdict, available):
    """Less than engines leave to the rest."""
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
def test_an_old_x86_cpu_is_a_warning(verdict, name, flags):
    """Without AVX2 models are slow, but they run."""
    assert verdict == verdicts(machine_checks.judge_cpu(CpuFacts(name, 2, frozenset(flags))))["cpu"]


@pytest.mark.parametrize(("cores", "seen"), [(1, "aarch64, 1 core"), (4, "aarch64, 4 cores")])
def test_cores_are_counted(cores, seen):
    """A number and its noun agree."""
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
def test_what_the_kernel_lacks_is_said(kernel, pages, facts):
    """No Landlock or seccomp is a warning, no huge pages a note."""
    found = verdicts(machine_checks.judge_kernel(KernelFacts("6.1", *facts)))
    assert (kernel, pages) == (found["kernel"], found["huge-pages"])


def test_this_machine_is_seen_as_it_is(tmp_path):
    """The probes read the real clock, disk and kernel, and what lies below another root."""
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


def test_a_disk_under_its_reserve_is_a_fault_here_too(tmp_path):
    """The reserve of the settings is held against the real disk."""
    assert "fault" == looked(place(tmp_path, store={"disk_reserve_bytes": 2**62}))["disk"].verdict
