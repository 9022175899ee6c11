"""Seals records into files for upload, and deletes segments that the central team's receipts cover.

    outbox/segments/<epoch>-<sequence>.age     a sealed segment
    outbox/segments/<epoch>-<sequence>.json    its signed manifest, written after it
    outbox/status.json                         the signed status object
    receipts/receipts.json                     the segments that the central team has, signed by it

docs/uplink.md describes them. Incoming files are untrusted. After a crash at any point, or a failed commit, a segment
whose manifest exists is adopted unchanged, because it can have been uploaded; a segment without a manifest is written
again.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from edge_agent.capture.segment_ledger import LedgerSegment, SealedFiles, SegmentLedger
from edge_agent.capture.spool import Spool
from edge_agent.config import ExamplesConfig, SiteConfig
from edge_agent.durable.atomic_files import disk_errors, read_regular, stat_or_none, sync_directory, write_durably
from edge_agent.errors import DiskFull, DocumentInvalid, ExchangeError, StoreDamaged
from edge_agent.formats import segment, status_object
from edge_agent.formats.signed_document import format_timestamp, public_key_hex, sign

FILE_MODE, FOLDER_MODE = 0o640, 0o750


@dataclass(frozen=True)
class ExchangeFolders:
    """The folders of outgoing and incoming files."""

    outbox: Path
    receipts: Path

    @property
    def segments(self) -> Path:
        """Sealed segments and their manifests."""
        return self.outbox / "segments"


class Outbox:
    """Seals the records of one site. Used only on the thread of the spool."""

    def __init__(
        self, spool: Spool, folders: ExchangeFolders, configs: tuple[ExamplesConfig, SiteConfig], key: Ed25519PrivateKey
    ):
        """Make the directories, and finish the work that a crash interrupted.

        Raises:
            DiskFull, StateDirUnwritable, StoreDamaged: the directories cannot be used.
        """
        self._spool, self._folders, self._key = spool, folders, key
        self._config, self._site = configs
        self.ledger = SegmentLedger(spool, self._config.routine_share)
        self._receipts_sha256 = ""
        for folder in (folders.outbox, folders.segments, folders.receipts):
            with disk_errors(folder):
                folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
                sync_directory(folder.parent)
        self._recover()

    def is_due(self) -> bool:
        """Return whether the waiting records are old enough, or large enough together, to be sealed."""
        waiting_bytes = self.ledger.waiting_bytes(self._config.segment_bytes_max)
        is_old = self._spool.clock - self._spool.sealed_at >= self._config.seal_seconds
        return waiting_bytes >= self._config.segment_bytes_max or (is_old and waiting_bytes > 0)

    def seal_segment(self, at: float) -> int:
        """Seal one segment of waiting records; return its sequence, 0 = nothing waits.

        Raises:
            DiskFull: the outbox is full, or its disk is.
            StateDirUnwritable, StoreDamaged: its disk failed. Unsealed records keep waiting.
        """
        used = self.used_bytes()
        if used >= self._config.outbox_bytes_max:
            raise DiskFull(
                f"the outbox holds {used} bytes; the limit is {self._config.outbox_bytes_max}",
                remedy="Let the uplink run, or run 'sudo edge-agent media export /media/usb' and import the receipts"
                " that come back.",
            )
        sequence = self.ledger.building_sequence()
        if sequence and self._adopt(sequence):
            return sequence
        if not sequence:
            with self._spool.transaction():
                sequence = self.ledger.assign_records(self._config.segment_bytes_max)
        if sequence and not self._write(sequence, at):
            sequence = 0
        if not self.ledger.waiting_bytes(1):
            with self._spool.transaction():
                self._spool.note_sealed()
        return sequence

    def used_bytes(self) -> int:
        """Return the bytes of all segments in the outbox, those of earlier epochs included."""
        with disk_errors(self._folders.segments):
            return sum(path.stat().st_size for path in self._files())

    def oldest_seconds(self, at: float) -> float:
        """Return the age of the oldest segment in the outbox at that time, in seconds; 0 = it is empty."""
        with disk_errors(self._folders.segments):
            return max((at - path.stat().st_mtime for path in self._files()), default=0.0)

    def read_receipts(self) -> int:
        """Delete the segments that the central team's receipts cover; return their number.

        Raises:
            DocumentInvalid, SignatureInvalid: the receipts are not valid, or not signed by the central team; nothing
                was deleted.
            DiskFull, StateDirUnwritable, StoreDamaged: a disk failed.
        """
        raw = self._read(self._folders.receipts / segment.RECEIPTS_FILE_NAME)
        if not raw or hashlib.sha256(raw).hexdigest() == self._receipts_sha256:
            return 0
        signed = segment.verify_receipts(raw, self._site.receipt_keys)
        if signed.body.site != self._site.id:
            message = f"{segment.RECEIPTS_FILE_NAME} is for site {signed.body.site!r}; this is {self._site.id!r}"
            raise DocumentInvalid(message, remedy="Import the receipts of this site.")
        count = 0
        for epoch in signed.body.epochs:
            is_current = epoch.epoch == self._spool.incarnation
            count += self._apply_receipts(epoch) if is_current else self._delete_old_incarnation(epoch)
        self._receipts_sha256 = signed.sha256
        return count

    def find_lost_segments(self, *, thoroughly: bool) -> list[int]:
        """Return the segments that are missing or damaged, by their size or, `thoroughly`, by every byte.

        Their records that are still in the spool wait to be sealed again.
        """
        segments = self.ledger.sealed_segments()
        lost = [each.sequence for each in segments if not self._is_intact(each, thoroughly=thoroughly)]
        if lost:
            with self._spool.transaction():
                for sequence in lost:
                    self.ledger.mark_lost(sequence)
        for sequence in lost:
            self._remove(self._spool.incarnation, sequence)
        return lost

    def write_status(
        self,
        tasks: Iterable[status_object.TaskStatus],
        updates: status_object.SiteUpdates,
        version: str,
        at: float,
        redaction: status_object.RedactionReport | None = None,
    ) -> None:
        """Write the status object."""
        highest = {self._spool.incarnation: self.ledger.next_sequence() - 1 - bool(self.ledger.building_sequence())}
        for epoch, sequence in self._names():
            if epoch != self._spool.incarnation:
                highest[epoch] = max(sequence, highest.get(epoch, 0))
        lost = self.ledger.lost_sequences()
        body = status_object.SiteStatus(
            **dict(updates),
            site=self._site.id,
            at=format_timestamp(at),
            agent_version=version,
            epoch=self._spool.incarnation,
            highest=highest,
            missing={self._spool.incarnation: lost} if lost else {},
            counters=dict(self._spool.counters),
            retained_bytes=self._spool.used_bytes + self.used_bytes(),
            tasks=tuple(tasks),
            redaction=redaction,
        )
        write_durably(self._folders.outbox / status_object.FILE_NAME, sign(body, self._key), FILE_MODE)

    def _recover(self) -> None:
        incarnation = self._spool.incarnation
        own_sequences = {sequence for epoch, sequence in self._names() if epoch == incarnation}
        if max(own_sequences, default=0) >= self.ledger.next_sequence():
            # The spool was restored to an earlier state: its next numbers are in use.
            with self._spool.transaction():
                self.ledger.begin_incarnation()
        sequence = self.ledger.building_sequence()
        if sequence and not self._adopt(sequence):
            self._remove(self._spool.incarnation, sequence)
        for entry in self.ledger.segments_between(1, max(own_sequences, default=0)):
            if entry.state == "received" and entry.sequence in own_sequences:
                self._remove(self._spool.incarnation, entry.sequence)

    def _adopt(self, sequence: int) -> bool:
        """Mark a segment as sealed if its files in the outbox are complete: it can have been uploaded."""
        stem = segment.name_of(self._spool.incarnation, sequence)
        raw = self._read(self._file(stem, segment.MANIFEST_SUFFIX))
        try:
            signed = segment.verify(raw, stem, {public_key_hex(self._key)})
        except ExchangeError:
            return False
        sealed = self._read(self._file(stem, segment.SEALED_SUFFIX))
        manifest = signed.body
        if hashlib.sha256(sealed).hexdigest() != manifest.sha256:
            return False
        files = SealedFiles(len(sealed), manifest.sha256, signed.sha256, manifest.reseals, manifest.records)
        with self._spool.transaction():
            self.ledger.mark_sealed(sequence, files)
        return True

    def _write(self, sequence: int, at: float) -> bool:
        """Write a segment's files; return False if it has no records any more."""
        lines = list(self.ledger.record_lines(sequence))
        if not lines:
            with self._spool.transaction():
                self.ledger.release_sequence(sequence)
            return False
        sealed = segment.seal(b"".join(lines), self._site.recipients)
        manifest = segment.SegmentManifest(
            site=self._site.id,
            epoch=self._spool.incarnation,
            sequence=sequence,
            at=format_timestamp(at),
            sha256=hashlib.sha256(sealed).hexdigest(),
            size_bytes=len(sealed),
            previous=self.ledger.previous_manifest_sha256(sequence),
            records=len(lines),
            recipients=self._site.recipients,
            reseals=self.ledger.to_reseal(),
        )
        signed = sign(manifest, self._key)
        stem = segment.name_of(self._spool.incarnation, sequence)
        write_durably(self._file(stem, segment.SEALED_SUFFIX), sealed, FILE_MODE)
        write_durably(self._file(stem, segment.MANIFEST_SUFFIX), signed, FILE_MODE)
        manifest_sha256 = hashlib.sha256(signed).hexdigest()
        with self._spool.transaction():
            files = SealedFiles(len(sealed), manifest.sha256, manifest_sha256, manifest.reseals, len(lines))
            self.ledger.mark_sealed(sequence, files)
        return True

    def _apply_receipts(self, epoch: segment.EpochReceipts) -> int:
        """Apply receipts; a range counts only if it ends with a manifest of this site."""
        received = [sequence for span in epoch.received for sequence in self._covered_sequences(span)]
        refused = [each.sequence for each in epoch.refused if self._is_ours(each.sequence, each.manifest_sha256)]
        with self._spool.transaction():
            self.ledger.mark_received(received)
            for sequence in set(refused):
                self.ledger.mark_lost(sequence)
        for sequence in (*received, *refused):
            self._remove(self._spool.incarnation, sequence)
        return len(received)

    def _covered_sequences(self, span: segment.ReceiptRange) -> list[int]:
        last = self.ledger.segments_between(span.last, span.last)
        if not any(each.manifest_sha256 == span.manifest_sha256 for each in last):
            return []
        entries = self.ledger.segments_between(span.first, span.last)
        return [entry.sequence for entry in entries if entry.state in ("sealed", "lost")]

    def _is_ours(self, sequence: int, manifest_sha256: str) -> bool:
        return any(
            each.state == "sealed" and each.manifest_sha256 == manifest_sha256
            for each in self.ledger.segments_between(sequence, sequence)
        )

    def _delete_old_incarnation(self, receipts: segment.EpochReceipts) -> int:
        """Delete segments of an earlier incarnation by their files, because its ledger no longer exists."""
        deleted = 0
        for span in receipts.received:
            last = self._file(segment.name_of(receipts.epoch, span.last), segment.MANIFEST_SUFFIX)
            if hashlib.sha256(self._read(last)).hexdigest() == span.manifest_sha256:
                for epoch, sequence in self._names():
                    if epoch == receipts.epoch and span.first <= sequence <= span.last:
                        deleted += self._remove(epoch, sequence)
        return deleted

    def _is_intact(self, entry: LedgerSegment, *, thoroughly: bool) -> bool:
        path = self._file(segment.name_of(self._spool.incarnation, entry.sequence), segment.SEALED_SUFFIX)
        try:
            is_complete = path.stat().st_size == entry.size and path.with_suffix(segment.MANIFEST_SUFFIX).exists()
            if not thoroughly or not is_complete:
                return is_complete
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256
        except OSError:
            return False

    def _remove(self, epoch: str, sequence: int) -> int:
        stem, existed = segment.name_of(epoch, sequence), 0
        # The manifest first: a sealed file without a manifest does not count as a segment.
        for suffix in (segment.MANIFEST_SUFFIX, segment.SEALED_SUFFIX):
            path = self._file(stem, suffix)
            with disk_errors(path):
                existed = int(path.exists())
                path.unlink(missing_ok=True)
        return existed

    def _file(self, stem: str, suffix: str) -> Path:
        return self._folders.segments / f"{stem}{suffix}"

    def _files(self) -> list[Path]:
        with disk_errors(self._folders.segments):
            return [path for path in self._folders.segments.iterdir() if _segment_name(path)]

    def _names(self) -> set[tuple[str, int]]:
        """Return epoch and sequence of each segment that has a file in the outbox."""
        return {name for path in self._files() if (name := _segment_name(path))}

    def _read(self, path: Path) -> bytes:
        """Return the bytes of a regular file, at most those of a sealed segment; empty without such a file."""
        with disk_errors(path):
            try:
                return read_regular(path, segment.SEALED_BYTES_MAX)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINVAL, errno.ELOOP):
                    return b""
                raise


def load_site_key(path: Path) -> Ed25519PrivateKey:
    """Read the site key; create it if there is none.

    Raises:
        StoreDamaged: the file has no Ed25519 key. It is not replaced, because the central team accepted its key.
        StateDirUnwritable, DiskFull: a new one cannot be written.
    """
    with disk_errors(path):
        pem = path.read_bytes() if stat_or_none(path) else b""
    if not pem:
        key = Ed25519PrivateKey.generate()
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_durably(path, pem)
    try:
        site_key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):  # TypeError: it is encrypted
        site_key = None
    if not isinstance(site_key, Ed25519PrivateKey):
        remedy = "Restore the file from a copy; or move it away, and have the central team accept the new key."
        raise StoreDamaged(f"{path} contains no Ed25519 key", remedy=remedy, path=path)
    return site_key


def _segment_name(path: Path) -> tuple[str, int] | None:
    is_segment_file = path.suffix in (segment.SEALED_SUFFIX, segment.MANIFEST_SUFFIX)
    return segment.parse_name(path.stem) if is_segment_file else None
