"""`incoming/`: what the mirror has brought, laid out like the repository. Written here, read by the daemon as hostile.

Files that belong together come together: they are written first, and `timestamp.json`, which leads to all of them, is
renamed into its place last. The set before stays, for a reader that is in the middle of it.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import cast

from edge_agent.durable.atomic_files import write_durably
from edge_agent.errors import DocumentInvalid
from edge_agent.formats import repository_metadata
from edge_agent.formats.repository_metadata import MetadataFile, MetadataSet
from edge_agent.uplink.blob_download import BlobDownload, partial_name
from edge_agent.uplink.exchange_dirs import FILE_MODE, FOLDER_MODE, exchange_errors, read_bounded

_BLOB = re.compile(r"[0-9a-f]{64}|\.[0-9a-f]{64}\.partial")


class IncomingDir:
    """The folder of one site. It is made when there is something to write."""

    def __init__(self, folder: Path) -> None:
        """Note where."""
        self.folder = folder
        self.blobs = folder / "blobs"
        self._metadata = folder / "metadata"

    def prepare(self) -> None:
        """Make the folders.

        Raises:
            DiskFull, ExchangeDirUnusable: they cannot be made.
        """
        for each in (self._metadata, self.blobs):
            with exchange_errors(each):
                each.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)

    def release(self) -> MetadataSet | None:
        """Return the metadata that lies here; None = it is not all there, or does not fit together.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        timestamp = self.read(MetadataFile(repository_metadata.TIMESTAMP, repository_metadata.TIMESTAMP_BYTES_MAX))
        if timestamp is None:
            return None
        following = repository_metadata.follow_metadata(timestamp)
        try:
            raw = self.read(next(following))
            while raw is not None:
                raw = self.read(following.send(raw))
        except StopIteration as end:
            return cast("MetadataSet", end.value)
        except DocumentInvalid:
            pass
        return None

    def read(self, named: MetadataFile) -> bytes | None:
        """Return a file if it is the one that is named.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        raw = read_bounded(self.folder / named.key, named.bytes_max)
        return raw if raw is not None and named.is_this(raw) else None

    def newest_root(self) -> int:
        """Return the version up to which no root is missing, from the oldest one here on; 0 = none is here.

        Raises:
            ExchangeDirUnusable: the folder cannot be read.
        """
        found = {repository_metadata.root_version(name) for name in _files(self._metadata)} - {0}
        newest = min(found, default=0)
        while newest + 1 in found:
            newest += 1
        return newest

    def keep_root(self, version: int, raw: bytes) -> None:
        """Write a root.

        Raises:
            DiskFull, ExchangeDirUnusable: it cannot be written.
        """
        with exchange_errors(self._metadata):
            write_durably(self._metadata / repository_metadata.root_name(version), raw, FILE_MODE)

    def adopt(self, release: MetadataSet, before: MetadataSet | None) -> None:
        """Write metadata that belongs together; what is neither in it nor in the set before is removed.

        Raises:
            DiskFull, ExchangeDirUnusable: it cannot be written; the set before is still there.
        """
        if release.plan_sha256:
            self._write(self.blobs / release.plan_sha256, release.plan)
        for name, raw in release.metadata.items():
            self._write(self._metadata / name, raw)
        self._write(self._metadata / repository_metadata.TIMESTAMP, release.timestamp)
        kept = {repository_metadata.TIMESTAMP, *release.metadata, *(before.metadata if before else ())}
        with exchange_errors(self._metadata):
            for name in _files(self._metadata):
                if name not in kept and not repository_metadata.root_version(name):
                    (self._metadata / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Return the blobs that are there whole, with their bytes.

        Raises:
            ExchangeDirUnusable: the folder cannot be read.
        """
        return {name: size for name, size in _files(self.blobs).items() if not name.startswith(".")}

    def begun(self, sha256: str) -> int:
        """Return how many bytes of a blob have come that is not there whole."""
        try:
            return (self.blobs / partial_name(sha256)).stat(follow_symlinks=False).st_size
        except OSError:
            return 0

    def holds(self, sha256: str) -> bool:
        """Read a blob that is there whole, and remove it if it is another one; tell which it was.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        path = self.blobs / sha256
        with exchange_errors(path):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            with open(fd, "rb") as file:  # noqa: PTH123 - from a descriptor
                right = hashlib.file_digest(file, "sha256").hexdigest() == sha256
            if not right:
                path.unlink()
        return right

    def begin(self, sha256: str, size_bytes: int, chunk_bytes: int) -> BlobDownload:
        """Go on with a blob, or begin it.

        Raises:
            DiskFull, ExchangeDirUnusable: the disk failed.
        """
        return BlobDownload(self.blobs, sha256, size_bytes, chunk_bytes)

    def keep_blobs(self, wanted: Collection[str]) -> None:
        """Remove all other blobs, whole or begun. Files that are none stay.

        Raises:
            ExchangeDirUnusable: they cannot be removed.
        """
        kept = {name for sha256 in wanted for name in (sha256, partial_name(sha256))}
        with exchange_errors(self.blobs):
            for name in _files(self.blobs):
                if name not in kept and _BLOB.fullmatch(name):
                    (self.blobs / name).unlink(missing_ok=True)

    def _write(self, path: Path, content: bytes) -> None:
        with exchange_errors(path):
            write_durably(path, content, FILE_MODE)


def _files(folder: Path) -> dict[str, int]:
    """Return names and bytes of the plain files in a folder; one that is not there is empty."""
    found = {}
    with exchange_errors(folder):
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    about = entry.stat(follow_symlinks=False)
                    if stat.S_ISREG(about.st_mode):
                        found[entry.name] = about.st_size
        except FileNotFoundError:
            return {}
    return found
