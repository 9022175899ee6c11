"""One installation: its configuration, files and users, as the user who runs doctor may see them."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_agent.config import Config

COMMAND_SECONDS_MAX = 5.0
TEXT_BYTES_MAX = 1024 * 1024
DAEMON_USER, UPLINK_USER, EXCHANGE_GROUP = "edge-agent", "edge-uplink", "edge-exchange"
MEDIA_FOLDER = "/media/usb"
"""Stands for the folder of a USB drive in commands, when none is mounted."""
_MEDIA_ROOTS = ("/media/", "/run/media/", "/mnt/")
READ, WRITE, ENTER = 4, 2, 1
"""Bits of access, as in a file's mode."""
_KINDS = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFSOCK: "socket"}


@dataclass(frozen=True)
class SystemUser:
    """A user of the system, with all groups."""

    name: str
    uid: int
    gids: frozenset[int]


@dataclass(frozen=True)
class FileInfo:
    """What stat(2) reports of a path."""

    path: str
    kind: str
    """file, folder, socket, other; empty when the path does not exist."""
    uid: int = 0
    gid: int = 0
    mode: int = 0
    owner: str = ""
    group: str = ""
    changed: float = 0.0
    """Seconds since 1970."""
    size: int = 0
    """Bytes."""

    @property
    def owner_and_mode(self) -> str:
        """Owner and mode as `ls` and `install` write them."""
        return f"{self.owner}:{self.group} {self.mode:04o}"


def has_access(user: SystemUser, file: FileInfo, bits: int) -> bool:
    """Return whether a user may read, write or enter one path by its mode; folders above it are not checked."""
    if user.uid == 0:
        return True
    if user.uid == file.uid:
        granted = file.mode >> 6
    elif file.gid in user.gids:
        granted = file.mode >> 3
    else:
        granted = file.mode
    return granted & bits == bits


def can_reach(user: SystemUser, parents: Iterable[FileInfo], file: FileInfo, bits: int) -> bool:
    """Return whether a user may enter every parent folder, and has access to the path itself."""
    return all(has_access(user, folder, ENTER) for folder in parents) and has_access(user, file, bits)


def run_command(command: Sequence[str], seconds: float = COMMAND_SECONDS_MAX) -> str | None:
    """Run a command of the system. Return its output; None when it does not exist, fails, or takes too long."""
    try:
        result = subprocess.run(  # noqa: S603 fixed words
            list(command), capture_output=True, timeout=seconds, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode(errors="replace") if result.returncode == 0 else None


def has_program(name: str) -> bool:
    """Return whether a program of the system is installed."""
    folders = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return shutil.which(name, path=folders) is not None


def find_user(name: str) -> SystemUser | None:
    """Look up a user; None when there is no user of that name."""
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return None
    return SystemUser(name, entry.pw_uid, frozenset(os.getgrouplist(name, entry.pw_gid)))


def current_user() -> SystemUser:
    """Return the user who runs this process."""
    return SystemUser(user_name(os.geteuid()), os.geteuid(), frozenset({os.getegid(), *os.getgroups()}))


@dataclass(frozen=True)
class Installation:
    """Where doctor looks. Tests pass another root, other users and other commands."""

    config: Config
    problem: str = ""
    """Why the configuration was refused; `config` then holds the defaults."""
    remedy: str = ""
    sources: tuple[Path, ...] = ()
    """Files of the configuration, whether they exist or not."""
    overruled: tuple[str, ...] = ()
    """Keys of those files that agent.yaml sets to another value."""
    root: Path = Path("/")
    run: Callable[[Sequence[str]], str | None] = run_command
    find_user: Callable[[str], SystemUser | None] = find_user
    has_program: Callable[[str], bool] = has_program
    by_sudo: bool = False
    """The user works through sudo."""

    def at(self, path: str) -> Path:
        """Return a path of the system below `root`."""
        return self.root / path.lstrip("/")

    @property
    def media_folder(self) -> str:
        """The folder where a USB drive is mounted; MEDIA_FOLDER when none is, or more than one."""
        try:
            mounts = [line.split() for line in read_text(self.at("proc/self/mounts")).splitlines()]
        except OSError:
            return MEDIA_FOLDER
        devices = [fields for fields in mounts if len(fields) > 1 and fields[0].startswith("/dev/")]
        folders = {fields[1] for fields in devices if fields[1].startswith(_MEDIA_ROOTS)}
        is_plain = len(folders) == 1 and not any(set(folder) & set("\\ '\"$;&|") for folder in folders)
        return folders.pop() if is_plain else MEDIA_FOLDER

    @property
    def has_systemd(self) -> bool:
        """systemd runs this machine."""
        return self.at("run/systemd/system").is_dir()


def read_bytes(path: Path, bytes_max: int = TEXT_BYTES_MAX) -> bytes:
    """Read a regular file up to a number of bytes. A pipe at that path raises, and does not block. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    with os.fdopen(fd, "rb") as file:
        return file.read(bytes_max)


def read_text(path: Path) -> str:
    """Read a small file; return an empty text when it does not exist. Raises OSError."""
    try:
        return read_bytes(path).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return ""


def stat_file(path: Path) -> FileInfo:
    """Return what stat(2) reports, links followed. Raises PermissionError when this user may not look."""
    try:
        info = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return FileInfo(str(path), "")
    return FileInfo(
        path=str(path),
        kind=_KINDS.get(stat.S_IFMT(info.st_mode), "other"),
        uid=info.st_uid,
        gid=info.st_gid,
        mode=stat.S_IMODE(info.st_mode),
        owner=user_name(info.st_uid),
        group=_group_name(info.st_gid),
        changed=info.st_mtime,
        size=info.st_size,
    )


def stat_parents(path: Path) -> tuple[FileInfo, ...]:
    """Return the existing folders above a path, the nearest first."""
    return tuple(file for file in map(stat_file, path.absolute().parents) if file.kind)


def user_name(uid: int) -> str:
    """Return the name of a user; its number when there is no such user."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
