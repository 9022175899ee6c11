"""Asks the daemon, once, with a deadline; and looks at its process, which says why it is silent."""

from __future__ import annotations

import os
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from edge_agent import __version__
from edge_agent.client import AdminClient, CallFailed, Status
from edge_agent.doctor.files import Person
from edge_agent.doctor.findings import Unseen
from edge_agent.doctor.probes.database import Stored, stored
from edge_agent.doctor.probes.place import DAEMON_USER, Place, me, text
from edge_agent.doctor.serving import Answering

STATUS_SECONDS_MAX = 5.0
_DEFAULT_STATE_DIR = "/var/lib/edge-agent"
_CREDENTIALS = struct.Struct("3i")  # struct ucred of unix(7)
_NO_PID = (0, -1)


@dataclass(frozen=True)
class Case:
    """A place, and what came of asking its daemon: what most probes need."""

    place: Place
    answering: Answering
    started: float | None
    """When the daemon's process started, in running seconds (CLOCK_BOOTTIME); None = it cannot be seen."""
    person: Person | None
    """The daemon's user."""
    stored: Stored | Unseen
    """What its database remembers."""

    @property
    def status(self) -> Status | None:
        """What the daemon says."""
        return self.answering.status


def ask(place: Place) -> Case:
    """Ask for the status."""
    path = place.config.admin_socket
    pid, uid = _listener(path)
    if pid in _NO_PID:
        # Whoever may not use the admin socket may see the devices'.
        pid, uid = _listener(place.config.inference_socket)
    state, started = _process(pid)
    answering = _status(path, pid, state, bool(_loaded(place)))
    return Case(place, answering, started, _person(place, uid), stored(place.config.state_dir / "state.db"))


def running_seconds() -> float:
    """Return seconds since this machine was started, sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _status(path: Path, pid: int, state: str, managed: bool) -> Answering:
    status, reason, said, up = None, "", "", 0.0
    with AdminClient(f"unix:{path.absolute()}") as admin:
        try:
            status = admin.status(timeout_seconds=STATUS_SECONDS_MAX)
            up = time.time() - status.start_time.timestamp()
        except CallFailed as error:
            reason = "FORBIDDEN" if error.message.startswith("this user may not") else error.reason
            said = error.message
    return Answering(str(path), managed, status, reason, said, pid, state, up, __version__)


def _listener(path: Path) -> tuple[int, int]:
    """Return pid and uid of whoever listens at a socket; (0, -1) = nobody, or this user may not ask."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as sock:
        try:
            sock.connect(str(path))
            pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            return 0, -1
    return pid, uid


def listens(path: Path) -> bool | None:
    """Tell whether anybody listens at a socket; None = this user may not ask."""
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
    """Return a process's state and when it started, of proc(5)."""
    stat = text(Path(f"/proc/{pid}/stat")) if pid > 0 else ""
    fields = stat.rpartition(")")[2].split()
    if len(fields) < 20:
        return "", None
    return fields[0], int(fields[19]) / os.sysconf("SC_CLK_TCK")


def _loaded(place: Place) -> bool:
    return place.at("run/systemd/system").is_dir() and any(
        place.at(f"{folder}/edge-agent.service").exists() for folder in ("etc/systemd/system", "usr/lib/systemd/system")
    )


def _person(place: Place, uid: int) -> Person | None:
    """Return the daemon's user: who runs it, or who would."""
    if uid == 0:
        return Person("root", 0, frozenset({0}))
    named = place.person(DAEMON_USER)
    if named and (uid == named.uid or str(place.config.state_dir) == _DEFAULT_STATE_DIR):
        return named
    return me() if uid in (-1, os.geteuid()) else None
