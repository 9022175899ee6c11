"""Makes the signed receipts: which segments of a site are stored, so that it can delete them, and which are refused."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect.record_files import SegmentEntry
from convert.collect.sources import SegmentSource, SiteListing, path_of
from edge_agent.durable import atomic_files
from edge_agent.formats.segment import (
    RECEIPTS_FILE_NAME,
    EpochReceipts,
    ReceiptRange,
    Receipts,
    RefusedSegment,
    verify_receipts,
)
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, format_timestamp, public_key_hex, sign

FOLDER = "receipts"
_RANGES_MAX = 10_000
_REFUSED_MAX = 1000


def of_epoch(epoch: str, held: Collection[SegmentEntry], refused: Collection[RefusedSegment]) -> EpochReceipts:
    """Return the chains of one epoch for a receipt: each unbroken chain, named by its last manifest."""
    before = {entry.manifest_sha256: entry for entry in held}
    continued = {entry.previous for entry in held}
    ranges = [_range(entry, before) for entry in held if entry.manifest_sha256 not in continued]
    ranges.sort(key=lambda each: (each.first, each.last, each.manifest_sha256))
    listed = sorted(refused, key=lambda each: (each.sequence, each.manifest_sha256))
    return EpochReceipts(epoch=epoch, received=tuple(ranges[:_RANGES_MAX]), refused=tuple(listed[:_REFUSED_MAX]))


def _range(last: SegmentEntry, before: Mapping[str, SegmentEntry]) -> ReceiptRange:
    first = last
    while (previous := before.get(first.previous)) and previous.sequence == first.sequence - 1:
        first = previous
    return ReceiptRange(first=first.sequence, last=last.sequence, manifest_sha256=last.manifest_sha256)


def sign_receipts(
    folder: Path, site: str, epochs: Sequence[EpochReceipts], key: Ed25519PrivateKey, now: Callable[[], float]
) -> bytes:
    """Return the site's receipts, and store them in the folder; equal stored ones are returned unchanged.

    Raises:
        OSError: they cannot be written.
    """
    path = folder / f"site={site}" / RECEIPTS_FILE_NAME
    if path.is_file():
        kept = path.read_bytes()
        signed = verify_receipts(kept, [public_key_hex(key)]) if public_key_hex(key).encode() in kept else None
        if signed and signed.body.epochs == tuple(epochs):
            return kept
    body = Receipts(site=site, at=format_timestamp(now()), epochs=tuple(epochs))
    content = sign(body, key)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_files.write_atomically(path, content)
    return content


def write_receipts(source: SegmentSource, listing: SiteListing, content: bytes | None) -> None:
    """Write a site's receipts, if it has any, to the source, where its uplink reads them.

    Raises:
        SourceFailed: it cannot be written.
    """
    path = path_of(listing.site, RECEIPTS_FILE_NAME)
    if content is None or (listing.receipts and source.read(path, DOCUMENT_BYTES_MAX) == content):
        return
    source.write(path, content)
