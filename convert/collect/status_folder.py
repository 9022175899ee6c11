"""Stores the newest status object of each site, and the highest segment number that it ever named.

A replayed old status must not hide missing segments, so the highest numbers only grow.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

from convert.collect.segment_intake import SiteKeyTrust
from convert.collect.sources import SegmentSource, SiteListing, path_of
from edge_agent.durable import atomic_files
from edge_agent.errors import ExchangeError
from edge_agent.formats import status_object
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX

FOLDER = "status"
_HIGHEST = "highest.json"


@dataclass(frozen=True)
class AuditLosses:
    """Answers that the sites report as lost, of all tasks; many of them bias the random sample."""

    sites: int
    """Sites that sent a status."""
    audit_lost: int
    """Answers that the random audit drew, and that were evicted before they were sealed or reviewed."""
    not_kept: int
    """Answers that were never stored, and so never drawn: too long, or there was no space on the disk or in memory."""


def losses(collected: Path) -> AuditLosses:
    """Add up the counters of all sites. Files that are not status objects are skipped."""
    counters, sites = Counter[str](), 0
    for path in sorted((collected / FOLDER).glob("site=*.json")):
        with contextlib.suppress(ExchangeError):
            counters.update(status_object.verify(path.read_bytes(), None).body.counters)
            sites += 1
    dropped = sum(number for name, number in counters.items() if name.startswith("dropped_"))
    return AuditLosses(sites, counters["sacrificed_audit"], dropped)


class StatusFolder:
    """The folder of status objects, one signed object for each site."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is created."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._highest: dict[str, dict[str, int]] = defaultdict(dict)
        if (folder / _HIGHEST).is_file():
            self._highest.update(json.loads((folder / _HIGHEST).read_bytes()))
        self._missing: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))

    def read_status(self, source: SegmentSource, listing: SiteListing, trust: SiteKeyTrust) -> str:
        """Read and store a site's status, if there is one; return why it is refused, empty = it is not.

        Raises:
            SourceFailed: it cannot be read now.
            OSError: it cannot be stored.
        """
        if not listing.status:
            return ""
        raw = source.read(path_of(listing.site, status_object.FILE_NAME), DOCUMENT_BYTES_MAX)
        try:
            signed = status_object.verify(raw, None)
        except ExchangeError as error:
            return error.message
        if signed.body.site != listing.site:
            return f"is of site {signed.body.site}, but is in the folder of {listing.site}"
        objection = trust.objection(listing.site, signed.key)
        if not objection:
            self._store(signed.body, raw)
        return objection

    def highest(self, site: str) -> dict[str, int]:
        """Return the highest number ever named, by epoch."""
        return self._highest.get(site, {})

    def lost(self, site: str, epoch: str) -> set[int]:
        """Return the numbers that the site reports as lost."""
        return self._missing[site][epoch]

    def sites(self) -> set[str]:
        """Return every site whose status was ever read."""
        return set(self._highest)

    def save(self) -> None:
        """Store the highest numbers. Raises OSError."""
        content = json.dumps(self._highest, indent=1, sort_keys=True).encode() + b"\n"
        path = self._folder / _HIGHEST
        if not path.is_file() or path.read_bytes() != content:
            atomic_files.write_atomically(path, content)

    def _store(self, body: status_object.SiteStatus, raw: bytes) -> None:
        for epoch, sequence in body.highest.items():
            highest = self._highest[body.site]
            highest[epoch] = max(highest.get(epoch, 0), sequence)
        for epoch, numbers in body.missing.items():
            self._missing[body.site][epoch].update(numbers)
        path = self._folder / f"site={body.site}.json"
        if not path.is_file() or status_object.verify(path.read_bytes(), None).body.at < body.at:
            atomic_files.write_atomically(path, raw)
