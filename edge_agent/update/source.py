"""A repository in a folder that anybody may have filled: what the mirror brought, or a stick.

Files are read by name, within a limit, and never through a link, a FIFO or a device.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from edge_agent.errors import PathUnsafe
from edge_agent.store.bundle_archive import READ, BundleMember, open_inside

METADATA, BLOBS = "metadata", "blobs"
TIMESTAMP = "timestamp.json"


class TooLong(Exception):
    """A file is longer than it may be."""


class SourceFolder:
    """The folder."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self.path = path

    def read(self, folder: str, name: str, bytes_max: int) -> bytes | None:
        """Return a file's bytes; None = there is none that can be read. Raises TooLong."""
        try:
            with self._opened(folder, name) as fd, open(fd, "rb", closefd=False) as file:
                raw = file.read(bytes_max + 1)
        except (OSError, PathUnsafe):
            return None
        if len(raw) > bytes_max:
            raise TooLong
        return raw

    def size(self, folder: str, name: str) -> int:
        """Return the bytes of a file; -1 = there is none that can be read."""
        try:
            with self._opened(folder, name) as fd:
                return os.fstat(fd).st_size
        except (OSError, PathUnsafe):
            return -1

    @contextmanager
    def blobs(self, sizes: dict[str, int]) -> Iterator[dict[str, BundleMember]]:
        """Yield those of these blobs, sizes by sha256, that are there with the right size; readable in the block."""
        try:
            root_fd = os.open(self.path, READ | os.O_DIRECTORY)
        except OSError:
            yield {}
            return
        try:
            yield {
                sha256: BundleMember(f"{BLOBS}/{sha256}", size, partial(open_inside, root_fd, f"{BLOBS}/{sha256}"))
                for sha256, size in sizes.items()
                if self.size(BLOBS, sha256) == size
            }
        finally:
            os.close(root_fd)

    @contextmanager
    def _opened(self, folder: str, name: str) -> Iterator[int]:
        root_fd = os.open(self.path, READ | os.O_DIRECTORY)
        try:
            fd = open_inside(root_fd, f"{folder}/{name}")
        finally:
            os.close(root_fd)
        try:
            yield fd
        finally:
            os.close(fd)
