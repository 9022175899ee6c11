"""Where doctor looks, and with whose eyes: the configuration, the root of the file system, the system's commands."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config
from edge_agent.doctor.files import File, Person

COMMAND_SECONDS_MAX = 5.0
TEXT_BYTES_MAX = 1024 * 1024
DAEMON_USER, UPLINK_USER, EXCHANGE_GROUP = "edge-agent", "edge-uplink", "edge-exchange"
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}


def run(command: Sequence[str], seconds: float = COMMAND_SECONDS_MAX) -> str | None:
    """Run a command of the system; return what it prints, or None: it is not there, failed, or took too long."""
    try:
        done = subprocess.run(  # noqa: S603 fixed words
            list(command), capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def person(name: str) -> Person | None:
    """Look a user up; None = there is none of that name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return Person(name, entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))


def me() -> Person:
    """Return who runs this."""
    return Person(_user(os.geteuid()), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


@dataclass(frozen=True)
class Place:
    """One installation."""

    config: Config
    problem: str = ""
    """Why the configuration is refused; then `config` holds the defaults."""
    remedy: str = ""
    sources: tuple[Path, ...] = ()
    """Files of the configuration, there or not."""
    overruled: tuple[str, ...] = ()
    """Keys of them that agent.yaml says otherwise."""
    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run
    person: Callable[[str], Person | None] = person

    def at(self, path: str) -> Path:
        """Return a path of the system below `root`."""
        return self.root / path.lstrip("/")


def content(path: Path, bytes_max: int = TEXT_BYTES_MAX) -> bytes:
    """Read a plain file up to so many bytes; nobody waits for a pipe that lies in its place. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "no plain file", str(path))
    with os.fdopen(fd, "rb") as file:
        return file.read(bytes_max)


def text(path: Path) -> str:
    """Read a small file of the kernel or of ours; empty when it is not there."""
    try:
        return content(path).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def look(path: Path) -> File:
    """Return what stat(2) says, links followed; raises PermissionError where this user may not know."""
    try:
        said = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return File(str(path), "")
    return File(
        path=str(path),
        kind=_KINDS.get(stat.S_IFMT(said.st_mode), "other"),
        uid=said.st_uid,
        gid=said.st_gid,
        mode=stat.S_IMODE(said.st_mode),
        owner=_user(said.st_uid),
        group=_group(said.st_gid),
        changed=said.st_mtime,
        size=said.st_size,
    )


def above(path: Path) -> tuple[File, ...]:
    """Return the folders above a path that are there, the nearest first."""
    return tuple(file for file in map(look, path.absolute().parents) if file.kind)


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
