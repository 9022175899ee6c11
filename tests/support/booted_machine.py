"""A separate machine: a minimal Debian, booted by systemd in a container without a network; needs root.

with Machine(tmp_path / "machine", tree("trixie"), log) as machine:
    machine.run("systemctl", "is-active", "edge-agent")
    machine.reboot()

Everything is real but the kernel, which is this machine's. There is no disk of its own; a limit on memory holds only
where a control group for that is handed on. Run one machine at a time: all machines that one run of the tests boots are
in its control group, so that units of one name share a path below it (system.slice/edge-agent.service), and systemd's
network filter and kill reach those of the other too. --slice= and --property= have no effect beside --keep-unit.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.support.eventually import eventually_sync

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache/booted"
LINES_MAX = 60
"""Of what a command prints, in the log."""
# What a Debian server has anyway. No pip, no compiler, no library of ours.
PACKAGES = ("systemd-sysv", "dbus", "python3", "passwd", "util-linux", "iproute2", "ca-certificates")
TOOLS = ("systemd-nspawn", "mmdebstrap", "nsenter", "tar")
BOOT_SECONDS_MAX = 120.0
STOP_SECONDS_MAX = 90.0
REBOOTS = 133
"""With --keep-unit systemd-nspawn ends so when its machine reboots: whoever started it is to start it again."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def reason_against() -> str:
    """Return why no machine can be booted here; empty = it is possible."""
    if os.geteuid() != 0:
        return "only root can boot a machine in a container"
    missing = [tool for tool in TOOLS if not shutil.which(tool)]
    return f"not installed: {', '.join(missing)} (apt install systemd-container mmdebstrap)" if missing else ""


needs_machine = pytest.mark.skipif(bool(reason_against()), reason=reason_against())


def tree(release: str) -> Path:
    """Return a tar of a minimal Debian; made once, from this machine's package sources."""
    CACHE.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(" ".join((release, *PACKAGES)).encode()).hexdigest()[:8]
    made = CACHE / f"{release}-{name}.tar"
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            partial = made.with_suffix(".partial.tar")
            command = ["mmdebstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", release, str(partial)]
            done = subprocess.run([*command, *_mirror()], capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"no Debian {release} could be fetched: {done.stderr.strip().splitlines()[-1:]}")
            partial.rename(made)
    return made


def new_log(name: str) -> Path:
    """Return an empty log file for the commands in a machine."""
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / f"{name}.log"
    log.write_text("")
    return log


def _mirror() -> list[str]:
    listed = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Origin: Debian"]
    found = subprocess.run(listed, capture_output=True, text=True, check=False).stdout.split()
    return [uri for uri in found if uri.startswith("http") and "security" not in uri][:1]


class Machine:
    """A machine that is booted inside the block. `log` gets every command and its output."""

    def __init__(self, folder: Path, tar: Path, log: Path) -> None:
        """Unpack the tree."""
        self.root = folder
        self._log = log
        self._console = folder.with_name(f"{folder.name}.console")
        self._nspawn: subprocess.Popen[bytes] | None = None
        folder.mkdir()
        subprocess.run(["tar", "-C", folder, "-xf", tar], check=True)

    def __enter__(self) -> Self:
        """Boot."""
        self.boot()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Cut the power."""
        if kind is not None:
            self.note(self.run("journalctl", "--no-pager", "-b", "-n", "60", check=False))
        self.cut_power()

    def boot(self) -> None:
        """Start it, and wait until systemd has nothing more to start."""
        # A run that was killed leaves mounts under the name of its machine: another one of that name does not start.
        named = f"--machine=ea-{secrets.token_hex(4)}"
        container = ["systemd-nspawn", "--quiet", f"--directory={self.root}", named, "--register=no", "--keep-unit"]
        # CAP_BPF: by it systemd keeps IPAddressDeny=.
        command = [*container, "--private-network", "--capability=CAP_BPF", "--boot", "--console=pipe"]
        unified = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self._console.open("ab") as console:
            self._nspawn = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True, env=unified
            )
        self._wait_until_up()

    def reboot(self) -> None:
        """Reboot in order: systemd stops and starts all units."""
        assert self._nspawn is not None
        self.run("systemctl", "reboot", check=False)
        assert REBOOTS == self._nspawn.wait(STOP_SECONDS_MAX), self._console.read_text()
        self.boot()

    def cut_power(self) -> None:
        """Kill everything in it at once."""
        if self._nspawn is None:
            return
        # Killing the first process of a process namespace kills all in it. systemd-nspawn then tidies up, and ends.
        if leader := self.leader:
            os.kill(leader, signal.SIGKILL)
        self._nspawn.wait(STOP_SECONDS_MAX)
        self._nspawn = None

    @property
    def leader(self) -> int:
        """The process id of its systemd, seen from here; 0 = none."""
        assert self._nspawn is not None
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")
        return int((children.read_text().split() or ["0"])[-1])

    def run(self, *command: str, user: str = "", check: bool = True) -> str:
        """Run a command in it; return what it printed, errors included."""
        code, said = self.tell(*command, user=user)
        assert not check or code == 0, f"{' '.join(command)} ended with {code}:\n{said}"
        return said

    def tell(self, *command: str, user: str = "", shown: Callable[[str], str] | None = None) -> tuple[int, str]:
        """Run a command; return its exit code and output. `shown` turns the output into the log entry."""
        began = time.monotonic()
        code, said = self.ask(*command, user=user)
        took = f"({time.monotonic() - began:.1f} s)" + (f" [{code}]" if code else "")
        self.note(f"{user or 'root'}# {' '.join(command)}   {took}\n{(shown or shortened)(said)}")
        return code, said

    def ask(self, *command: str, user: str = "") -> tuple[int, str]:
        """Run a command without logging it: for commands that poll."""
        inside = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--"]
        whole = [*inside, "env", "-i", f"PATH={PATH}", "LANG=C.UTF-8", *(("runuser", "-u", user, "--") if user else ())]
        done = subprocess.run([*whole, *command], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def note(self, text: str) -> None:
        """Write something into the log."""
        with self._log.open("a") as log:
            log.write(f"{text}\n")

    def put(self, source: Path, target: str) -> None:
        """Copy a file or folder into it, readable by all."""
        place = self.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", "--no-preserve=mode,ownership", source, place], check=True)

    def write(self, target: str, text: str) -> None:
        """Write a file in it."""
        place = self.root / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def property(self, unit: str, name: str) -> str:
        """Return a property of a unit from systemd."""
        _, said = self.ask("systemctl", "show", "--property", name, "--value", unit)
        return said.strip()

    def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> float:
        """Wait for a condition on the machine; return how long it took."""
        began = time.monotonic()
        eventually_sync(condition, seconds)
        took = time.monotonic() - began
        self.note(f"-- after {took:.1f} s")
        return took

    def _wait_until_up(self) -> None:
        def up() -> bool:
            return bool(self.leader) and self.ask("systemctl", "is-system-running")[1].strip() in (
                "running",
                "degraded",
            )

        eventually_sync(up, BOOT_SECONDS_MAX)


def shortened(said: str) -> str:
    """Return the output of a command, limited to LINES_MAX lines."""
    lines = said.rstrip().splitlines()
    return "\n".join(lines[:LINES_MAX] + [f"… {len(lines) - LINES_MAX} more lines"] * (len(lines) > LINES_MAX))
