"""Files that are written whole or not at all, survive a power cut, or are for their owner alone.

A file is written next to its place, synced and renamed; then its directory is synced. A crash at any point leaves the
old file or the new one, and at most one other whose name ends in PARTIAL, which can be deleted.

`write_atomically`, `create` and `replacing` raise OSError. `write_durably` raises the errors of a site's own disk.

`private_folder` closes a folder and sets the umask of the process for its block. So the files and folders that
libraries and child processes make in the block are closed, too: 0600 and 0700.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, TypeVar

from edge_agent.errors import DiskFull, InvalidRequest, StateDirUnwritable, StoreDamaged

_Result = TypeVar("_Result")
PARTIAL = ".partial"
"""Suffix of a file that is being written."""
_DEVICES = Path("/dev")
SMALL_BYTES_MAX = 1 << 20
DISK_FULL_BYTES = 1 << 20
"""A disk with less free space than this is full."""
CHECK_DISK = "Check the disk; the kernel's log ('dmesg') may say more."
# EFBIG: the file is too large for the file system, or for a limit of the process.
_DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_ACCESS_ERRNOS = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an OSError of the site's own disk into DiskFull, StateDirUnwritable or StoreDamaged."""
    try:
        yield
    except OSError as error:
        message = f"cannot use {path}: {error.strerror}"
        if is_disk_full(error):
            raise DiskFull(message, path=path) from None
        if error.errno in _ACCESS_ERRNOS:
            raise StateDirUnwritable(message, path=path) from None
        raise StoreDamaged(message, remedy=CHECK_DISK, path=path) from None


def is_disk_full(error: OSError) -> bool:
    """Tell whether a write failed because there is no space for it."""
    return error.errno in _DISK_FULL_ERRNOS


def write_durably(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Write a file atomically on the site's own disk.

    Raises:
        DiskFull, StateDirUnwritable, StoreDamaged: this disk failed; `path` is unchanged.
    """
    with disk_errors(path):
        write_atomically(path, content, mode)


def write_atomically(path: Path, content: bytes, mode: int | None = None) -> None:
    """Replace or create a file; without `mode` it gets 0o644, less the umask. Raises OSError."""
    with _renamed_to(path) as partial:
        write_synced(partial, content, mode)


def create(path: Path, content: bytes, mode: int) -> None:
    """Write a new file. Raises OSError, also if `path` exists; nothing is left of a failed write."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode))
    try:
        write_synced(path, content, mode)
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which takes the place of `path` at the end of the block. Raises OSError.

    An exception in the block leaves `path` as it was, and deletes the other file.
    """
    with _renamed_to(path) as partial:
        yield partial
        sync_file(partial)


@contextmanager
def _renamed_to(path: Path) -> Iterator[Path]:
    try:
        mode = path.stat().st_mode
    except OSError:
        mode = 0
    # Root would replace a device such as /dev/null or /dev/stdout for all programs.
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) or path.absolute().parent == _DEVICES:
        raise OSError(errno.EINVAL, "is a device, which a file would replace", str(path))
    partial = partial_path(path)
    try:
        yield partial
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        # A failed write to an open file has no file name.
        if isinstance(error, OSError) and error.filename in (None, str(partial)):
            error.filename = str(path)
        raise
    sync_directory(path.parent)


def partial_path(path: Path) -> Path:
    """Return where a file is written before it is renamed to `path`."""
    return path.parent / f".{path.name}{PARTIAL}"


def write_synced(path: Path, content: bytes, mode: int | None, group: str = "") -> None:
    """Write and sync a file in place; its name is durable only after `sync_directory`. Raises OSError.

    The file has `mode`, whatever it had before; without `mode` it is created with 0o644, less the umask. It belongs to
    `group` if that exists and this process may set it.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    # A file for a group is closed to others until it belongs to that group.
    fd = os.open(path, flags, 0o600 if group else 0o644 if mode is None else mode)
    with open(fd, "wb", buffering=0) as file:  # noqa: PTH123 - from a descriptor
        rest = memoryview(content)
        while rest:
            rest = rest[file.write(rest) :]
        if group:
            with contextlib.suppress(LookupError, PermissionError):
                shutil.chown(path, group=group)
        if mode is not None:
            os.fchmod(fd, mode)
        os.fsync(fd)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    _sync(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_regular(path: Path, bytes_max: int) -> bytes:
    """Return at most the first `bytes_max` + 1 bytes of a file, without following a link or waiting for a pipe.

    Raises OSError; EINVAL = it is not a regular file.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        with open(fd, "rb", closefd=False) as file:
            return file.read(bytes_max + 1)
    finally:
        os.close(fd)


def read_small(path: Path, bytes_max: int = SMALL_BYTES_MAX) -> bytes:
    """Return a small file that somebody named, such as a key or a certificate; a pipe is read to its end.

    Raises OSError; InvalidRequest: it has more bytes, as a wrong file or a device has.
    """
    with path.open("rb") as file:
        content = file.read(bytes_max + 1)
    if len(content) > bytes_max:
        raise InvalidRequest(f"{path} has more than {bytes_max} bytes", remedy="Name another file.")
    return content


def stat_or_none(path: Path) -> os.stat_result | None:
    """Return what stat(2) reports, links followed; None = nothing is at that path. Raises OSError.

    From Python 3.14 on, `Path.exists`, `is_file` and `is_dir` are also False if this user has no access or the disk
    fails. So code that acts only if a file does not exist uses this function.
    """
    try:
        return path.stat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise


def is_file(path: Path) -> bool:
    """Return whether a regular file is at a path, links followed. Raises OSError, as `stat_or_none`."""
    status = stat_or_none(path)
    return status is not None and stat.S_ISREG(status.st_mode)


def is_dir(path: Path) -> bool:
    """Return whether a directory is at a path, links followed. Raises OSError, as `stat_or_none`."""
    status = stat_or_none(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def require_free_space(path: Path) -> None:
    """Raise OSError if the disk of a file is full: for libraries that fail to write it and do not report why."""
    if shutil.disk_usage(path.parent).free < DISK_FULL_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


class Ballast:
    """A file that reserves disk space: a database needs some for its log, even to be opened or to delete rows."""

    BYTES = 1 << 20
    STEP = BYTES // 8

    def __init__(self, path: Path) -> None:
        """Name the file; `lay` makes it."""
        self._path = path

    def lay(self) -> None:
        """Reserve the space, or as much of it as the disk has; without it a full disk is harder to recover from."""
        with contextlib.suppress(OSError):
            fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                if self._reserve(fd):
                    return
            finally:
                os.close(fd)
        self.drop()

    def _reserve(self, fd: int) -> bool:
        for size in range(self.BYTES, 0, -self.STEP):
            with contextlib.suppress(OSError):
                os.posix_fallocate(fd, 0, size)
                os.ftruncate(fd, size)  # a larger attempt that failed may have taken all free space
                return True
        return False

    def run(self, work: Callable[[], _Result]) -> _Result:
        """Run `work`, which writes a little. If the disk is full, release the space and run it again. Raises DiskFull.

        `lay` reserves the space again.
        """
        try:
            return work()
        except DiskFull:
            self.drop()
            return work()

    def drop(self) -> None:
        """Release the space."""
        self._path.unlink(missing_ok=True)


FILE_MODE, FOLDER_MODE = 0o600, 0o700
_OTHERS_BITS = 0o077


def make_folders(folder: Path, mode: int) -> None:
    """Make a folder with `mode`, and those above it that are missing with 0o755, whatever the umask.

    For folders of root that a daemon enters: hardened machines give root a umask that would close them. The umask
    belongs to the process: use it in programs that do one thing at a time. Raises OSError.
    """
    old_umask = os.umask(0o022)
    try:
        folder.mkdir(mode=mode, parents=True, exist_ok=True)
    finally:
        os.umask(old_umask)


@contextmanager
def private_folder(folder: Path, *, marks: tuple[str, ...] = ()) -> Iterator[None]:
    """Make a folder for the owner alone; in the block every new file has 0600 and every new folder 0700.

    A folder that exists is closed if it is empty or has one of the files in `marks`, by which this program recognizes
    its own folders; if others could open it before, everything in it is closed. Other folders of the user keep their
    mode. The umask belongs to the process: use it in programs that do one thing at a time. Raises OSError.
    """
    make_private(folder, marks=marks)
    old_umask = os.umask(_OTHERS_BITS)
    try:
        yield
    finally:
        os.umask(old_umask)


def make_private(folder: Path, *, marks: tuple[str, ...] = ()) -> None:
    """Make a folder, or close one that exists, as `private_folder` does. Raises OSError."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=FOLDER_MODE)
        _close(folder, FOLDER_MODE)  # a default ACL, or the umask, can change the mode of mkdir
        return
    is_ours = any((folder / mark).exists() for mark in marks) or not any(folder.iterdir())
    if is_ours and stat.S_IMODE(folder.stat().st_mode) & _OTHERS_BITS:
        close_tree(folder)


def open_private(path: Path, mode: Literal["w", "a"]) -> IO[str]:
    """Open a text file for its owner alone, to write or to append; an existing one is closed. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_TRUNC if mode == "w" else os.O_APPEND)
    fd = os.open(path, flags, FILE_MODE)
    if stat.S_ISREG(os.fstat(fd).st_mode):  # /dev/null is everybody's
        os.fchmod(fd, FILE_MODE)
    return os.fdopen(fd, mode, encoding="utf-8")


def close_tree(folder: Path) -> None:
    """Close a folder and everything in it to others. Raises OSError.

    Links are not followed. A file with a second hard link keeps its mode, because it may also belong to another folder.
    """
    _close(folder, FOLDER_MODE)
    for path, folders, files in os.walk(folder):
        for name in folders:
            _close(Path(path, name), FOLDER_MODE)
        for name in files:
            _close(Path(path, name), FILE_MODE)


def _close(path: Path, mode: int) -> None:
    with contextlib.suppress(PermissionError, FileNotFoundError):  # another user's file, or gone meanwhile
        status = path.lstat()
        has_other_links = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
        if not (has_other_links or stat.S_ISLNK(status.st_mode)) and stat.S_IMODE(status.st_mode) != mode:
            path.chmod(mode)
