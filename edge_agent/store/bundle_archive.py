"""The source of a bundle: a directory or one uncompressed tar, both untrusted, neither ever extracted.

`open_bundle` lists the files of either as `BundleMember`s: a name and a region of an open file. Before it yields, it
has refused
- names that leave the bundle, and names that are unsafe for file systems or terminals;
- anything but regular files and directories (links, devices, FIFOs, sparse files) and names that occur twice;
- files over the size limit, more files than the limit, and a tar that ends before its last file does.

Links inside a directory are not followed at any level, and opening a FIFO or device never waits. Python's tarfile only
reads the headers of a tar, through `_HeaderReader`, which bounds what they may cost (CVE-2024-6232, CVE-2025-8194: a
crafted header makes it compute or loop without end); the contents are read by position.
"""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge_agent.errors import BundleTooLarge, BundleUnreadable, FileMissing, ManifestInvalid, PathUnsafe
from edge_agent.formats.manifest import MANIFEST_BYTES_MAX, MANIFEST_NAME, is_safe_path

CHUNK_BYTES = 2**20
HEADER_BYTES_MAX = 8 * 2**10
HEADERS_BYTES_MAX = 512 * 2**10
FOLDERS_MAX = 256
_TAR_REMEDY = "Give the path of a bundle directory or of one uncompressed tar."
_COPY_REMEDY = "Copy the bundle again."
_MAKE_REMEDY = "Make the bundle with 'edge-convert assemble', which names files by their role and holds no links."
_COMPRESSED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}
# O_NONBLOCK: opening a FIFO returns at once, and is then refused for not being a regular file.
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_OPEN_ERRORS = (OSError, tarfile.TarError, ValueError, IndexError, OverflowError, RecursionError)


@dataclass(frozen=True)
class StoreLimits:
    """Limits of one store. A bundle beyond them is refused before anything is written."""

    bundle_bytes_max: int = 16 * 2**30
    """Largest bundle, all files together."""
    file_bytes_max: int = 16 * 2**30
    """Largest single file."""
    files_max: int = 65
    """Files of a bundle with its manifest: one more than a manifest may name."""
    bundles_per_task_max: int = 10
    """Bundles kept for each task. The oldest one that is neither active nor kept for rollback makes room for a new one;
    the active, the previous and the newest bundle stay whatever the limit."""
    disk_reserve_bytes: int = 64 * 2**20
    """Bytes that an install leaves free on the disk, so that state, logs and a rollback still have room."""


@dataclass(frozen=True)
class BundleMember:
    """One file of a bundle: `size_bytes` bytes from `offset` on, in the file that `open_fd` opens."""

    path: str
    size_bytes: int
    open_fd: Callable[[], int]
    offset: int = 0

    def chunks(self) -> Iterator[bytes]:
        """Yield the bytes, at most CHUNK_BYTES at once. Raises BundleUnreadable."""
        try:
            fd = self.open_fd()
            try:
                yield from self._read(fd)
            finally:
                os.close(fd)
        except OSError as error:
            message = f"cannot read {self.path}: {error.strerror}"
            raise BundleUnreadable(message, remedy=_COPY_REMEDY, path=self.path, errno=error.errno) from None

    def _read(self, fd: int) -> Iterator[bytes]:
        position = 0
        while position < self.size_bytes:
            chunk = os.pread(fd, min(CHUNK_BYTES, self.size_bytes - position), self.offset + position)
            if not chunk:
                message = f"{self.path} became shorter while it was read"
                raise BundleUnreadable(message, path=self.path, remedy=_COPY_REMEDY)
            position += len(chunk)
            yield chunk


@contextmanager
def open_bundle(path: Path, limits: StoreLimits) -> Iterator[dict[str, BundleMember]]:
    """Open a bundle; yield its files by path. They can be read until the context ends.

    Raises:
        BundleUnreadable: no such path, not a directory or uncompressed tar, or the tar ends too early.
        PathUnsafe, ManifestInvalid, BundleTooLarge: a file breaks a rule; the message names it.
    """
    with ExitStack() as closing:
        try:
            fd = os.open(path, READ)
            closing.callback(os.close, fd)
            mode = os.fstat(fd).st_mode
            if stat.S_ISDIR(mode):
                _refuse_repository(fd, path)
                listed = _list_directory(fd)
            elif stat.S_ISREG(mode):
                listed = _list_tar(fd, path)
            else:
                raise BundleUnreadable(f"{path} is neither a directory nor a file", remedy=_TAR_REMEDY)
            members = _check_members(listed, limits)
        except OSError as error:
            message = f"cannot read {path}: {error.strerror}"
            raise BundleUnreadable(message, remedy=_TAR_REMEDY, path=path, errno=error.errno) from None
        yield members


def manifest_bytes(members: dict[str, BundleMember]) -> bytes:
    """Return the bytes of manifest.json. Raises FileMissing, ManifestInvalid, BundleUnreadable."""
    member = members.get(MANIFEST_NAME)
    if member is None:
        raise FileMissing(f"the bundle has no {MANIFEST_NAME}", path=MANIFEST_NAME, remedy=_TAR_REMEDY)
    if member.size_bytes > MANIFEST_BYTES_MAX:
        message = f"{MANIFEST_NAME} has {member.size_bytes} bytes; the limit is {MANIFEST_BYTES_MAX}"
        raise ManifestInvalid(message, remedy=_MAKE_REMEDY)
    return b"".join(member.chunks())


def _check_members(listed: Iterator[BundleMember], limits: StoreLimits) -> dict[str, BundleMember]:
    members: dict[str, BundleMember] = {}
    for member in listed:
        if member.path in members:
            raise ManifestInvalid(f"the bundle holds {member.path} twice", path=member.path, remedy=_MAKE_REMEDY)
        if member.size_bytes > limits.file_bytes_max:
            message = f"{member.path} has {member.size_bytes} bytes; the limit for one file is {limits.file_bytes_max}"
            raise BundleTooLarge(message, path=member.path, size=member.size_bytes, limit=limits.file_bytes_max)
        members[member.path] = member
        if len(members) > limits.files_max:
            message = f"the bundle has more than {limits.files_max} files"
            raise BundleTooLarge(message, remedy=_MAKE_REMEDY, limit=limits.files_max)
    return members


def _require_safe(name: str) -> str:
    if not is_safe_path(name):
        # ascii(): the name may hold control characters or bytes that are no text.
        quoted_name = ascii(name[:200])
        message = f"the bundle holds {quoted_name}: not relative, with '..', or not of plain characters"
        raise PathUnsafe(message, remedy=_MAKE_REMEDY, path=quoted_name)
    return name


def _list_directory(root_fd: int) -> Iterator[BundleMember]:
    """Yield the files below a directory."""
    folders = [""]
    for folder in folders:
        folder_fd = open_inside(root_fd, folder, os.O_DIRECTORY)
        try:
            with os.scandir(folder_fd) as entries:
                for entry in entries:
                    path = _require_safe(f"{folder}/{entry.name}" if folder else entry.name)
                    if entry.is_dir(follow_symlinks=False):
                        if len(folders) > FOLDERS_MAX:
                            message = f"the bundle has more than {FOLDERS_MAX} directories"
                            raise BundleTooLarge(message, remedy=_MAKE_REMEDY, limit=FOLDERS_MAX)
                        folders.append(path)
                        continue
                    status = entry.stat(follow_symlinks=False)
                    if not stat.S_ISREG(status.st_mode):
                        raise _not_regular(path)
                    yield BundleMember(path, status.st_size, partial(open_inside, root_fd, path))
        finally:
            os.close(folder_fd)


def open_inside(root_fd: int, path: str, flags: int = 0) -> int:
    """Open a path below a directory without following a link at any level.

    Raises OSError, or PathUnsafe for anything but a regular file.
    """
    fd = os.dup(root_fd)
    for part in path.split("/") if path else ():
        try:
            inner = os.open(part, READ | os.O_NOFOLLOW | flags, dir_fd=fd)
        finally:
            os.close(fd)
        fd = inner
    if not flags and not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise _not_regular(path)
    return fd


def _not_regular(path: str) -> PathUnsafe:
    message = f"{path} is a link, device or FIFO; a bundle holds only regular files"
    return PathUnsafe(message, remedy=_MAKE_REMEDY, path=path)


class _HeaderReader(io.RawIOBase):
    """The file object through which tarfile reads a tar: it bounds each read, and all of them together."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._position = 0
        self._left = HEADERS_BYTES_MAX

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= HEADER_BYTES_MAX or size > self._left:
            raise BundleUnreadable("the tar has a header of an absurd size", remedy=_TAR_REMEDY)
        data = os.pread(self._fd, size, self._position)
        self._position += len(data)
        self._left -= size
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset < 0:
            raise ValueError("tarfile seeks only forward from the start")
        self._position = offset
        return offset

    def tell(self) -> int:
        return self._position


def _list_tar(fd: int, path: Path) -> Iterator[BundleMember]:
    """Yield the files of a tar, in their order."""
    size = os.fstat(fd).st_size
    head = os.pread(fd, 8, 0)
    for magic, name in _COMPRESSED.items():
        if head.startswith(magic):
            message = f"{path} is compressed with {name}; a bundle travels as an uncompressed tar"
            raise BundleUnreadable(message, remedy=f"Unpack the {name} file and install what is inside.")
    # tarfile raises more than it documents when headers are crafted.
    try:
        tar = tarfile.TarFile(fileobj=_HeaderReader(fd), errorlevel=2)
    except _OPEN_ERRORS as error:
        raise BundleUnreadable(f"{path} is not a tar: {error}", remedy=_TAR_REMEDY) from None
    while True:
        try:
            entry = tar.next()
        except _OPEN_ERRORS as error:
            raise BundleUnreadable(f"{path} is a damaged tar: {error}", remedy=_COPY_REMEDY) from None
        if entry is None:
            return
        member = _tar_member(entry, fd)
        if member and member.offset + member.size_bytes > size:
            message = f"{path} ends at byte {size}, but {member.path} would end at {member.offset + member.size_bytes}"
            raise BundleUnreadable(message, remedy=_COPY_REMEDY, path=member.path)
        if member:
            yield member


def _tar_member(entry: tarfile.TarInfo, fd: int) -> BundleMember | None:
    name = entry.name.removeprefix("./")
    if entry.isdir() and name in (".", ""):
        return None
    path = _require_safe(name)
    if entry.isdir():
        return None
    if not entry.isreg() or entry.issparse() or entry.size < 0:
        raise _not_regular(path)
    return BundleMember(path, entry.size, partial(os.dup, fd), entry.offset_data)


def _refuse_repository(root_fd: int, path: Path) -> None:
    """Refuse the folder of a USB drive that a central team has written: it holds updates, not a bundle."""
    names = set(os.listdir(root_fd))
    if MANIFEST_NAME not in names and ("metadata" in names or any(name.startswith("site=") for name in names)):
        message = f"{path} holds signed updates from the central team, not a bundle"
        raise BundleUnreadable(message, remedy=f"Import it: sudo edge-agent media import {path}")
