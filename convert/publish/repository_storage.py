"""Where a repository lies: a folder (a share, a stick) or an object store. What is read there is checked by others."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

import obstore
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError

from convert.collect.sources import open_store
from edge_agent.durable import atomic_files
from edge_agent.errors import EdgeAgentError, UpstreamFailed, UpstreamRefused

CHUNK_BYTES = 1024 * 1024
Advance = Callable[[str, int, int], None]
"""Hears what is read or written, how many bytes are done, and of how many."""


class RepositoryStorage(Protocol):
    """A place for a repository. Everything may raise OSError that names the file, UpstreamFailed or UpstreamRefused."""

    name: str
    """What the user called it, for messages."""

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Return an object, of a larger one the first `bytes_max` + 1 bytes; None = there is none."""

    def chunks(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of an object that is there."""

    def size(self, path: str) -> int | None:
        """Return the size of an object in bytes; None = there is none."""

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Put an object, whole or not at all; something long in pieces."""

    def is_at(self, folder: Path) -> bool:
        """Tell whether it is that folder."""


def open_place(written: str, options: Mapping[str, str]) -> RepositoryStorage:
    """Return the place that a path or URL means; `options` go to the object store (endpoint, region, keys…).

    Raises:
        InvalidRequest: a URL or option that no store knows.
    """
    scheme, colon, rest = written.partition("://")
    if not colon or scheme == "file":
        return FolderStorage(Path(rest if colon else written))
    return BucketStorage(written, open_store(written, options))


class FolderStorage:
    """A folder; what is written is synced. Links are not followed."""

    def __init__(self, root: Path) -> None:
        """Use a folder; it need not exist yet."""
        self.name = str(root)
        self._root = root

    def read(self, path: str, bytes_max: int) -> bytes | None:
        """Read a plain file."""
        with self._opened(path) as file:
            return file.read(bytes_max + 1) if file else None

    def chunks(self, path: str) -> Iterator[bytes]:
        """Read a plain file piece by piece."""
        with self._opened(path) as file:
            yield from chunked(file) if file else ()

    def size(self, path: str) -> int | None:
        """Look."""
        try:
            return (self._root / path).lstat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Write beside, sync, rename, sync."""
        target = self._root / path
        self._make(target.parent)
        with atomic_files.replacing(target) as partial, partial.open("wb") as file:
            for chunk in [content] if isinstance(content, bytes) else content:
                file.write(chunk)

    def is_at(self, folder: Path) -> bool:
        """Compare after following links."""
        return self._root.resolve() == folder.resolve()

    def _make(self, folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            for each in (folder.parent, folder.parent.parent):
                atomic_files.sync_directory(each)

    @contextmanager
    def _opened(self, path: str) -> Iterator[IO[bytes] | None]:
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
        """Get, after a look at the size."""
        with self._failures(path):
            try:
                found = obstore.get(self._store, path)
            except (NotFoundError, FileNotFoundError):
                return None
            if found.meta["size"] <= bytes_max:
                return bytes(found.bytes())
            return bytes(obstore.get_range(self._store, path, start=0, length=bytes_max + 1))

    def chunks(self, path: str) -> Iterator[bytes]:
        """Get piece by piece."""
        with self._failures(path):
            yield from map(bytes, obstore.get(self._store, path).stream(min_chunk_size=CHUNK_BYTES))

    def size(self, path: str) -> int | None:
        """Ask."""
        with self._failures(path):
            try:
                return int(obstore.head(self._store, path)["size"])
            except (NotFoundError, FileNotFoundError):
                return None

    def write(self, path: str, content: bytes | Iterable[bytes]) -> None:
        """Put; something long in several parts, which the store joins at the end."""
        with self._failures(path):
            obstore.put(
                self._store,
                path,
                content if isinstance(content, bytes) else iter(content),
                use_multipart=not isinstance(content, bytes),
            )

    def is_at(self, folder: Path) -> bool:
        """Never."""
        return False

    @contextmanager
    def _failures(self, path: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            raise self._said(path, error) from None

    def _said(self, path: str, error: Exception) -> EdgeAgentError:
        # obstore's message goes on with a dump of its innards.
        said = f"{self.name}/{path}: {str(error).partition('Debug source')[0].strip()[:500]}"
        if isinstance(error, PermissionDeniedError | UnauthenticatedError):
            return UpstreamRefused(said, remedy="Check the store's credentials: the environment, or --store-option.")
        remedy = "Check the address and the network, and run the command again: it goes on where it was."
        return UpstreamFailed(said, remedy=remedy)


def silent(what: str, done: int, total: int) -> None:
    """Show no progress."""


def counted(chunks: Iterable[bytes], total: int, said: Callable[[int, int], None]) -> Iterator[bytes]:
    """Yield pieces, and say after each how many bytes of how many have gone."""
    done = 0
    for chunk in chunks:
        yield chunk
        done += len(chunk)
        said(done, total)


def chunked(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is left of a file."""
    while chunk := file.read(CHUNK_BYTES):
        yield chunk
