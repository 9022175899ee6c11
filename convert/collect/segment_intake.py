"""Checks and reads one segment as its site sealed it, by the keys that can sign for the site.

An invalid segment becomes a refusal with its name, and the next one is read. A segment that was damaged after the site
signed its manifest is named in the receipts, so that the site seals its records again. Segments of untrusted keys, and
intact ones that this program cannot read, are not named there, so the site keeps them until the cause is fixed.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyrage

from convert.collect import record_files
from convert.collect.record_files import SegmentEntry, SegmentOrigin, entry_of
from convert.collect.sources import SegmentSource, path_of
from convert.fleet.site_registry import UNDECIDED, SiteRegistry
from edge_agent.errors import ExchangeError, RecordInvalid, SegmentDamaged
from edge_agent.formats import example_records, segment
from edge_agent.formats.segment import MANIFEST_SUFFIX, SEALED_SUFFIX, SegmentManifest
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, SignedDocument
from edge_agent.formatting import counted


class SiteKeyTrust:
    """Decides which keys can sign for a site, and registers the first key of a new site."""

    def __init__(self, sites: SiteRegistry, *, registered_only: bool) -> None:
        """With `registered_only`, a site that is not in the registry is refused."""
        self._sites = sites
        self._registered_only = registered_only
        self.pinned: dict[str, str] = {}
        """Sites whose first key was trusted in this run, with that key."""
        self.waiting: Counter[tuple[str, str]] = Counter()
        """Number of documents by undecided keys, by site and key."""

    def objection(self, site: str, key: str) -> str:
        """Return why a key cannot sign for a site; empty = it can. Call it only with a verified signature.

        Raises OSError if a first key cannot be registered.
        """
        is_new = self._sites.key_status(site, key) == "unknown" and not self._registered_only
        if is_new and self._sites.accept_first(site, key):
            self.pinned[site] = key
        if self._sites.key_status(site, key) in UNDECIDED:
            self.waiting[site, key] += 1
        return self._sites.objection(site, key)

    def objection_to_sealed(self, site: str, key: str) -> str:
        """Likewise for sealed segments, which are also accepted from retired keys of the site."""
        return "" if self._sites.key_status(site, key) == "retired" else self.objection(site, key)


_BATCH_LINES = 5_000


@dataclass(frozen=True)
class AcceptedSegment:
    """A valid segment."""

    entry: SegmentEntry
    batches: Sequence[pa.RecordBatch]


@dataclass(frozen=True)
class RefusedDocument:
    """A segment, or another document of a site, that is refused."""

    source: str
    site: str
    name: str
    why: str
    damaged: str = ""
    """sha256 of the manifest of a damaged segment, for the receipts."""


class _SegmentRefused(Exception):
    """Why a segment is refused; `damaged` means that another copy can be intact."""

    def __init__(self, why: str, *, damaged: bool = False) -> None:
        super().__init__(why)
        self.damaged = damaged


class SegmentIntake:
    """Reads segments from one source."""

    def __init__(
        self,
        source: SegmentSource,
        trust: SiteKeyTrust,
        identities: Sequence[pyrage.x25519.Identity],
        now: Callable[[], float] = time.time,
    ) -> None:
        """Decrypt with any of the identities; `now` is the time of collection."""
        self._source, self._now = source, now
        self._trust = trust
        self._identities = identities
        self._recipients = {str(identity.to_public()) for identity in identities}

    def read_segment(self, site: str, stem: str) -> AcceptedSegment | RefusedDocument:
        """Read and check one segment, by its name without suffix.

        Raises:
            SourceFailed: it cannot be read now.
        """
        try:
            signed = self._read_manifest(site, stem)
        except (ExchangeError, _SegmentRefused) as error:
            return RefusedDocument(self._source.name, site, stem, str(error))
        try:
            return AcceptedSegment(entry_of(signed), self._read_batches(signed))
        except _SegmentRefused as error:
            return RefusedDocument(self._source.name, site, stem, str(error), signed.sha256 if error.damaged else "")

    def _read_manifest(self, site: str, stem: str) -> SignedDocument[SegmentManifest]:
        raw = self._source.read(path_of(site, "segments", stem + MANIFEST_SUFFIX), DOCUMENT_BYTES_MAX)
        signed = segment.verify(raw, stem, None)
        if signed.body.site != site:
            raise _SegmentRefused(f"is of site {signed.body.site}, but is in the folder of {site}")
        objection = self._trust.objection_to_sealed(site, signed.key)
        if objection:
            raise _SegmentRefused(objection)
        return signed

    def _read_batches(self, signed: SignedDocument[SegmentManifest]) -> list[pa.RecordBatch]:
        body = signed.body
        if not self._recipients & set(body.recipients):
            keys = ", ".join(f"{recipient[:20]}…" for recipient in body.recipients)
            raise _SegmentRefused(f"is sealed to other keys: {keys}")
        stem = segment.name_of(body.epoch, body.sequence)
        sealed = self._source.read(path_of(body.site, "segments", stem + SEALED_SUFFIX), segment.SEALED_BYTES_MAX)
        if hashlib.sha256(sealed).hexdigest() != body.sha256:
            raise _SegmentRefused(
                f"is damaged: {len(sealed)} of {body.size_bytes} bytes, different content", damaged=True
            )
        try:
            lines = segment.unseal(sealed, self._identities)
        except SegmentDamaged as error:
            raise _SegmentRefused(error.message, damaged=True) from None
        return _record_batches(lines, body, self._now())


def _record_batches(text: bytes, body: SegmentManifest, now: float) -> list[pa.RecordBatch]:
    lines = text.splitlines()
    if len(lines) != body.records:
        raise _SegmentRefused(f"has {counted(len(lines), 'record')}, its manifest {body.records}")
    starts = range(0, len(lines), _BATCH_LINES)
    return [_batch(lines[start : start + _BATCH_LINES], start + 1, body, now) for start in starts]


def _batch(lines: list[bytes], first_line: int, body: SegmentManifest, now: float) -> pa.RecordBatch:
    records = [_parse_record(line, number, body) for number, line in enumerate(lines, first_line)]
    return record_files.table(records, SegmentOrigin(body.epoch, body.sequence, now), first_line)


def _parse_record(line: bytes, number: int, body: SegmentManifest) -> example_records.AnyRecord:
    try:
        record = example_records.parse(line)
    except RecordInvalid as error:
        raise _SegmentRefused(f"line {number}: {error.message}; a newer edge-convert can possibly read it") from None
    if record.site != body.site:
        raise _SegmentRefused(f"line {number} is of site {record.site}")
    return record
