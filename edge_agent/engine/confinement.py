"""A child gives up what it does not need before it reads a file from outside.

A model file that takes over the process then finds no socket, no program to start, no other process, no file except the
blobs and the runtime's own code, and limited memory. This holds for root too. Each measure works without the others,
and reports why if it is not in force. Their order below: limits, Landlock (files and devices), seccomp (system calls).

The child keeps the pipe to the parent and standard error. Not restricted here: processor time (the heartbeat bounds
it), the number of threads (the unit's TasksMax bounds it, and each stack counts as memory), and writing to a file that
is already open (RLIMIT_FSIZE would silence a standard error that goes to a file).

Landlock (landlock(7)) restricts which files a child may read, those of device drivers included. It can write only to
devices, and execute nothing. The restriction holds for the calling thread and those it starts later. Names, sizes and
times of other files stay visible to stat(2). To drive a device, a child needs the driver's files, its nodes and its
system calls; the driver's libraries lie where every child may read. It cannot create, rename or delete any of these.

seccomp (seccomp(2)) restricts the system calls, by a classic BPF program that lists denied calls, not allowed ones:
what a C library, Python and two compute libraries call changes with each of their versions, and a till whose engine no
longer starts after a system update is worse than one more harmless call. A new kernel opens no way round the list:
calls with higher numbers than the list knows do not exist for the child (ENOSYS), so a C library behaves as on an older
kernel. The same rule excludes x32. Denied calls fail with EPERM, so a library that tries an optional one continues
without it. clone3 and openat2 carry their flags in memory, which no filter can read, so they do not exist either: glibc
falls back to clone, and programs to openat. Only a call in the convention of another architecture ends the process,
because only an attacker makes one.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
import resource
import site
import struct
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import edge_agent

PR_SET_DUMPABLE = 4  # prctl(2)
PR_SET_NO_NEW_PRIVS = 38

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def system_call(number: int, *arguments: object) -> int:
    """Make a system call by its number; arguments are integers, or what ctypes takes as a pointer. Raises OSError."""
    # A bare int would be passed as a C int: half a register is then not defined.
    c_arguments = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _check_result(_libc.syscall(ctypes.c_long(number), *c_arguments))


def prctl(option: int, value: int) -> None:
    """Set an attribute of this process. Raises OSError."""
    zero = ctypes.c_ulong(0)
    _check_result(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def _check_result(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


DESCRIPTORS_MAX = 256
PACKAGE_FOLDERS = ("site-packages", "dist-packages")

# What the C library and the runtimes read while they run: libraries loaded late, the number and kind of processors.
SYSTEM_PATHS = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/proc/self",
    "/proc/cpuinfo",
    "/sys/devices/system/cpu",
    "/dev/null",
    "/dev/urandom",
)


@dataclass(frozen=True)
class Confinement:
    """Each measure: "on", or why it is not."""

    seccomp: str
    landlock: str
    memory: str


def confine(readable: Sequence[Path], memory_bytes_max: int, device: str = "cpu") -> Confinement:
    """Confine this process for the rest of its life.

    Call it once: after the modules of the runtime are imported, before a model file is opened, and before any thread is
    started, for Landlock does not reach threads that run already.

    Args:
        readable: what may be read, with everything below it; must exist.
        memory_bytes_max: private writable memory in bytes, touched or not (VmData of proc(5)): the heap, the stack of
            each thread and what the imports took, but not the mapped weights. 0 = no limit.
        device: what the process will drive; see `DRIVERS`.

    Raises:
        OSError: a path of `readable` does not exist or cannot be reached; nothing was done.
    """
    for path in readable:
        path.stat()
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    # No core dump, which would hold prompts. The limit alone does not keep a core from a program named in core_pattern.
    prctl(PR_SET_DUMPABLE, 0)
    _lower_limit(resource.RLIMIT_CORE, 0)
    _lower_limit(resource.RLIMIT_NOFILE, DESCRIPTORS_MAX)
    memory = _limit_memory(memory_bytes_max)
    paths = [*readable, *_runtime_paths()]
    driver = DRIVERS.get(device)
    if driver is None:
        landlock, seccomp = restrict_files(paths), install_filter()  # the filter ends setting limits
    else:
        landlock = restrict_files([*paths, *map(Path, driver.readable)], device_nodes(driver))
        seccomp = install_filter(driver.families, driver.calls)
    return Confinement(seccomp=seccomp, landlock=landlock, memory=memory)


def _runtime_paths() -> list[Path]:
    """Return where Python and the runtimes may still load from. Not all of sys.path: it may hold a caller's folders."""
    python_folders = [sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), *site.getsitepackages()]
    # A virtual environment may stand on the packages of another, by a .pth file or PYTHONPATH.
    package_folders = [path for path in map(Path, sys.path) if path.name in PACKAGE_FOLDERS]
    # The folder of another build of llama.cpp, whose code for a device is opened later.
    llama_folders = [Path(folder) for folder in [os.environ.get("LLAMA_CPP_LIB_PATH")] if folder]
    own_folder = Path(edge_agent.__file__).parent
    return [*map(Path, (*python_folders, *SYSTEM_PATHS)), *package_folders, *llama_folders, own_folder]


def _limit_memory(bytes_max: int) -> str:
    """Set RLIMIT_DATA: unlike RLIMIT_AS, it does not count files that are mapped for reading."""
    if bytes_max <= 0:
        return "no limit is set"
    try:
        _lower_limit(resource.RLIMIT_DATA, bytes_max)
    except (OSError, ValueError) as error:
        return f"the kernel refuses a limit of {bytes_max} bytes: {error}"
    # Some kernels and containers ignore this limit: where it is enforced, this map fails at once.
    try:
        mmap.mmap(-1, bytes_max, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, OverflowError):
        return "on"
    return "the kernel does not enforce RLIMIT_DATA"


def _lower_limit(limit: int, value: int) -> None:
    hard = resource.getrlimit(limit)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(limit, (value, value))


@dataclass(frozen=True)
class DeviceDriver:
    """What the drivers of one kind of device need."""

    readable: tuple[str, ...]
    """Paths to read, with everything below."""
    nodes: tuple[str, ...]
    """Patterns of the device nodes that they open for reading and writing."""
    families: tuple[int, ...]
    """Types of the ioctls that they make (_IOC_TYPE of ioctl.h)."""
    calls: tuple[str, ...] = ()
    """System calls that other children may not make."""


_DRM, _DMA_BUF, _SYNC_FILE, _NVIDIA, _NVIDIA_MODESET = map(ord, "db>Fm")
_NVIDIA_UVM = 0  # its numbers are bare
_SYSTEM_FILES = ("/sys/devices", "/sys/bus/pci", "/proc/devices", "/proc/modules", "/proc/meminfo", "/proc/version")
_NVIDIA_FILES = ("/proc/driver/nvidia", "/sys/module/nvidia", "/sys/module/nvidia_uvm", "/usr/share/nvidia")
DRIVERS = {
    "cuda": DeviceDriver(
        readable=(*_SYSTEM_FILES, *_NVIDIA_FILES, "/usr/local/cuda"),
        nodes=("dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-uvm", "dev/nvidia-uvm-tools"),
        families=(_NVIDIA, _NVIDIA_UVM),
        calls=("flock", "inotify_add_watch"),
    ),
    "vulkan": DeviceDriver(
        readable=(
            *_SYSTEM_FILES,
            *_NVIDIA_FILES,
            "/sys/class/drm",
            "/sys/dev/char",
            "/etc/vulkan",
            "/usr/share/vulkan",
            "/usr/local/share/vulkan",
            "/usr/share/drirc.d",
            "/etc/drirc",
            "/usr/share/libdrm",
            "/usr/share/glvnd",
        ),
        # A render node can only compute; card0 could also set video modes, and is not needed.
        nodes=("dev/dri/renderD*", "dev/nvidia[0-9]*", "dev/nvidiactl", "dev/nvidia-modeset"),
        families=(_DRM, _DMA_BUF, _SYNC_FILE, _NVIDIA, _NVIDIA_MODESET),
        # Mesa's software driver takes memory from memfd_create, which the unit's limit counts, but not the child's own.
        calls=("memfd_create", "flock", "inotify_add_watch"),
    ),
}


def device_nodes(driver: DeviceDriver, root: Path = Path("/")) -> list[Path]:
    """Return the driver's nodes that exist now."""
    return sorted(path for pattern in driver.nodes for path in root.glob(pattern))


# The same on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _READ_FILE, _READ_DIR, _IOCTL_DEVICE = 1 << 1, 1 << 2, 1 << 3, 1 << 15
_IOCTL_SINCE = 5  # the version of the interface that restricts ioctl of devices; older ones leave it free
_NET_TCP = 0b11  # bind and connect
_SCOPES = 0b11  # abstract Unix sockets and signals

_LANDLOCK_REASONS = {
    errno.ENOSYS: "the kernel has no Landlock",
    errno.EOPNOTSUPP: "Landlock is not enabled: the kernel's parameter 'lsm' leaves it out",
}


def restrict_files(readable: Iterable[Path], devices: Iterable[Path] = ()) -> str:
    """Allow only reading at and below these paths, as they are now, and using these devices; return "on" or why not.

    Paths that this process cannot open are left out. Needs PR_SET_NO_NEW_PRIVS.
    """
    threads = len(list(Path("/proc/self/task").iterdir()))
    try:
        _apply_ruleset(readable, devices)
    except OSError as error:
        return _LANDLOCK_REASONS.get(error.errno or 0, f"the kernel refuses Landlock: {error.strerror}")
    return "on" if threads == 1 else f"not on all threads: {threads - 1} were started before it"


def ruleset(abi: int) -> bytes:
    """Return struct landlock_ruleset_attr with every restriction that version `abi` of the interface has."""
    right_count = 13 + (abi >= 2) + (abi >= 3) + (abi >= 5)  # files; + refer; + truncate; + ioctl of devices
    fields = [(1 << right_count) - 1]
    if abi >= 4:
        fields.append(_NET_TCP)
    if abi >= 6:
        fields.append(_SCOPES)
    return struct.pack(f"={len(fields)}Q", *fields)


def _apply_ruleset(readable: Iterable[Path], devices: Iterable[Path]) -> None:
    version = system_call(_CREATE_RULESET, ctypes.c_void_p(), 0, _VERSION)
    attributes = ruleset(version)
    descriptor = system_call(_CREATE_RULESET, attributes, len(attributes), 0)
    device_rights = _READ_FILE | _WRITE_FILE | (_IOCTL_DEVICE if version >= _IOCTL_SINCE else 0)
    try:
        for path in readable:
            _allow_path(descriptor, path, _READ_FILE | _READ_DIR if path.is_dir() else _READ_FILE)
        for path in devices:
            _allow_path(descriptor, path, device_rights)
        system_call(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)


def _allow_path(descriptor: int, path: Path, rights: int) -> None:
    try:
        path_descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, PermissionError):
        return
    try:
        # struct landlock_path_beneath_attr is packed
        system_call(_ADD_RULE, descriptor, _PATH_BENEATH, struct.pack("=Qi", rights, path_descriptor), 0)
    finally:
        os.close(path_descriptor)


# name x86_64 aarch64, as in the kernel's unistd.h; "-" where the architecture has no such call.
DENIED = """
socket 41 198, socketpair 53 199, connect 42 203, bind 49 200, listen 50 201, accept 43 202, accept4 288 242,

execve 59 221, execveat 322 281, fork 57 -, vfork 58 -, unshare 272 97, setns 308 268,

ptrace 101 117, process_vm_readv 310 270, process_vm_writev 311 271, process_madvise 440 440, process_mrelease 448 448,
kcmp 312 272, perf_event_open 298 241, pidfd_open 434 434, pidfd_getfd 438 438, pidfd_send_signal 424 424,
tkill 200 130, setpriority 141 140, ioprio_set 251 30, sched_setaffinity 203 122, sched_setattr 314 274,
sched_setparam 142 118, sched_setscheduler 144 119, migrate_pages 256 238, move_pages 279 239,

creat 85 -, truncate 76 45, mkdir 83 -, mkdirat 258 34, mknod 133 -, mknodat 259 33, unlink 87 -, unlinkat 263 35,
rmdir 84 -, rename 82 -, renameat 264 38, renameat2 316 276, link 86 -, linkat 265 37, symlink 88 -, symlinkat 266 36,
chmod 90 -, fchmod 91 52, fchmodat 268 53, fchmodat2 452 452, chown 92 -, fchown 93 55, lchown 94 -, fchownat 260 54,
utime 132 -, utimes 235 -, futimesat 261 -, utimensat 280 88, setxattr 188 5, lsetxattr 189 6, fsetxattr 190 7,
removexattr 197 14, lremovexattr 198 15, fremovexattr 199 16, open_by_handle_at 304 265,

memfd_create 319 279, memfd_secret 447 447, setrlimit 160 164,
shmget 29 194, shmat 30 196, shmctl 31 195, semget 64 190, semop 65 193, semtimedop 220 192, semctl 66 191,
msgget 68 186, msgsnd 69 189, msgrcv 70 188, msgctl 71 187, mq_open 240 180, mq_unlink 241 181,

flock 73 32, inotify_add_watch 254 27,

setuid 105 146, setgid 106 144, setreuid 113 145, setregid 114 143, setresuid 117 147, setresgid 119 149,
setfsuid 122 151, setfsgid 123 152, setgroups 116 159, capset 126 91, personality 135 92,

mount 165 40, umount2 166 39, pivot_root 155 41, chroot 161 51, open_tree 428 428, move_mount 429 429, fsopen 430 430,
fsconfig 431 431, fsmount 432 432, fspick 433 433, mount_setattr 442 442, swapon 167 224, swapoff 168 225,
quotactl 179 60, quotactl_fd 443 443, acct 163 89, reboot 169 142, kexec_load 246 104, kexec_file_load 320 294,
init_module 175 105, finit_module 313 273, delete_module 176 106, settimeofday 164 170, clock_settime 227 112,
clock_adjtime 305 266, adjtimex 159 171, sethostname 170 161, setdomainname 171 162, syslog 103 116, vhangup 153 58,
iopl 172 -, ioperm 173 -, modify_ldt 154 -, uselib 134 -,

bpf 321 280, userfaultfd 323 282, io_uring_setup 425 425, io_uring_enter 426 426, io_uring_register 427 427,
io_setup 206 0, fanotify_init 300 262, add_key 248 217, request_key 249 218, keyctl 250 219
"""
ABSENT = "clone3 435 435, openat2 437 437"
CONDITIONAL = """
open 2 -, openat 257 56, clone 56 220, mmap 9 222, kill 62 129, tgkill 234 131, rt_sigqueueinfo 129 138,
rt_tgsigqueueinfo 297 240, fcntl 72 25, ioctl 16 29, prctl 157 167, prlimit64 302 261
"""
LAST_KNOWN = 462  # mseal, Linux 6.10; from 424 on all architectures share their numbers

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SET_MODE_FILTER, _TSYNC = 1, 1
# Kernels before 5.16 slow down a filtered process to prevent leaks between its parts; a child has none to separate.
_SPEC_ALLOW = 1 << 2

_LOAD_WORD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_AT, _ARCH_AT, _ARGUMENTS_AT = 0, 4, 16  # struct seccomp_data
ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_WORD = 0xFFFFFFFF

_CLONE_THREAD = 0x10000
_WRITING = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_NAMELESS = os.O_TMPFILE & ~os.O_DIRECTORY
_IOCTL_TYPE = 0xFF00  # _IOC_TYPE of ioctl.h: the letter of a family of drivers
# Shared anonymous memory and stacks that grow are outside RLIMIT_DATA. MAP_SHARED 1, MAP_PRIVATE 2, MAP_DROPPABLE 8,
# MAP_ANONYMOUS 0x20, MAP_GROWSDOWN 0x100.
_MAP_KIND, _MAP_KINDS = 0x12F, (0x01, 0x02, 0x03, 0x22, 0x28)
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX = 8, 10, 15  # they make the kernel send signals to others
_F_SETLEASE = 1024  # another process that opens the file would wait for 45 s
_FCNTL_TO_OTHERS = (_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _F_SETLEASE)
# F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW: a lock needs no right to write, and blocks a database's writers.
_FCNTL_LOCKS = (6, 7, 37, 38)
# TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. TIOCSTI would type into the operator's terminal.
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
# PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_MM, PR_SET_PTRACER: the child stays its parent's, and its memory unread.
_PRCTLS = (1, PR_SET_DUMPABLE, 35, 0x59616D61)


@dataclass(frozen=True)
class SyscallRule:
    """A test of a 32-bit word of an argument, masked: only these values pass, or all others do."""

    argument: int
    values: tuple[int, ...]
    mask: int = _WORD
    only: bool = True
    high: bool = False
    """The upper word. The kernel ignores it in arguments that are no address."""
    unless: tuple[int, ...] = ()
    """Types of ioctls (_IOC_TYPE) that pass anyway."""


def install_filter(driver_families: Sequence[int] | None = None, calls: Sequence[str] = ()) -> str:
    """Filter every thread of this process from now on; return "on" or why not. Needs PR_SET_NO_NEW_PRIVS.

    Args:
        driver_families: for a child that drives a device, the families of ioctls that it may make. It may also open
            existing files for reading and writing; Landlock restricts which ones.
        calls: denied calls that it may make all the same.
    """
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        return f"not supported on {machine}"
    code = ctypes.create_string_buffer(filter_program(machine, os.getpid(), driver_families, calls))
    length = (len(code) - 1) // 8
    # struct sock_fprog: a length and an address
    fprog = struct.pack("@HP", length, ctypes.addressof(code))
    try:
        failed_thread = system_call(_SECCOMP[machine], _SET_MODE_FILTER, _TSYNC | _SPEC_ALLOW, fprog)
    except OSError as error:
        return f"the kernel refuses a filter: {error.strerror}"
    return f"the kernel refuses a filter for thread {failed_thread}" if failed_thread else "on"


def call_numbers(table: str, machine: str) -> dict[str, int]:
    """Return the number of each call of a table that the architecture has."""
    column = list(AUDIT_ARCH).index(machine) + 1
    entries = [entry.split() for entry in table.split(",")]
    return {entry[0]: int(entry[column]) for entry in entries if entry[column] != "-"}


def filter_program(
    machine: str, pid: int, driver_families: Sequence[int] | None = None, calls: Sequence[str] = ()
) -> bytes:
    """Assemble the filter of an architecture for the process of that id; see `install_filter`."""
    code = [_op(_LOAD_WORD, _ARCH_AT), _op(_EQUAL, AUDIT_ARCH[machine], 1, 0), _op(_RETURN, KILL_PROCESS)]
    code += [_op(_LOAD_WORD, _NUMBER_AT), _op(_AT_LEAST, LAST_KNOWN + 1, 0, 1), _op(_RETURN, ERRNO | errno.ENOSYS)]
    rules = _syscall_rules(pid) | (_driver_rules(driver_families) if driver_families is not None else {})
    for name, number in call_numbers(CONDITIONAL, machine).items():
        body = [op for rule in rules[name] for op in _rule_checks(rule)]
        code += [_op(_EQUAL, number, 0, len(body) + 1), *body, _op(_RETURN, ALLOW)]
    for table, error in ((ABSENT, errno.ENOSYS), (DENIED, errno.EPERM)):
        for number in [number for name, number in call_numbers(table, machine).items() if name not in calls]:
            code += [_op(_EQUAL, number, 0, 1), _op(_RETURN, ERRNO | error)]
    return b"".join([*code, _op(_RETURN, ALLOW)])


def _syscall_rules(pid: int) -> dict[str, tuple[SyscallRule, ...]]:
    own_process_only = (SyscallRule(0, (pid,)),)  # abort(3) sends a signal
    return {
        "open": (SyscallRule(1, (0,), mask=_WRITING),),
        "openat": (SyscallRule(2, (0,), mask=_WRITING),),
        "clone": (SyscallRule(0, (_CLONE_THREAD,), mask=_CLONE_THREAD),),
        "mmap": (SyscallRule(3, _MAP_KINDS, mask=_MAP_KIND),),
        "kill": own_process_only,
        "tgkill": own_process_only,
        "rt_sigqueueinfo": own_process_only,
        "rt_tgsigqueueinfo": own_process_only,
        "fcntl": (SyscallRule(1, (*_FCNTL_TO_OTHERS, *_FCNTL_LOCKS), only=False),),
        "ioctl": (SyscallRule(1, _IOCTLS),),
        "prctl": (SyscallRule(0, _PRCTLS, only=False),),
        "prlimit64": (SyscallRule(2, (0,)), SyscallRule(2, (0,), high=True)),  # reading only: no address of new limits
    }


def _driver_rules(families: Sequence[int]) -> dict[str, tuple[SyscallRule, ...]]:
    """Return the rules that differ for a child that drives a device: it may write to device nodes, and call drivers.

    It may also lock what Landlock lets it open, as drivers do.
    """
    reading_or_both = (os.O_RDONLY, os.O_RDWR)
    return {
        "open": (SyscallRule(1, reading_or_both, mask=_WRITING | _NAMELESS),),
        "openat": (SyscallRule(2, reading_or_both, mask=_WRITING | _NAMELESS),),
        "fcntl": (SyscallRule(1, _FCNTL_TO_OTHERS, only=False),),
        "ioctl": (SyscallRule(1, _IOCTLS, unless=tuple(families)),),
    }


def _rule_checks(rule: SyscallRule) -> list[bytes]:
    """Return the instructions that end in EPERM for what the rule denies and fall through for the rest."""
    body = [_op(_LOAD_WORD, _ARGUMENTS_AT + 8 * rule.argument + 4 * rule.high), _op(_AND, rule.mask)]
    deny = _op(_RETURN, ERRNO | errno.EPERM)
    if rule.only:
        count = len(rule.values)
        body += [*(_op(_EQUAL, value, count - index, 0) for index, value in enumerate(rule.values)), deny]
    else:
        body += [op for value in rule.values for op in (_op(_EQUAL, value, 0, 1), deny)]
    if not rule.unless:
        return body
    last = len(rule.unless) - 1
    passes = (_op(_EQUAL, each << 8, len(body) + last - index, 0) for index, each in enumerate(rule.unless))
    return [_op(_LOAD_WORD, _ARGUMENTS_AT + 8 * rule.argument), _op(_AND, _IOCTL_TYPE), *passes, *body]


def _op(code: int, operand: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, operand)
