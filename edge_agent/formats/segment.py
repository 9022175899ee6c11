"""Segments: sealed files of records in a chain of manifests; and receipts, which let the site delete them.

A segment is JSONL of records (formats/example_records.py), compressed with zstd (RFC 8878), sealed in the age format
(https://age-encryption.org/v1) to the central team's recipients. Its file is `<epoch>-<sequence>.age`. Its manifest is
`<epoch>-<sequence>.json`, a document signed by the site (formats/signed_document.py). The manifest is written last: a
segment without one does not exist yet.

An epoch is one incarnation of a site's spool, 16 random hexadecimal digits, so a reinstalled site reuses no name.
Within an epoch sequence numbers start at 1 without a gap. Each manifest contains the sha256 of the previous manifest
file, so that a lost, swapped or invented segment is detected. The content of a name never changes.

Receipts are a document signed by the central team's receipt key. It lists the segments of one site that the central
team has: for each epoch, ranges of sequence numbers without a gap. The sha256 of the last manifest in a range covers
the whole range, because the manifests form a chain. A site accepts a range only if that manifest is its own, so
receipts for another site, or for an earlier incarnation of its spool, have no effect.

An uplink's own record of its uploads is not a receipt.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import pyrage
from pydantic import Field, model_validator

from edge_agent.errors import DocumentInvalid, SegmentDamaged
from edge_agent.formats import compression, signed_document
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.signed_document import At, Epoch, ExchangedModel, SignedDocument, SiteId

SCHEMA = "edge-agent/segment/v1"
SEALED_BYTES_MAX = 64 * 1024 * 1024
PLAIN_BYTES_MAX = 256 * 1024 * 1024
ZSTD_LEVEL = 3
SEALED_SUFFIX, MANIFEST_SUFFIX = ".age", ".json"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9]{10})")

Recipient = Annotated[str, Field(pattern=r"^age1[0-9a-z]{10,3000}$")]


class SegmentManifest(ExchangedModel):
    """The signed manifest of one segment."""

    schema_: Literal["edge-agent/segment/v1"] = Field(default="edge-agent/segment/v1", alias="schema")
    site: SiteId
    epoch: Epoch
    sequence: signed_document.SequenceNumber
    at: At
    """When it was sealed, by the site's clock."""
    sha256: Sha256
    """Of the sealed file."""
    size_bytes: int = Field(ge=0, le=SEALED_BYTES_MAX)
    """Of the sealed file."""
    previous: str = Field(pattern=r"^([0-9a-f]{64})?$")
    """sha256 of the previous manifest file of the epoch; empty for the first."""
    records: int = Field(ge=1)
    recipients: tuple[Recipient, ...] = Field(min_length=1, max_length=20)
    reseals: tuple[signed_document.SequenceNumber, ...] = Field(default=(), max_length=1000)
    """Earlier segments of the epoch that were damaged or refused, whose surviving records are in this one."""


def name_of(epoch: str, sequence: int) -> str:
    """Return the name of a segment's files, without their suffix."""
    return f"{epoch}-{sequence:010d}"


def parse_name(stem: str) -> tuple[str, int] | None:
    """Return epoch and sequence of a file name without suffix; None if it is not that of a segment."""
    match = _NAME.fullmatch(stem)
    return (match[1], int(match[2])) if match and int(match[2]) > 0 else None


def verify(raw: bytes, stem: str, keys: Collection[str] | None) -> SignedDocument[SegmentManifest]:
    """Read the manifest of the file name `stem`, and check its signature; `keys` as in `signed_document.verify`.

    Raises:
        DocumentInvalid: not a manifest, or one of another segment.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    signed = signed_document.verify(raw, SegmentManifest, f"{stem}{MANIFEST_SUFFIX}", keys)
    if name_of(signed.body.epoch, signed.body.sequence) != stem:
        message = f"{stem}{MANIFEST_SUFFIX} is the manifest of {name_of(signed.body.epoch, signed.body.sequence)}"
        raise DocumentInvalid(message)
    return signed


def seal(lines: bytes, recipients: Sequence[str]) -> bytes:
    """Compress and encrypt records to all recipients, each of which can open them alone.

    Raises:
        DocumentInvalid: a recipient is not an age public key.
    """
    try:
        recipient_keys = [pyrage.x25519.Recipient.from_str(recipient) for recipient in recipients]
    except pyrage.RecipientError as error:
        raise DocumentInvalid(f"a recipient is not an age public key (age1…): {error}") from None
    sealed: bytes = pyrage.encrypt(compression.compress(lines, ZSTD_LEVEL), recipient_keys)
    return sealed


def unseal(sealed: bytes, identities: Sequence[pyrage.x25519.Identity]) -> bytes:
    """Decrypt and decompress records.

    Raises:
        SegmentDamaged: no identity opens it, it was changed, or it unpacks to more than 256 MiB.
    """
    try:
        packed = pyrage.decrypt(sealed, list(identities))
        return compression.decompress(packed, PLAIN_BYTES_MAX)
    except pyrage.DecryptError as error:
        raise SegmentDamaged(f"the segment does not open: {error}") from None
    except compression.TooLarge:
        raise SegmentDamaged(f"the segment unpacks to more than {PLAIN_BYTES_MAX} bytes") from None
    except DocumentInvalid as error:
        raise SegmentDamaged(f"the segment opens, but does not unpack: {error}") from None


RECEIPTS_FILE_NAME = "receipts.json"


class ReceiptRange(ExchangedModel):
    """Segments that the central team has, verified and kept."""

    first: signed_document.SequenceNumber
    last: signed_document.SequenceNumber
    manifest_sha256: Sha256
    """Of the manifest file of `last`."""

    @model_validator(mode="after")
    def _check_order(self) -> ReceiptRange:
        if self.first > self.last:
            raise ValueError("'first' is after 'last'")
        return self


class RefusedSegment(ExchangedModel):
    """A segment that arrived but cannot be used: the site seals its surviving records again."""

    sequence: signed_document.SequenceNumber
    manifest_sha256: Sha256
    why: str = Field(max_length=500)


class EpochReceipts(ExchangedModel):
    """The segments of one epoch that the central team has received or refused."""

    epoch: Epoch
    received: tuple[ReceiptRange, ...] = Field(default=(), max_length=10_000)
    refused: tuple[RefusedSegment, ...] = Field(default=(), max_length=1000)


class Receipts(ExchangedModel):
    """The receipts of one site."""

    schema_: Literal["edge-agent/receipts/v1"] = Field(default="edge-agent/receipts/v1", alias="schema")
    site: SiteId
    at: At
    epochs: tuple[EpochReceipts, ...] = Field(default=(), max_length=1000)


def verify_receipts(raw: bytes, keys: Collection[str]) -> SignedDocument[Receipts]:
    """Read receipts and check that one of the central team's keys signed them.

    Raises:
        DocumentInvalid: it is not a receipts document.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    return signed_document.verify(raw, Receipts, RECEIPTS_FILE_NAME, keys)
