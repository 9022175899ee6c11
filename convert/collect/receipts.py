"""Finds missing and contradictory segments, by their numbers and the chain of manifests; signs receipts.

A receipt lists the stored segments of a site, which the site can then delete, and the refused ones.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
    name_of,
    verify_receipts,
)
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, format_timestamp, public_key_hex, sign

NOT_ARRIVED = "has not arrived"


@dataclass(frozen=True, order=True)
class SequenceGap:
    """Segments of one epoch that exist but have not arrived."""

    site: str
    epoch: str
    first: int
    last: int
    why: str

    @property
    def name(self) -> str:
        """The segments' names for people."""
        first, count = f"{self.site}/{name_of(self.epoch, self.first)}", self.last - self.first + 1
        return first if count == 1 else f"{first} to {self.last:010d} ({count} segments)"


@dataclass(frozen=True, order=True)
class ChainBreak:
    """A segment that does not continue the one before it, or one of two with the same number."""

    site: str
    epoch: str
    sequence: int
    why: str

    @property
    def name(self) -> str:
        """The segment's name for people."""
        return f"{self.site}/{name_of(self.epoch, self.sequence)}"


def gaps(
    site: str, epoch: str, entries: Collection[SegmentEntry], highest: int, why: Mapping[int, str]
) -> list[SequenceGap]:
    """Return the missing segments up to `highest` as ranges; `why` has the reasons for single numbers.

    A segment whose records arrived in a later one is not missing. A number above the highest is reported alone, because
    anyone can write a file with any number.
    """
    arrived = {entry.sequence for entry in entries}.union(*(entry.reseals for entry in entries))
    last = max([highest, *(entry.sequence for entry in entries)])
    above = sorted(number for number in why.keys() - arrived if number > last)
    holes = [*_holes(sorted(arrived), last), *zip(above, above, strict=True)]
    ranges: list[SequenceGap] = []
    for first, end, reason in itertools.chain.from_iterable(_split_by_reason(*hole, why) for hole in holes):
        previous = ranges[-1] if ranges else None
        if previous and (previous.last, previous.why) == (first - 1, reason):
            ranges[-1] = replace(previous, last=end)
        else:
            ranges.append(SequenceGap(site, epoch, first, end, reason))
    return ranges


def breaks(entries: Collection[SegmentEntry]) -> Iterator[ChainBreak]:
    """Yield the contradictions between segments of one epoch: from a restored backup or a copied disk."""
    manifests, disconnected = _manifest_hashes(entries), set(unconnected(entries))
    for entry in entries:
        if entry in disconnected:
            yield ChainBreak(entry.site, entry.epoch, entry.sequence, "does not continue the segment before it")
        hashes = manifests[entry.sequence]
        if len(hashes) > 1 and entry.manifest_sha256 == max(hashes):
            message = f"arrived {len(hashes)} times with different content"
            yield ChainBreak(entry.site, entry.epoch, entry.sequence, message)


def unconnected(entries: Collection[SegmentEntry]) -> list[SegmentEntry]:
    """Return the segments that do not continue the stored one before them, if there is one."""
    manifests = _manifest_hashes(entries)
    return [entry for entry in entries if not _continues(entry, manifests)]


def _manifest_hashes(entries: Collection[SegmentEntry]) -> dict[int, set[str]]:
    """Return the hashes of the manifests of each number."""
    hashes: dict[int, set[str]] = defaultdict(set)
    for entry in entries:
        hashes[entry.sequence].add(entry.manifest_sha256)
    return hashes


def _continues(entry: SegmentEntry, manifests: Mapping[int, set[str]]) -> bool:
    if entry.sequence == 1:
        return not entry.previous
    previous = manifests.get(entry.sequence - 1)
    return previous is None or entry.previous in previous


def _holes(numbers: list[int], last: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges from 1 to `last` that the sorted numbers leave out."""
    expected = 1
    for number in numbers:
        if number > expected:
            yield expected, number - 1
        expected = number + 1
    if expected <= last:
        yield expected, last


def _split_by_reason(first: int, last: int, why: Mapping[int, str]) -> Iterator[tuple[int, int, str]]:
    """Split a range at numbers that have a reason."""
    for number in sorted(number for number in why if first <= number <= last):
        if number > first:
            yield first, number - 1, NOT_ARRIVED
        yield number, number, why[number]
        first = number + 1
    if first <= last:
        yield first, last, NOT_ARRIVED


RECEIPTS_FOLDER = "receipts"
_RANGES_MAX = 10_000
_REFUSED_MAX = 1000


def epoch_receipts(epoch: str, entries: Collection[SegmentEntry], refused: Collection[RefusedSegment]) -> EpochReceipts:
    """Return the chains of one epoch for a receipt: each unbroken chain, named by its last manifest."""
    by_hash = {entry.manifest_sha256: entry for entry in entries}
    continued = {entry.previous for entry in entries}
    ranges = [_range(entry, by_hash) for entry in entries if entry.manifest_sha256 not in continued]
    ranges.sort(key=lambda each: (each.first, each.last, each.manifest_sha256))
    refusals = sorted(refused, key=lambda each: (each.sequence, each.manifest_sha256))
    return EpochReceipts(epoch=epoch, received=tuple(ranges[:_RANGES_MAX]), refused=tuple(refusals[:_REFUSED_MAX]))


def _range(last: SegmentEntry, by_hash: Mapping[str, SegmentEntry]) -> ReceiptRange:
    first = last
    while (previous := by_hash.get(first.previous)) and previous.sequence == first.sequence - 1:
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
        stored = path.read_bytes()
        signed = verify_receipts(stored, [public_key_hex(key)]) if public_key_hex(key).encode() in stored else None
        if signed and signed.body.epochs == tuple(epochs):
            return stored
    content = sign(Receipts(site=site, at=format_timestamp(now()), epochs=tuple(epochs)), key)
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
