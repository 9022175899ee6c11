"""Real processes that confine themselves and then try the actions of a malicious model file."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edge_agent.engine.child_process_watch import CHILD_ENVIRONMENT
from tests.support import bundles

MIB = 1 << 20
WHY_NO_LANDLOCK = {
    errno.ENOSYS: "the kernel has no Landlock",
    errno.EOPNOTSUPP: "Landlock is not enabled: the kernel's parameter 'lsm' leaves it out",
    errno.EPERM: "the kernel refuses Landlock: Operation not permitted",
}
_libc = ctypes.CDLL(None, use_errno=True)
LANDLOCK = _libc.syscall(444, None, 0, 1) > 0  # the version of its interface, or -1
ALL_ON = {"seccomp": "on", "landlock": "on" if LANDLOCK else WHY_NO_LANDLOCK[ctypes.get_errno()], "memory": "on"}
HIDDEN = "EACCES" if LANDLOCK else "done"
SECONDS_MAX = 60
# Threads that start with the import of a library are out of Landlock's reach.
ENVIRONMENT = {**os.environ, **CHILD_ENVIRONMENT, "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}

PREAMBLE = """
import ctypes, dataclasses, errno, fcntl, json, mmap, os, resource, shutil, signal, socket, struct, subprocess, sys
import threading
from pathlib import Path
from edge_agent.engine import confinement as kernel
from edge_agent.engine.confinement import confine

blobs, elsewhere = Path(sys.argv[1]), Path(sys.argv[2])
weights, queue = blobs / "sha256" / "weights", b"edge-agent-%d" % os.getpid()
MQ_UNLINK = {"x86_64": 241, "aarch64": 181}[os.uname().machine]  # the C library turns EPERM into EACCES
parent = os.getppid()
libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)

def tried(attack):
    try:
        exec(attack)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"

def confined(memory_bytes_max=0):
    return dataclasses.asdict(confine([blobs], memory_bytes_max))
"""


@pytest.fixture
def blobs(tmp_path: Path) -> Path:
    """Return the one directory that a child can read."""
    (tmp_path / "blobs" / "sha256").mkdir(parents=True)
    (tmp_path / "blobs" / "sha256" / "weights").write_bytes(b"weights")
    return tmp_path / "blobs"


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a directory with files, next to the blobs."""
    (tmp_path / "elsewhere").mkdir()
    for name in ("one", "two"):
        (tmp_path / "elsewhere" / name).write_bytes(b"secret")
    return tmp_path / "elsewhere"


def ran(blobs: Path, elsewhere: Path, code: str) -> subprocess.CompletedProcess[str]:
    """Run code after the preamble in a separate process."""
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), str(blobs), str(elsewhere)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)


def told(blobs: Path, elsewhere: Path, code: str) -> object:
    """Return the value that the code printed as JSON."""
    process = ran(blobs, elsewhere, code)
    assert (0, "") == (process.returncode, process.stderr)
    return json.loads(process.stdout)


# What does it: done in a free process, refused in a confined one.
ATTACKS = {
    "socket": "socket.socket(socket.AF_INET).close()",
    "unix socket": "socket.socket(socket.AF_UNIX).close()",
    "socketpair": "socket.socketpair()",
    "connect": "udp.connect(('127.0.0.1', 9))",
    "bind": "tcp.bind(('127.0.0.1', 0))",
    "listen": "tcp.listen()",
    "fork": "os.fork() or os._exit(0)",
    "subprocess": "subprocess.run(['/bin/true'], check=True)",
    "posix_spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "unshare": "call('unshare', 0)",
    "read memory": "call('process_vm_readv', os.getpid(), None, 0, None, 0, 0)",
    "signal the parent": "os.kill(parent, 0)",
    "signal through a pidfd": "signal.pidfd_send_signal(os.pidfd_open(parent), 0)",
    "signal through a descriptor": "fcntl.fcntl(0, fcntl.F_SETOWN, parent)",
    "outlive the parent": "kernel.prctl(1, 0)",
    "open to debuggers": "kernel.prctl(kernel.PR_SET_DUMPABLE, 1)",
    "set a limit": "call('prlimit', 0, resource.RLIMIT_NOFILE, struct.pack('QQ', 200, 200), None)",
    "affinity": "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    "setuid": "os.setuid(os.getuid())",
    "memfd": "os.close(os.memfd_create('hidden'))",
    "shared memory": "mmap.mmap(-1, 4096).close()",
    "create": "(elsewhere / 'new').open('w').close()",
    "overwrite a blob": "(blobs / 'sha256' / 'weights').open('r+b').close()",
    "add a blob": "(blobs / 'new').open('wb').close()",
    "truncate": "os.truncate(elsewhere / 'one', 1)",
    "unlink": "next(victims).unlink()",
    "rename": "(elsewhere / 'one').rename(elsewhere / 'one')",
    "mkdir": "(elsewhere / next(names)).mkdir()",
    "link": "os.link(elsewhere / 'one', elsewhere / next(names))",
    "symlink": "os.symlink('/', elsewhere / next(names))",
    "chmod": "(blobs / 'sha256' / 'weights').chmod(0o777)",
    "utime": "os.utime(blobs / 'sha256' / 'weights')",
    "keep others from a blob": "with weights.open('rb') as file: fcntl.fcntl(file, 1024, fcntl.F_WRLCK)  # F_SETLEASE",
    "lock": "with weights.open('rb') as file: fcntl.lockf(file, fcntl.LOCK_SH)",
    "flock": "with weights.open('rb') as file: fcntl.flock(file, fcntl.LOCK_EX)",
    "watch a folder": "call('inotify_add_watch', libc.inotify_init1(0), bytes(elsewhere), 0x100)",
    "shared memory of others": "call('shmctl', 0, 3, bytes(256))",  # IPC_INFO, which needs none; IPC_RMID removes one
    "semaphores of others": "call('semctl', 0, 0, 3, bytes(256))",
    "messages of others": "call('msgctl', 0, 3, bytes(256))",
    "queues of others": "libc.mq_open(b'/' + queue, os.O_CREAT, 0o600, None); call('syscall', MQ_UNLINK, queue)",
}
DRIVERS_DO = ("memfd", "lock", "flock", "watch a folder")
LOOKS = {
    "a file of the system": "Path('/etc/passwd').read_bytes()",
    "another directory": "(elsewhere / 'one').read_bytes()",
    "a way out of the blobs": "(blobs / '..' / 'elsewhere' / 'one').read_bytes()",
    "a listing": "os.listdir(elsewhere)",
    "the root": "os.listdir('/')",
    "another process": "Path(f'/proc/{parent}/cmdline').read_bytes()",
}
BEFORE_AND_AFTER = """
udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
victims, names = iter([elsewhere / 'one', elsewhere / 'two']), iter('ab')
free = tried({attack!r})
confined()
print(json.dumps([free, tried({attack!r})]))
"""


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks_of_a_confined_child_are_refused(blobs, elsewhere, name):
    """Each attack succeeds in a free process, root or not, and fails with EPERM once the process is confined."""
    assert ["done", "EPERM"] == told(blobs, elsewhere, BEFORE_AND_AFTER.format(attack=ATTACKS[name]))


EVERYTHING = """
udp, tcp = socket.socket(type=socket.SOCK_DGRAM), socket.socket()
victims, names = iter([elsewhere / 'one', elsewhere / 'two']), iter('abcdefgh')
report = dataclasses.asdict(confine([blobs], 0, 'vulkan'))
print(json.dumps([report['landlock'], {{name: tried(attack) for name, attack in {attacks!r}.items()}}]))
"""


def test_child_with_an_accelerator_gets_only_the_needed_rights(blobs, elsewhere):
    """A child with an accelerator is refused the same actions, except nameless memory, locks and watches, which drivers
    need; Landlock instead of seccomp refuses to open a blob for writing."""
    landlock, refused = told(blobs, elsewhere, EVERYTHING.format(attacks=ATTACKS | LOOKS))
    assert ALL_ON["landlock"] == landlock
    expected = dict.fromkeys(ATTACKS, "EPERM") | dict.fromkeys(LOOKS, HIDDEN)
    assert expected | {"overwrite a blob": HIDDEN} | dict.fromkeys(DRIVERS_DO, "done") == refused


@pytest.mark.parametrize("name", LOOKS)
def test_a_confined_child_reads_only_the_blobs(blobs, elsewhere, name):
    """Where the kernel has Landlock, a confined child cannot read files and directories next to the blobs, even as
    root."""
    assert ["done", HIDDEN] == told(blobs, elsewhere, BEFORE_AND_AFTER.format(attack=LOOKS[name]))


@pytest.mark.parametrize("attack", ["os.execv('/bin/true', ['true'])", "call('ptrace', 0, 0, 0, 0)"])
def test_confined_child_cannot_execute_or_trace(blobs, elsewhere, attack):
    """A confined child is refused execve and ptrace, which cannot be tried in the same process before."""
    assert "EPERM" == told(blobs, elsewhere, f"confined()\nprint(json.dumps(tried({attack!r})))")


def test_each_measure_is_reported(blobs, elsewhere):
    """The report has "on" for every measure; for Landlock it has the reason if the kernel lacks it."""
    assert ALL_ON == told(blobs, elsewhere, f"print(json.dumps(confined({512 * MIB})))")


def test_kernel_reports_the_confinement(blobs, elsewhere):
    """/proc/self/status shows the seccomp filter and no new privileges, and core dumps are disabled."""
    code = """
    confined()
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    core = resource.getrlimit(resource.RLIMIT_CORE)
    dumpable = libc.prctl(3, 0, 0, 0, 0)
    print(json.dumps([fields["NoNewPrivs"].strip(), fields["Seccomp"].strip(), core, dumpable]))
    """
    assert ["1", "2", [0, 0], 0] == told(blobs, elsewhere, code)


def test_confined_child_can_do_its_work(blobs, elsewhere):
    """A confined child can read and map blobs, import modules and libraries late, start and end threads, and use its
    socket."""
    code = """
    ours, theirs = socket.socketpair()
    confined()
    with weights.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        seen = [os.listdir(blobs), mapped[:].decode()]
    import wave
    ctypes.CDLL("libm.so.6")
    worker = threading.Thread(target=seen.append, args=["threaded"])
    worker.start()
    worker.join()
    theirs.sendall(b"answer")
    print(json.dumps([*seen, ours.recv(16).decode(), len(os.sched_getaffinity(0)) > 0]))
    """
    assert [["sha256"], "weights", "threaded", "answer", True] == told(blobs, elsewhere, code)


def test_abort_in_a_confined_child_ends_it_by_sigabrt(blobs, elsewhere):
    """If a library calls abort in a confined child, it ends by SIGABRT, which the parent counts as a crash."""
    assert -signal.SIGABRT == ran(blobs, elsewhere, "confined(); os.abort()").returncode


def test_threads_started_before_confinement_are_filtered_and_reported(blobs, elsewhere):
    """The seccomp filter applies to a thread that was started before it; the report states that Landlock does not."""
    code = """
    now, said = threading.Event(), []
    def early():
        now.wait()
        said.append(tried("socket.socket()"))
    worker = threading.Thread(target=early)
    worker.start()
    report = confined()
    now.set()
    worker.join()
    print(json.dumps([said, report["seccomp"], report["landlock"]]))
    """
    landlock = "not on all threads: 1 were started before it" if LANDLOCK else ALL_ON["landlock"]
    assert [["EPERM"], "on", landlock] == told(blobs, elsewhere, code)


# A kernel that lacks something: a filter of the test's own answers for one call.
LACKING = """
def lacking(number, error):
    lines = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x50000 | error), (0x06, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in lines))
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    call("prctl", 22, 2, struct.pack("HP", len(lines), ctypes.addressof(code)), 0, 0)

lacking({number}, {error})
program = shutil.copy("/bin/true", blobs)
report = confined()
attacks = [
    "socket.socket().close()",
    "(blobs / 'new').open('wb').close()",
    "weights.open('r+b').close()",
    "subprocess.run([program], check=True)",
    "Path('/etc/passwd').read_bytes()",
]
print(json.dumps([report["seccomp"], report["landlock"], *map(tried, attacks)]))
"""


@pytest.mark.parametrize("error", WHY_NO_LANDLOCK)
def test_missing_landlock_is_reported_and_the_filter_stays(blobs, elsewhere, error):
    """Without Landlock files stay readable, and the report states the reason; sockets, writing and programs stay
    refused."""
    expected = ["on", WHY_NO_LANDLOCK[error], *["EPERM"] * 4, "done"]
    assert expected == told(blobs, elsewhere, LACKING.format(number=444, error=int(error)))


def test_missing_seccomp_is_reported_and_landlock_stays(blobs, elsewhere):
    """If the kernel refuses the seccomp filter, sockets stay usable, and the report states the reason; Landlock still
    refuses writing and programs."""
    number = {"x86_64": 317, "aarch64": 277}[os.uname().machine]
    why = "the kernel refuses a filter: Invalid argument"
    expected = [why, ALL_ON["landlock"], "done", *[HIDDEN] * 4]
    assert expected == told(blobs, elsewhere, LACKING.format(number=number, error=int(errno.EINVAL)))


def test_memory_over_the_limit_is_a_memory_error(blobs, elsewhere):
    """A confined child can allocate half of its memory limit; all of it is a MemoryError instead of a death. Mapped
    weights do not count."""
    code = f"""
    big = blobs / "big"
    with big.open("wb") as file:
        file.truncate({4096 * MIB})
    confined({256 * MIB})
    half = len(bytearray({128 * MIB}))
    with big.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            bytearray({256 * MIB})
        except MemoryError:
            print(json.dumps([half, len(mapped)]))
    """
    assert [128 * MIB, 4096 * MIB] == told(blobs, elsewhere, code)


def test_missing_memory_limit_is_reported(blobs, elsewhere):
    """Without a memory limit the report states that no limit is set."""
    assert "no limit is set" == told(blobs, elsewhere, 'print(json.dumps(confined(0)["memory"]))')


def test_missing_path_is_an_error_before_confinement(blobs, elsewhere):
    """A path that does not exist raises an error, and the process is not confined."""
    code = """
    first = tried("confine([blobs / 'missing'], 0)")
    print(json.dumps([first, tried("socket.socket().close()")]))
    """
    assert ["ENOENT", "done"] == told(blobs, elsewhere, code)


REAL = """
from edge_agent.engine import runtimes
from edge_agent.engine.protocol import JobRequest, LoadRequest
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats import manifest

bundle = manifest.parse((blobs / manifest.MANIFEST_NAME).read_bytes())
paths = {each.role: str(blobs / each.path) for each in bundle.artifacts}
runtime = runtimes.create(bundle.runtime)
report = confined(MEMORY)
try:
    runtime.load(LoadRequest(runtime=bundle.runtime, weights=paths["weights"], threads=2))
    runtime.attach("digest", bundle, paths)
except ModelLoadFailed as error:
    print(json.dumps([report, str(error)]))
    sys.exit()
runtime.submit(JobRequest(job_id="job", digest="digest", text="My kettle broke, I want my money back."))
events = []
while runtime.busy:
    events += runtime.step()
runtime.close()
print(json.dumps([report, sum(events[0].scores)]))
"""


def test_packages_of_another_environment_can_be_imported(blobs, elsewhere):
    """After confinement a child can import from a site-packages folder on sys.path, as a .pth file adds it, but cannot
    read another folder on it."""
    for folder in ("site-packages", "work"):
        (elsewhere / folder).mkdir()
        (elsewhere / folder / "late.py").write_text("")
    code = """
    sys.path[:0] = [str(elsewhere / "site-packages"), str(elsewhere / "work")]
    confined()
    print(json.dumps([tried("import late"), tried("(elsewhere / 'work' / 'late.py').read_text()")]))
    """
    assert ["done", HIDDEN] == told(blobs, elsewhere, code)


def test_child_imports_no_module_from_the_working_directory(tmp_path):
    """A module in the working directory, such as one in a bundle's folder, is not executed by the child, which imports
    modules before it is confined."""
    folder = bundles.echo_bundle(tmp_path / "bundle")
    (folder / "msgspec.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    command = [sys.executable, "-P", "-m", "edge_agent.cli", "run", ".", "hello"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS_MAX, check=False)
    assert not (folder / "ran").exists()
    assert 0 == done.returncode, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("build", [bundles.tiny_onnx_bundle, bundles.smollm2_bundle])
def test_real_models_load_and_compute_confined(tmp_path, elsewhere, build):
    """Real models load and compute in a confined child: after the import of its library a runtime needs none of the
    refused actions, and scores add up to 1."""
    report, total = told(build(tmp_path / "bundle"), elsewhere, REAL.replace("MEMORY", str(1024 * MIB)))
    assert ALL_ON == report
    assert pytest.approx(1.0, abs=1e-3) == total


def test_a_model_over_the_limit_fails_to_load(tmp_path, elsewhere):
    """A model whose context does not fit into the memory limit fails to load with the library's reason, and the process
    survives."""
    bundle = bundles.smollm2_bundle(tmp_path / "bundle")
    report, problem = told(bundle, elsewhere, REAL.replace("MEMORY", str(256 * MIB)))
    assert ALL_ON == report
    assert "insufficient memory" in problem
