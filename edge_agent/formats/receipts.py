"""Receipts: what the central team says it has of one site. Only they let the site delete a segment.

A signed document of the central team's receipt key. For each epoch it names ranges of sequences without a gap; the
sha256 of the last manifest in a range stands for all of them, because the manifests form a chain. A site trusts a
range only if it knows that very manifest as its own, so receipts for another site, or for another life of this one, do
nothing.

What an uplink notes about its own uploads is no receipt.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field, model_validator

from edge_agent.formats import signed_document
from edge_agent.formats.manifest import Sha256
from edge_agent.formats.signed_document import At, Epoch, ExchangedModel, SignedDocument, SiteId

SCHEMA = "edge-agent/receipts/v1"
FILE_NAME = "receipts.json"


class ReceiptRange(ExchangedModel):
    """Segments that the central team has, verified and kept."""

    first: signed_document.SequenceNumber
    last: signed_document.SequenceNumber
    manifest_sha256: Sha256
    """Of the manifest file of `last`."""

    @model_validator(mode="after")
    def _ordered(self) -> ReceiptRange:
        if self.first > self.last:
            raise ValueError("'first' is after 'last'")
        return self


class RefusedSegment(ExchangedModel):
    """A segment that came, but cannot be used: the site seals again what it still holds of it."""

    sequence: signed_document.SequenceNumber
    manifest_sha256: Sha256
    why: str = Field(max_length=500)


class EpochReceipts(ExchangedModel):
    """What the central team has of one life of the site's spool."""

    epoch: Epoch
    received: tuple[ReceiptRange, ...] = Field(default=(), max_length=10_000)
    refused: tuple[RefusedSegment, ...] = Field(default=(), max_length=1000)


class Receipts(ExchangedModel):
    """What the central team has of one site."""

    schema_: Literal["edge-agent/receipts/v1"] = Field(default="edge-agent/receipts/v1", alias="schema")
    site: SiteId
    at: At
    epochs: tuple[EpochReceipts, ...] = Field(default=(), max_length=1000)


def verify(raw: bytes, keys: Collection[str]) -> SignedDocument[Receipts]:
    """Read receipts and check that one of the central team's keys signed them.

    Raises:
        DocumentInvalid: no receipts.
        SignatureInvalid: not signed by one of the keys, or changed afterwards.
    """
    return signed_document.verify(raw, Receipts, FILE_NAME, keys)
