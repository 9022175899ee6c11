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
from edge_agent.doctor.installation import DAEMON_USER, Installation, SystemUser, current_user, read_bytes, read_text
from edge_agent.errors import EdgeAgentError
from edge_agent.store.state_database import StateDatabase
from edge_agent.store.update_records import UpdateProgress

STATUS_SECONDS_MAX = 5.0
DATABASE_BYTES_MAX = 64 * 2**20
_DEFAULT_STATE_DIR = "/var/lib/edge-agent"
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)
_NO_PID = (0, -1)
_STOPPED_STATES = {"T": "its process is stopped", "D": "it waits for the disk", "Z": "its process has ended"}


def start_command(managed: bool, verb: str = "start") -> str:
    """Return the command that starts or restarts the daemon; `managed` when systemd runs it."""
    return f"sudo systemctl {verb} edge-agent" if managed else "edge-agent serve"


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
        return start_command(self.managed, "restart")


@dataclass(frozen=True)
class StoredState:
    """What state.db holds of updates."""

    signed: float | None
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
    pid, uid = _listener(config.admin_socket)
    if pid in _NO_PID:
        # A user who may not use the admin socket may still use the devices' socket.
        pid, uid = _listener(config.inference_socket)
    state, started = _process(pid)
    daemon = _status(config.admin_socket, pid, state, _is_managed(installation))
    user = _daemon_user(installation, uid)
    return ProbeContext(installation, daemon, started, user, read_stored_state(config.state_dir / "state.db"))


def running_seconds() -> float:
    """Return seconds since this machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _status(path: Path, pid: int, state: str, managed: bool) -> DaemonFacts:
    status, reason, message, up = None, "", "", 0.0
    with AdminClient(f"unix:{path.absolute()}") as admin:
        try:
            status = admin.status(timeout_seconds=STATUS_SECONDS_MAX)
            up = time.time() - status.start_time.timestamp()
        except CallFailed as error:
            reason = "FORBIDDEN" if error.message.startswith("this user may not") else error.reason
            message = error.message
    return DaemonFacts(str(path), managed, status, reason, message, pid, state, up, __version__)


def _listener(path: Path) -> tuple[int, int]:
    """Return pid and uid of the process that listens at a socket; (0, -1) when there is none, or it is hidden."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(str(path))
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            return 0, -1
    return pid, uid


def is_listening(path: Path) -> bool | None:
    """Tell whether a process listens at a socket; None when this user may not connect."""
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


def _process(pid: int) -> tuple[str, float | None]:
    """Return a process's state and start time, from proc(5)."""
    stat = read_text(Path(f"/proc/{pid}/stat")) if pid > 0 else ""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return "", None
    return fields[0], int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _is_managed(installation: Installation) -> bool:
    folders = ("etc/systemd/system", "usr/lib/systemd/system")
    return installation.has_systemd and any(
        installation.at(f"{folder}/edge-agent.service").exists() for folder in folders
    )


def _daemon_user(installation: Installation, uid: int) -> SystemUser | None:
    """Return the user who runs the daemon, or who would run it."""
    if uid == 0:
        return SystemUser("root", 0, frozenset({0}))
    named = installation.find_user(DAEMON_USER)
    if named and (uid == named.uid or str(installation.config.state_dir) == _DEFAULT_STATE_DIR):
        return named
    return current_user() if uid in (-1, os.geteuid()) else None


def read_stored_state(path: Path) -> StoredState | ProbeFailure:
    """Read state.db in a copy: opening the original would leave files beside it that the daemon may not use."""
    try:
        return _read_copy(path)
    except PermissionError:
        return ProbeFailure(f"this user may not read {path}")
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
                _copy(source, copy.with_name(copy.name + suffix))
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


def _copy(source: Path, target: Path) -> None:
    copied = read_bytes(source, DATABASE_BYTES_MAX + 1)
    if len(copied) > DATABASE_BYTES_MAX:
        raise OSError(0, f"it has more than {DATABASE_BYTES_MAX} bytes")
    target.write_bytes(copied)
