"""The seccomp filter's verdicts on both architectures, run by an interpreter of classic BPF, and the Landlock
rulesets."""

from __future__ import annotations

import errno
import os
import re
import struct
from pathlib import Path

import pytest

from edge_agent.engine import confinement

PID = 4321
ARM_HEADER = Path("/usr/include/asm-generic/unistd.h")
X86_HEADERS = [Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), Path("/usr/include/asm/unistd_64.h")]
# Numbers that the runtimes cannot do without: read, write, munmap, brk, mprotect, futex, madvise, exit, exit_group,
# rt_sigaction, sendto, recvfrom, ppoll, sched_getaffinity, getrandom, clock_gettime, readv, fstat.
NEEDED = {
    "x86_64": (0, 1, 11, 12, 10, 202, 28, 60, 231, 13, 44, 45, 271, 204, 318, 228, 19, 5),
    "aarch64": (63, 64, 215, 214, 226, 98, 233, 93, 94, 134, 206, 207, 73, 123, 278, 113, 65, 80),
}
MACHINES = pytest.mark.parametrize("machine", confinement.AUDIT_ARCH)


def verdict(
    machine: str, number: int, *arguments: int, arch: int | None = None, families: tuple[int, ...] | None = None
) -> str:
    """Run the program on one system call, as the kernel does."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    arch = confinement.AUDIT_ARCH[machine] if arch is None else arch
    data = struct.pack("<IIQ6Q", number, arch, 0, *padded)
    code = list(struct.iter_unpack("<HBBI", confinement.filter_program(machine, PID, families)))
    accumulator = place = 0
    while True:
        operation, if_true, if_false, operand = code[place]
        place += 1
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, operand)
        elif operation == 0x54:
            accumulator &= operand
        elif operation in (0x15, 0x35):
            holds = accumulator == operand if operation == 0x15 else accumulator >= operand
            place += if_true if holds else if_false
        else:
            assert operation == 0x06
            break
    if operand & 0xFFFF0000 == confinement.ERRNO:
        return errno.errorcode[operand & 0xFFFF]
    return {confinement.ALLOW: "allow", confinement.KILL_PROCESS: "kill"}[operand]


def depends(machine: str, name: str, *arguments: int, families: tuple[int, ...] | None = None) -> str:
    """Return the verdict on a call whose arguments matter."""
    return verdict(
        machine, confinement.call_numbers(confinement.CONDITIONAL, machine)[name], *arguments, families=families
    )


@MACHINES
def test_filter_allows_calls_that_runtimes_need(machine):
    """System calls that runtimes need (reading, writing, memory, thread locks, clocks and the existing socket) pass
    whatever their arguments."""
    for number in NEEDED[machine]:
        assert "allow" == verdict(machine, number, *[2**64 - 1] * 6)


@MACHINES
def test_every_listed_call_is_denied(machine):
    """Each call of the deny list fails with EPERM, whatever its arguments."""
    for name, number in confinement.call_numbers(confinement.DENIED, machine).items():
        assert (name, "EPERM") == (name, verdict(machine, number))
        assert (name, "EPERM") == (name, verdict(machine, number, *[2**64 - 1] * 6))


@MACHINES
def test_unreadable_and_unknown_calls_give_enosys(machine):
    """clone3, openat2, calls newer than the list and calls of the x32 ABI fail with ENOSYS."""
    for number in (435, 437, confinement.LAST_KNOWN + 1, 10_000, 0x40000000, 0x40000000 | 41, 0xFFFFFFFF):
        assert "ENOSYS" == verdict(machine, number)
    assert "allow" == verdict(machine, confinement.LAST_KNOWN)


@MACHINES
def test_call_of_another_architecture_kills_the_process(machine):
    """A call through the interface of i386 (int 0x80), 32-bit ARM or the other architecture kills the process."""
    others = [0x40000003, 0x40000028, *(arch for name, arch in confinement.AUDIT_ARCH.items() if name != machine)]
    assert ["kill"] * 3 == [verdict(machine, 0, arch=other) for other in others]


@MACHINES
def test_files_open_only_for_reading(machine):
    """`openat` with flags that write, create or truncate is denied; flags that only read pass."""
    reading = (os.O_RDONLY, os.O_RDONLY | os.O_CLOEXEC, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    writing = (os.O_WRONLY, os.O_RDWR, os.O_ACCMODE, os.O_CREAT, os.O_TRUNC, os.O_RDWR | os.O_TMPFILE)
    assert {"allow"} == {depends(machine, "openat", 0, 0, flags) for flags in reading}
    assert {"EPERM"} == {depends(machine, "openat", 0, 0, flags) for flags in writing}


def test_open_follows_the_rule_of_openat():
    """The filter also checks the flags of x86-64's `open`, which are in its second argument."""
    assert "allow" == depends("x86_64", "open", 0, os.O_RDONLY, os.O_RDWR)
    assert "EPERM" == depends("x86_64", "open", 0, os.O_RDWR, os.O_RDONLY)


@MACHINES
def test_clone_creates_threads_but_no_processes(machine):
    """`clone` with the flags of glibc's threads passes; with those of fork (SIGCHLD) and vfork it is denied."""
    assert "allow" == depends(machine, "clone", 0x3D0F00)
    assert ["EPERM", "EPERM"] == [depends(machine, "clone", flags) for flags in (17, 0x4111)]


@MACHINES
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0x22, "allow"),  # private, anonymous: the heap
        (0x20022, "allow"),  # and MAP_STACK: a thread's stack
        (0x4022, "allow"),  # and MAP_NORESERVE
        (0x02, "allow"),  # private, of a file: a shared object
        (0x8001, "allow"),  # shared, of a file, MAP_POPULATE: weights
        (0x28, "allow"),  # droppable, anonymous: the state of the vDSO's getrandom
        (0x21, "EPERM"),  # shared, anonymous
        (0x122, "EPERM"),  # grows down
    ],
)
def test_memory_outside_the_limit_cannot_be_mapped(machine, flags, expected):
    """`mmap` of memory that RLIMIT_DATA does not count (shared anonymous, growing down) is denied; other mappings that
    runtimes use pass."""
    assert expected == depends(machine, "mmap", 0, 4096, 3, flags)


@MACHINES
@pytest.mark.parametrize("name", ["kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"])
def test_child_may_signal_only_itself(machine, name):
    """A process may signal itself, as abort does, but not another process, its group or all processes."""
    assert "allow" == depends(machine, name, PID, PID)
    others = (1, PID + 1, 0, 2**32 - 1, 2**64 - 1, -PID & 0xFFFFFFFF)
    assert {"EPERM"} == {depends(machine, name, other, PID) for other in others}


@MACHINES
def test_limits_can_be_read_but_not_set(machine):
    """`prlimit64` is denied if it has an address of new limits, in whichever of the 64 bits that address is
    non-zero."""
    assert "allow" == depends(machine, "prlimit64", 0, 7, 0, 0x7FFF00001000)
    assert ["EPERM", "EPERM"] == [depends(machine, "prlimit64", 0, 7, new) for new in (0x1000, 0x700000000000)]


@MACHINES
def test_descriptors_cannot_send_signals_or_terminal_input(machine):
    """F_SETOWN, F_SETSIG and TIOCSTI are denied; close-on-exec, non-blocking mode and isatty pass."""
    assert {"EPERM"} == {depends(machine, "fcntl", 0, command) for command in (8, 10, 15)}
    assert {"allow"} == {depends(machine, "fcntl", 0, command) for command in (1, 2, 3, 4, 1030)}
    assert {"EPERM"} == {depends(machine, "ioctl", 0, request) for request in (0x5412, 0x8901, 0x8902)}
    assert {"allow"} == {depends(machine, "ioctl", 0, request) for request in (0x5401, 0x5421, 0x5451)}


@MACHINES
def test_child_takes_no_lease_and_no_lock_without_a_device(machine):
    """A child cannot take a lease, and can take a lock only if it drives a device."""
    locks, lease, driver = (6, 7, 37, 38), 1024, confinement.DRIVERS["cuda"].families
    assert {"EPERM"} == {depends(machine, "fcntl", 0, command) for command in (*locks, lease)}
    assert {"allow"} == {depends(machine, "fcntl", 0, command, families=driver) for command in locks}
    assert {"EPERM"} == {depends(machine, "fcntl", 0, command, families=driver) for command in (8, 10, 15, lease)}


@MACHINES
def test_child_keeps_parent_death_signal_and_stays_undumpable(machine):
    """`prctl` cannot change the parent death signal or allow debuggers; threads can still be named."""
    assert {"EPERM"} == {depends(machine, "prctl", option) for option in (1, 4, 35, 0x59616D61)}
    assert {"allow"} == {depends(machine, "prctl", option) for option in (2, 3, 15, 21, 38, 39)}


@MACHINES
def test_no_call_is_listed_twice(machine):
    """Each system call is in one table, once."""
    tables = (confinement.DENIED, confinement.ABSENT, confinement.CONDITIONAL)
    listed = [number for table in tables for number in confinement.call_numbers(table, machine).values()]
    assert sorted(set(listed)) == sorted(listed)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_call_numbers_match_the_kernel_headers(machine):
    """Where the kernel headers are installed, every number in the tables equals theirs."""
    headers = [path for path in (X86_HEADERS if machine == "x86_64" else [ARM_HEADER]) if path.exists()]
    if not headers:
        pytest.skip("the kernel's headers are not installed")
    found = re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", headers[0].read_text(encoding="ascii"))
    known = {name: int(number) for name, number in found}
    # Calls with a variant for 32 bits have their number under the name of both.
    for table in (confinement.DENIED, confinement.ABSENT, confinement.CONDITIONAL):
        for name, number in confinement.call_numbers(table, machine).items():
            if name in known:  # older headers lack the newest calls
                assert (name, known[name]) == (name, number)
        assert len(known) > 300


@pytest.mark.parametrize(
    ("abi", "expected"),
    [
        (1, (0x1FFF,)),
        (2, (0x3FFF,)),
        (3, (0x7FFF,)),
        (4, (0x7FFF, 3)),
        (5, (0xFFFF, 3)),
        (6, (0xFFFF, 3, 3)),
        (7, (0xFFFF, 3, 3)),
        (9, (0xFFFF, 3, 3)),
    ],
)
def test_ruleset_restricts_everything_its_landlock_version_supports(abi, expected):
    """File rights grow with Landlock versions 2, 3 and 5, TCP is added with 4, scopes with 6; newer versions add
    nothing."""
    assert expected == struct.unpack(f"={len(expected)}Q", confinement.ruleset(abi))


@MACHINES
def test_child_with_a_device_opens_files_for_reading_and_writing(machine):
    """A child that drives a device may open existing files for reading or for reading and writing, but not create,
    truncate or only write them."""
    passing = (os.O_RDONLY, os.O_RDWR, os.O_RDWR | os.O_CLOEXEC)
    denied = (os.O_WRONLY, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TRUNC, os.O_CREAT, os.O_RDWR | os.O_TMPFILE)
    assert {"allow"} == {depends(machine, "openat", 0, 0, flags, families=(0x64,)) for flags in passing}
    assert {"EPERM"} == {depends(machine, "openat", 0, 0, flags, families=(0x64,)) for flags in denied}


@MACHINES
@pytest.mark.parametrize(
    ("request_number", "device", "expected"),
    [
        (0xC0406400, "vulkan", "allow"),  # DRM_IOCTL_VERSION
        (0x40086409, "vulkan", "allow"),  # DRM_IOCTL_GEM_CLOSE
        (0x40086200, "vulkan", "allow"),  # DMA_BUF_IOCTL_SYNC
        (0xC020462A, "vulkan", "allow"),  # NVIDIA's resource manager
        (0xC020462A, "cuda", "allow"),
        (0x30000001, "cuda", "allow"),  # UVM_INITIALIZE
        (0x00000025, "cuda", "allow"),  # UVM_REGISTER_GPU
        (0xC0406400, "cuda", "EPERM"),
        (0x5412, "vulkan", "EPERM"),  # TIOCSTI types into a terminal
        (0x5412, "cuda", "EPERM"),
        (0x4B3A, "vulkan", "EPERM"),  # KDSETMODE of a console
        (0x89F0, "vulkan", "EPERM"),  # of sockets
        (0x5401, "vulkan", "allow"),  # TCGETS, as in every child
        (0xC0406400, "cpu", "EPERM"),
        (0x30000001, "cpu", "EPERM"),
    ],
)
def test_ioctl_is_limited_to_the_childs_own_driver(machine, request_number, device, expected):
    """An ioctl passes by the letter of its driver family, and only in the child of that device."""
    families = confinement.DRIVERS[device].families if device in confinement.DRIVERS else None
    assert expected == depends(machine, "ioctl", 3, request_number, families=families)


@MACHINES
def test_device_child_has_no_other_exceptions(machine):
    """A child that drives a device is denied everything else as other children are: the listed calls, new processes,
    shared memory and signals."""
    families = confinement.DRIVERS["vulkan"].families
    for name, number in confinement.call_numbers(confinement.DENIED, machine).items():
        assert (name, "EPERM") == (name, verdict(machine, number, families=families))
    assert "EPERM" == depends(machine, "clone", 17, families=families)
    assert "EPERM" == depends(machine, "mmap", 0, 0, 0, 0x21, families=families)
    assert "EPERM" == depends(machine, "kill", PID + 1, families=families)


def test_only_compute_device_nodes_are_opened(tmp_path):
    """The child may open render nodes and NVIDIA's cards with their control node, but not the mode-setting node, disks
    or memory."""
    for name in ("dri/renderD128", "dri/card0", "nvidia0", "nvidiactl", "nvidia-uvm", "sda", "mem", "kvm"):
        (tmp_path / "dev" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "dev" / name).touch()
    opened = {
        device: [str(path.relative_to(tmp_path / "dev")) for path in confinement.device_nodes(driver, tmp_path)]
        for device, driver in confinement.DRIVERS.items()
    }
    assert {
        "cuda": ["nvidia-uvm", "nvidia0", "nvidiactl"],
        "vulkan": ["dri/renderD128", "nvidia0", "nvidiactl"],
    } == opened
