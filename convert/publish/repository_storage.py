"""Storage of a repository: a folder (a share, a USB drive) or an object store. Callers verify what they read."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, Protocol

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

from convert.collect.sources import open_store
from edge_agent.durable import atomic_files
from edge_agent.errors import UpstreamFailed, UpstreamRefused

CHUNK_BYTES = 1024 * 1024
Advance = Callable[[str, int, int], None]
"""Called with the file, the bytes done, and the total."""


class RepositoryStorage(Protocol):
    """The storage of a repository. Every method can raise OSError with the file's name, UpstreamFailed or
    UpstreamRefused."""

    name: str
    """Its name for messages, as the user wrote it."""

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object, or the first `bytes_max` + 1 bytes of a larger one; None = it does not exist."""

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of an existing object."""

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes; None = it does not exist."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Write an object, whole or not at all; large content in pieces."""

    def is_at(self, folder: Path) -> bool:
        """Return whether it is that folder."""

    def exclusive(self) -> AbstractContextManager[bool]:
        """Keep other publishers out during the block, as far as possible; yield False if another one is active."""


def open_storage(location: str, options: Mapping[str, str]) -> RepositoryStorage:
    """Return the storage for a path or URL; `options` are for the object store (endpoint, region, keys…).

    Raises:
        InvalidRequest: an unknown URL or option.
    """
    scheme, colon, rest = location.partition("://")
    if not colon or scheme == "file":
        return FolderStorage(Path(rest if colon else location))
    return BucketStorage(location, open_store(location, options))


class FolderStorage:
    """A folder with synced writes. Links are not followed."""

    def __init__(self, root: Path) -> None:
        """Use a folder, which need not exist yet."""
        self.name = str(root)
        self._root = root

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Read a regular file."""
        with self._open_file(path) as file:
            return file.read(bytes_max + 1) if file else None

    def chunks(self, path: str) -> Iterator[bytes]:
        """Read a regular file in pieces."""
        with self._open_file(path) as file:
            yield from file_chunks(file) if file else ()

    def size(self, path: str) -> int | None:
        """Return the size of the file itself, without following links."""
        try:
            return (self._root / path).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Write to a temporary file, sync, rename, sync."""
        target = self._root / path
        folder = target.parent
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for parent in (folder.parent, folder.parent.parent):
                atomic_files.sync_directory(parent)
        with atomic_files.replacing(target) as partial, partial.open("wb") as file:
            for chunk in [content] if isinstance(content, bytes) else content:
                file.write(chunk)

    def is_at(self, folder: Path) -> bool:
        """Compare after following links."""
        return self._root.resolve() == folder.resolve()

    @contextmanager
    def exclusive(self) -> Iterator[bool]:
        """Lock the folder; some shares have no locks."""
        fd = os.open(self._root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                alone = True
            except OSError as error:
                alone = not isinstance(error, BlockingIOError)
            yield alone
        finally:
            os.close(fd)

    @contextmanager
    def _open_file(self, path: str) -> Iterator[IO[bytes] | None]:
        try:
            fd = os.open(self._root / path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            yield None
            return
        with os.fdopen(fd, "rb") as file:
            yield file


class BucketStorage:
    """An object store below a prefix."""

    def __init__(self, name: str, store: Any) -> None:
        """Use an obstore store."""
        self.name = name
        self._store = store

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Get an object, after checking its size."""
        with self._translated_errors(path):
            try:
                result = obstore.get(self._store, path)
            except (NotFoundError, FileNotFoundError):
                return None
            if result.meta["size"] <= bytes_max:
                return bytes(result.bytes())
            return bytes(obstore.get_range(self._store, path, start=0, length=bytes_max + 1))

    def chunks(self, path: str) -> Iterator[bytes]:
        """Get an object in pieces."""
        with self._translated_errors(path):
            yield from map(bytes, obstore.get(self._store, path).stream(min_chunk_size=CHUNK_BYTES))

    def size(self, path: str) -> int | None:
        """Request the metadata of an object."""
        with self._translated_errors(path):
            try:
                return int(obstore.head(self._store, path)["size"])
            except (NotFoundError, FileNotFoundError):
                return None

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Put an object; large content as a multipart upload."""
        with self._translated_errors(path):
            obstore.put(
                self._store,
                path,
                content if isinstance(content, bytes) else iter(content),
                use_multipart=not isinstance(content, bytes),
            )

    def is_at(self, folder: Path) -> bool:
        """Return False: an object store is not a folder."""
        return False

    def exclusive(self) -> AbstractContextManager[bool]:
        """Return True without a lock, which an object store does not have."""
        return nullcontext(True)

    @contextmanager
    def _translated_errors(self, path: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            # obstore's message continues with a dump of its internals.
            message = f"{self.name}/{path}: {str(error).partition('Debug source')[0].strip()[:500]}"
            if isinstance(error, PermissionDeniedError | UnauthenticatedError):
                remedy = "Check the store's credentials: the environment, or --store-option."
                raise UpstreamRefused(message, remedy=remedy) from None
            remedy = "Check the address and the network, and run the command again: it continues where it stopped."
            raise UpstreamFailed(message, remedy=remedy) from None


def no_progress(what: str, done: int, total: int) -> None:
    """Show no progress."""


def with_progress(chunks: Iterable[bytes], total: int, progress: Callable[[int, int], None]) -> Iterator[bytes]:
    """Yield pieces, and report the progress after each."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        progress(done, total)


def file_chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the rest of a file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
