"""The exchange directories as the uplink sees them: reads the outbox, writes receipts, touches nothing else."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edge_agent.durable.atomic_files import disk_errors, write_durably
from edge_agent.errors import DocumentInvalid, ExchangeDirUnusable, SegmentDamaged, StateDirUnwritable, StoreDamaged
from edge_agent.formats import segment, signed_document, status_object
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX

FILE_MODE, FOLDER_MODE = 0o640, 0o750


@dataclass(frozen=True)
class SealedSegment:
    """A segment as it lies in the outbox, both files whole and fitting each other."""

    stem: str
    sealed: bytes
    manifest: bytes


@dataclass(frozen=True)
class ExchangeDirs:
    """Where the files of one site lie."""

    site: str
    outbox: Path
    receipts: Path

    def files(self) -> dict[str, int]:
        """Return names and bytes of all plain files in the outbox's folder of segments.

        Raises:
            ExchangeDirUnusable: it cannot be read. One that is not there yet is empty.
        """
        folder = self.outbox / "segments"
        with exchange_errors(folder):
            try:
                with os.scandir(folder) as entries:
                    return dict(_sized(entries))
            except FileNotFoundError:
                return {}

    def segment(self, stem: str) -> SealedSegment | None:
        """Read a segment; None = it is gone, as after a receipt.

        Raises:
            SegmentDamaged, DocumentInvalid, SignatureInvalid: the two files do not fit each other or this site.
            ExchangeDirUnusable: they cannot be read.
        """
        folder = self.outbox / "segments"
        manifest = read_bounded(folder / f"{stem}{segment.MANIFEST_SUFFIX}", DOCUMENT_BYTES_MAX)
        sealed = read_bounded(folder / f"{stem}{segment.SEALED_SUFFIX}", segment.SEALED_BYTES_MAX)
        if manifest is None or sealed is None:
            return None
        signed = segment.verify(manifest, stem, keys=None)
        if signed.body.site != self.site:
            said = f"segment {stem} is of site {signed.body.site!r}; this uplink is for {self.site!r}"
            raise DocumentInvalid(said, remedy="Set 'id' under 'site' in agent.yaml to the site's name.")
        if (signed.body.size_bytes, signed.body.sha256) != (len(sealed), hashlib.sha256(sealed).hexdigest()):
            remedy = "Nothing: the daemon seals what it still has of it once more. Check the disk ('dmesg')."
            raise SegmentDamaged(f"segment {stem} is not what its manifest says", remedy=remedy)
        return SealedSegment(stem, sealed, manifest)

    def status(self) -> bytes | None:
        """Return the status object; None = there is none yet.

        Raises:
            ExchangeDirUnusable: it cannot be read.
        """
        return read_bounded(self.outbox / status_object.FILE_NAME, DOCUMENT_BYTES_MAX)

    def status_mark(self) -> tuple[int, int]:
        """Return what changes with the status object; zeros = there is none."""
        try:
            found = (self.outbox / status_object.FILE_NAME).stat()
        except OSError:
            return (0, 0)
        return (found.st_mtime_ns, found.st_size)

    def take_receipts(self, raw: bytes) -> bool:
        """Lay receipts down for the daemon, which alone can tell whose they are; tell whether they are new.

        Raises:
            DocumentInvalid, SignatureInvalid: these are no receipts, or not this site's; the ones before stay.
            DiskFull, ExchangeDirUnusable: they cannot be written.
        """
        signed = signed_document.verify(raw, segment.Receipts, segment.RECEIPTS_FILE_NAME, keys=None)
        if signed.body.site != self.site:
            said = f"the upstream's receipts are for site {signed.body.site!r}; this is {self.site!r}"
            raise DocumentInvalid(said, remedy="Find out at the central team who writes to this site's prefix.")
        path = self.receipts / segment.RECEIPTS_FILE_NAME
        if read_bounded(path, DOCUMENT_BYTES_MAX) == raw:
            return False
        with exchange_errors(path):
            write_durably(path, raw, FILE_MODE)
        return True


@contextmanager
def exchange_errors(path: Path) -> Iterator[None]:
    """Turn what a disk or a right refuses into ExchangeDirUnusable; a full disk stays DiskFull."""
    try:
        with disk_errors(path):
            yield
    except (StateDirUnwritable, StoreDamaged) as error:
        raise ExchangeDirUnusable(error.message, path=path) from None


def _sized(entries: Iterator[os.DirEntry[str]]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode):
            yield entry.name, found.st_size


def read_bounded(path: Path, bytes_max: int) -> bytes | None:
    """Return a file, of one that is larger the first `bytes_max` + 1 bytes; None = it is not there.

    Raises:
        ExchangeDirUnusable: it cannot be read.
    """
    with exchange_errors(path):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(fd, "rb") as file:  # noqa: PTH123 - from a descriptor
            return file.read(bytes_max + 1)
