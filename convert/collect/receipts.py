"""Writes signed receipts, which list the stored segments of each site. Only synced segments are listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from convert.collect.sources import SegmentSource, SiteListing, path_of
from edge_agent.durable import atomic_files
from edge_agent.formats.segment import RECEIPTS_FILE_NAME, EpochReceipts, Receipts, verify_receipts
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, format_timestamp, public_key_hex, sign

FOLDER = "receipts"


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
