"""A folder as an object store: a mounted share, or a USB drive that stays in. Writes are synced, unlike obstore's."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import pwd
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_agent.durable.atomic_files import sync_directory, write_durably
from edge_agent.errors import (
    DiskFull,
    SiteError,
    StateDirUnwritable,
    UpstreamFailed,
    UpstreamMissing,
    UpstreamRefused,
    UpstreamUnreachable,
)
from edge_agent.uplink.object_store import ByteRange, FetchedObject, ObjectMetadata

FILE_MODE, FOLDER_MODE = 0o640, 0o750
_MISSING_REMEDY = (
    "Mount its disk or share there ('lsblk -f' and 'findmnt' show what is mounted), or correct 'url' or 'updates_url'"
    " under 'uplink'; then 'sudo systemctl restart edge-uplink'."
)
_DISK_REMEDY = (
    "Check the disk or the share that is mounted there ('findmnt', 'sudo dmesg | tail'). The uplink retries"
    " automatically."
)


class FolderStore:
    """An existing folder. It is never created: a disk that is not mounted looks like a missing folder."""

    def __init__(self, root: Path) -> None:
        """Store objects below `root`."""
        self.name = str(root)
        self._root = root

    async def head(self, key: str) -> ObjectMetadata | None:
        """Read the file to its end and return its size and hash."""
        return await asyncio.to_thread(self._head, key)

    async def put(self, key: str, content: bytes) -> str:
        """Write a temporary file, sync it, rename it, and sync the folder."""
        await asyncio.to_thread(self._put, key, content)
        return ""

    async def get(self, key: str, bytes_max: int, unless: str = "") -> FetchedObject | None:
        """Read the file."""
        return await asyncio.to_thread(self._get, key, bytes_max, unless)

    async def get_range(self, key: str, part: ByteRange, write: Callable[[bytes], None]) -> int | None:
        """Read a range of the file."""
        size, content = await asyncio.to_thread(self._get_range, key, part)
        write(content)
        return size

    def _head(self, key: str) -> ObjectMetadata | None:
        with self._errors(key):
            try:
                with self._open(key) as fd, open(fd, "rb", closefd=False) as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                    return ObjectMetadata(os.fstat(fd).st_size, sha256=sha256)
            except FileNotFoundError:
                return None

    def _put(self, key: str, content: bytes) -> None:
        path = self._root / key
        with self._errors(key):
            for folder in reversed(path.relative_to(self._root).parents[:-1]):
                if not (self._root / folder).is_dir():
                    (self._root / folder).mkdir(mode=FOLDER_MODE, exist_ok=True)
                    sync_directory((self._root / folder).parent)
            write_durably(path, content, FILE_MODE)

    def _get(self, key: str, bytes_max: int, unless: str) -> FetchedObject | None:
        with self._errors(key):
            try:
                with self._open(key) as fd, open(fd, "rb", closefd=False) as file:
                    content = file.read(bytes_max + 1)
            except FileNotFoundError:
                return None
        tag = hashlib.sha256(content).hexdigest()
        return FetchedObject(b"", tag, same=True) if tag == unless else FetchedObject(content, tag)

    def _get_range(self, key: str, part: ByteRange) -> tuple[int | None, bytes]:
        with self._errors(key):
            try:
                with self._open(key) as fd:
                    size = os.fstat(fd).st_size
                    return size, os.pread(fd, part.count, part.start) if size == part.size else b""
            except FileNotFoundError:
                return None, b""

    @contextmanager
    def _open(self, key: str) -> Iterator[int]:
        fd = os.open(self._root / key, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        self._require_folder()
        try:
            yield
        except DiskFull as error:
            raise DiskFull(error.message, remedy="Free some space there; the uplink retries automatically.") from None
        except StateDirUnwritable as error:
            raise self._refused(error.message) from None
        except PermissionError as error:
            raise self._refused(f"cannot use {self._root / key}: {error.strerror}") from None
        except SiteError as error:
            raise UpstreamFailed(error.message, remedy=_DISK_REMEDY) from None
        except OSError as error:
            said = f"cannot use {self._root / key}: {error.strerror}"
            if error.errno == errno.EROFS:
                raise self._refused(said) from None
            raise UpstreamFailed(said, remedy=_DISK_REMEDY) from None

    def _require_folder(self) -> None:
        """Check the folder itself. A fault of it is one of the whole store: metadata has its path as `folder`."""
        try:
            is_folder = stat.S_ISDIR(os.stat(self._root).st_mode)  # noqa: PTH116 - Path.is_dir hides the reason
            allowed = is_folder and os.access(self._root, os.R_OK | os.X_OK, effective_ids=True)
        except (FileNotFoundError, NotADirectoryError):
            is_folder = allowed = False
        except PermissionError:
            is_folder, allowed = True, False
        except OSError as error:  # a share whose server is gone, a disk that fails
            said = f"the folder {self._root} does not answer: {error.strerror}"
            raise UpstreamUnreachable(said, remedy=_DISK_REMEDY, folder=str(self._root)) from None
        if not is_folder:
            said = f"the folder {self._root} does not exist"
            raise UpstreamMissing(said, remedy=_MISSING_REMEDY, folder=str(self._root))
        if not allowed:
            raise self._refused(f"{_user()} may not read the folder {self._root}", folder=str(self._root))

    def _refused(self, said: str, **metadata: str) -> UpstreamRefused:
        remedy = (
            f"'sudo edge-agent doctor' shows whether {_user()} lacks the rights or the unit has no drop-in for"
            f" {self._root}, and the command for it. The uplink retries automatically."
        )
        return UpstreamRefused(said, remedy=remedy, **metadata)


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
