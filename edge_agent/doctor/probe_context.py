"""What every probe starts from: the installation, one answer of its daemon, and what state.db holds."""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_agent import __version__
from edge_agent.client import AdminClient, CallFailed, Status
from edge_agent.doctor.findings import Check, Finding, ProbeFailure
from edge_agent.doctor.installation import (
    DAEMON_USER,
    Installation,
    SystemUser,
    current_user,
    find_user,
    read_bytes,
    read_text,
    stat_file,
)
from edge_agent.errors import EdgeAgentError
from edge_agent.store.state_database import StateDatabase, UpdateProgress

STATUS_SECONDS_MAX = 5.0
DATABASE_BYTES_MAX = 64 * 2**20
_DEFAULT_STATE_DIR = "/var/lib/edge-agent"
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)
_NO_PID = (0, -1)
DRAIN_SLACK_SECONDS = 15.0
"""Engines and files are closed after the drain."""
STARTING_SECONDS_MAX = 300.0
"""Longer than a start, a stop or a reload of the units takes: systemd ends one after 180 s (TimeoutStartSec)."""
_PHASES = {"activating": "starting", "reloading": "reloading", "deactivating": "stopping"}
PHASE_PROPERTIES = "ActiveState,SubState,MainPID,NRestarts,StateChangeTimestampMonotonic"
_STOPPED_STATES = {"T": "its process is stopped", "D": "it waits for the disk", "Z": "its process has ended"}


def start_command(managed: bool, verb: str = "start", pid: int = 0) -> str:
    """Return the command that starts or restarts the daemon; `managed` when systemd runs it.

    `pid` is its process, which without systemd has to end before another one starts; 0 = none runs.
    """
    if managed:
        return f"sudo systemctl {verb} edge-agent"
    end_first = f"{end_command(pid)}; " if verb == "restart" and pid > 0 else ""
    return f"{end_first}edge-agent serve"


def end_command(pid: int) -> str:
    """Return the command that ends a process and waits for its end."""
    return f"sudo kill {pid}; tail --pid={pid} -f /dev/null"


@dataclass(frozen=True)
class UnitPhase:
    """Where a unit is between stopped and running."""

    name: str = ""
    """starting, reloading or stopping; empty when it is in none of them, has been for too long, or starts again after a
    failure."""
    seconds: float = 0.0
    """How long it has been in its state."""
    active: bool = False
    """It runs."""
    pid: int = 0
    """Its main process; 0 when there is none, or systemd does not run this machine."""

    @property
    def summary(self) -> str:
        """Phase and duration, as text."""
        return f"{self.name} for {self.seconds:.0f} s"


NO_PHASE = UnitPhase()


@dataclass(frozen=True)
class DaemonFacts:
    """The outcome of one status call, and the daemon's process."""

    path: str
    """The admin socket."""
    managed: bool
    """systemd runs it."""
    status: Status | None
    reason: str = ""
    """Why there is no status: UNREACHABLE, DEADLINE_EXPIRED, FORBIDDEN or another code."""
    message: str = ""
    pid: int = 0
    """The process that listens; 0 when no process listens, or this user may not see it."""
    process_state: str = ""
    """R, S, D, T or Z of proc(5)."""
    up_seconds: float = 0.0
    version: str = ""
    """Version of this command."""
    phase: UnitPhase = NO_PHASE
    drain_seconds_max: float = 0.0
    """Longest time that a drain takes before the daemon ends."""
    takes_updates: bool = True
    """agent.yaml names a root of trust, which enrolment brings."""
    is_hidden: bool = False
    """A process listens, and is not visible from here: it runs in another container."""

    @property
    def is_young(self) -> bool:
        """It started so recently that its engines may still be loading."""
        return self.status is not None and self.up_seconds < STARTING_SECONDS_MAX

    @property
    def is_draining(self) -> bool:
        """It drains, and for no longer than a drain takes."""
        seconds = self.status.draining_seconds if self.status else None
        return seconds is not None and seconds <= self.drain_seconds_max + DRAIN_SLACK_SECONDS

    @property
    def why_silent(self) -> str:
        """Why a process that listens does not answer."""
        return _STOPPED_STATES.get(self.process_state, "it hangs")

    @property
    def start(self) -> str:
        """The command that starts the daemon and, under systemd, the one that shows its log."""
        log = "; sudo journalctl -u edge-agent -b | tail -100" if self.managed else ""
        return start_command(self.managed) + log

    @property
    def restart(self) -> str:
        """The command that starts the daemon again."""
        return start_command(self.managed, "restart", self.pid)

    @property
    def stop(self) -> str:
        """The command that ends the daemon where systemd does not run it; empty when it does not run."""
        return end_command(self.pid) if self.pid > 0 else ""

    @property
    def restart_unseen(self) -> str:
        """The end of a command that restarts a daemon whose process is not visible: systemd can, a shell cannot."""
        return f"; {start_command(self.managed, 'restart')}" if self.managed else ""

    @property
    def restart_killed(self) -> str:
        """The command that starts the daemon again after its process was killed."""
        return start_command(self.managed, "restart")


@dataclass(frozen=True)
class StoredState:
    """What state.db holds of updates."""

    signed_at: float | None
    """Newest signing time of the fleet's metadata, in seconds since 1970; None when there is no metadata."""
    journal: Mapping[str, UpdateProgress]


@dataclass(frozen=True)
class ProbeContext:
    """What every probe gets."""

    installation: Installation
    daemon: DaemonFacts
    started: float | None
    """When the daemon's process started, on CLOCK_BOOTTIME; None when this user may not see it."""
    daemon_user: SystemUser | None
    stored: StoredState | ProbeFailure

    @property
    def status(self) -> Status | None:
        """The daemon's status; None when it did not answer."""
        return self.daemon.status


@dataclass(frozen=True)
class CheckGroup:
    """Checks that one probe serves, and the rule that judges what the probe saw."""

    checks: tuple[Check, ...]
    probe: Callable[[ProbeContext], Any]
    judge: Callable[[Any], Iterator[Finding]]


def query_daemon(installation: Installation) -> ProbeContext:
    """Ask the daemon once for its status, with a deadline; look at its process, which shows why it is silent."""
    config = installation.config
    pid, uid = _find_listener(config.admin_socket, config.state_dir)
    if pid in _NO_PID:
        # A user who may not use the admin socket may still use the devices' socket.
        pid, uid = _find_listener(config.inference_socket, config.state_dir)
    unit_files = (f"{folder}/edge-agent.service" for folder in ("etc/systemd/system", "usr/lib/systemd/system"))
    managed = installation.has_systemd and any(installation.at(file).exists() for file in unit_files)
    phase = unit_phase(installation, "edge-agent.service") if managed else _phase_by_lock(config.state_dir, pid)
    state, started = _read_process(pid if pid > 0 else phase.pid)
    status, reason, message, up_seconds = None, "", "", 0.0
    with AdminClient(f"unix:{config.admin_socket.absolute()}") as admin:
        try:
            status = admin.status(timeout_seconds=STATUS_SECONDS_MAX)
            up_seconds = time.time() - status.start_time.timestamp()
        except CallFailed as error:
            reason = "FORBIDDEN" if error.message.startswith("this user may not") else error.reason
            message = error.message
    daemon = DaemonFacts(
        path=str(config.admin_socket),
        managed=managed,
        status=status,
        reason=reason,
        message=message,
        pid=pid,
        process_state=state,
        up_seconds=up_seconds,
        version=__version__,
        phase=phase,
        drain_seconds_max=config.service.drain_seconds,
        takes_updates=bool(config.update.root_file),
        is_hidden=pid == 0 and uid >= 0,
    )
    user = _daemon_user(installation, uid)
    return ProbeContext(installation, daemon, started, user, read_stored_state(config.state_dir / "state.db"))


def unit_phase(installation: Installation, unit: str) -> UnitPhase:
    """Ask systemd for the phase of a unit, which every user may."""
    return parse_phase(show_unit(installation, unit, PHASE_PROPERTIES) or "")


def show_unit(installation: Installation, unit: str, properties: str) -> str | None:
    """Return properties of a unit as `systemctl show` prints them; None when it does not answer."""
    return installation.run(("systemctl", "show", unit, f"--property={properties}", "--no-pager"))


def parse_phase(text: str) -> UnitPhase:
    """Read the phase of a unit from what `systemctl show` prints."""
    properties = parse_properties(text)
    changed_usec, pid = (properties.get(name, "") for name in ("StateChangeTimestampMonotonic", "MainPID"))
    seconds = time.monotonic() - int(changed_usec) / 1e6 if changed_usec.isdecimal() and int(changed_usec) else 0.0
    name = "" if is_failing(properties) else _PHASES.get(properties.get("ActiveState", ""), "")
    return UnitPhase(
        name if seconds < STARTING_SECONDS_MAX else "",
        seconds,
        properties.get("ActiveState") == "active",
        int(pid) if pid.isdecimal() else 0,
    )


def parse_properties(text: str) -> dict[str, str]:
    """Parse the output of `systemctl show`."""
    return {key: value for key, equals, value in (line.partition("=") for line in text.splitlines()) if equals}


def is_failing(properties: Mapping[str, str]) -> bool:
    """Return whether a unit has failed, and not become ready since.

    systemd starts a failed unit again after a pause. A unit that fails at each start is in the pause at one moment and
    starts at the next. systemd counts the starts that follow a failure; a person who starts the unit sets that count to
    zero.
    """
    state = properties.get("ActiveState", "")
    is_retry = state == "activating" and properties.get("NRestarts", "0") not in ("", "0")
    return state == "failed" or is_retry or properties.get("SubState", "").startswith("auto-restart")


def _phase_by_lock(state_dir: Path, listener: int) -> UnitPhase:
    """Tell a daemon that starts or stops without systemd: its process has the lock, and does not listen."""
    holder = 0 if listener > 0 else _lock_holder(state_dir)
    _, started = _read_process(holder)
    if started is None:
        return UnitPhase()
    seconds = running_seconds() - started
    return UnitPhase("starting" if seconds < STARTING_SECONDS_MAX else "", seconds, False, holder)


def _lock_holder(state_dir: Path) -> int:
    """Return the process of the daemon that has the state folder's lock; 0 when there is none, or it is hidden."""
    try:
        holder = read_text(state_dir / "lock").strip()
        arguments = read_bytes(Path(f"/proc/{holder}/cmdline")).split(b"\0") if holder.isdecimal() else []
    except OSError:
        return 0
    return int(holder) if b"serve" in arguments else 0


def running_seconds() -> float:
    """Return seconds since this machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _find_listener(path: Path, state_dir: Path) -> tuple[int, int]:
    """Return pid and uid of the process that listens at a socket; (0, -1) when there is none, or this user may not
    connect. The pid of a process in another container is 0.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(str(path))
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except BlockingIOError:  # its queue of connections is full: it does not take them
            pid = _lock_holder(state_dir)
            return pid, stat_file(Path(f"/proc/{pid}") if pid else path).uid
        except OSError:
            return 0, -1
    return pid, uid


def is_listening(path: Path) -> bool | None:
    """Return whether a process listens at a socket; None when this user may not connect."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(str(path))
        except PermissionError:
            return None
        except BlockingIOError:
            return True  # its queue of connections is full
        except OSError:
            return False
    return True


def _read_process(pid: int) -> tuple[str, float | None]:
    """Return a process's state and start time, from proc(5)."""
    stat = read_text(Path(f"/proc/{pid}/stat")) if pid > 0 else ""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return "", None
    return fields[0], int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _daemon_user(installation: Installation, uid: int) -> SystemUser | None:
    """Return the user who runs the daemon, or who would run it."""
    if uid == 0:
        return SystemUser("root", 0, frozenset({0}))
    daemon_user = installation.find_user(DAEMON_USER)
    if daemon_user and (uid == daemon_user.uid or str(installation.config.state_dir) == _DEFAULT_STATE_DIR):
        return daemon_user
    if uid in (-1, os.geteuid()):
        return _folder_owner(installation.config.state_dir) or current_user()
    return None


def _folder_owner(folder: Path) -> SystemUser | None:
    """Return the user whose folder it is: that is who ran the daemon."""
    try:
        file = stat_file(folder)
    except OSError:
        return None
    if not file.kind or file.uid == os.geteuid():
        return None
    return find_user(file.owner) or SystemUser(file.owner, file.uid, frozenset({file.gid}))


def read_stored_state(path: Path) -> StoredState | ProbeFailure:
    """Read state.db in a copy: opening the original would leave files beside it that the daemon may not use."""
    try:
        return _read_copy(path)
    except PermissionError:
        return ProbeFailure(f"this user may not read {path}", needs_rights=True)
    except FileNotFoundError:
        return StoredState(None, {})
    except OSError as error:
        return ProbeFailure(f"{path} cannot be read: {error.strerror}")
    except EdgeAgentError as error:
        return ProbeFailure(error.message)


def find_damage(path: Path) -> str:
    """Return what SQLite reports of a damaged state.db; empty when it is whole. Raises OSError."""
    try:
        _read_copy(path)
    except EdgeAgentError as error:
        return error.message
    return ""


def _read_copy(path: Path) -> StoredState:
    """Copy a database with its log, and read the copy. Raises OSError, SiteError."""
    with tempfile.TemporaryDirectory(prefix="edge-doctor-") as folder:
        copy = Path(folder) / path.name
        for suffix in ("", "-wal"):
            source = path.with_name(path.name + suffix)
            if not suffix or source.exists():
                _copy_file(source, copy.with_name(copy.name + suffix))
        try:
            state = StateDatabase(copy, may_create=False)
        except EdgeAgentError as error:
            error.message = error.message.replace(str(copy), str(path))
            raise
        try:
            floors = state.trusted.floors().values()
            return StoredState(max((floor.issued_at for floor in floors), default=None), state.journal.rows())
        finally:
            state.close()


def _copy_file(source: Path, target: Path) -> None:
    content = read_bytes(source, DATABASE_BYTES_MAX + 1)
    if len(content) > DATABASE_BYTES_MAX:
        raise OSError(0, f"it has more than {DATABASE_BYTES_MAX} bytes")
    target.write_bytes(content)
