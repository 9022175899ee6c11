"""Reads the newest status object of each site from object stores and folders, and the reasons for refused ones.

A status object is untrusted input: its size is bounded. With a registry of sites (convert/fleet/site_registry.py) a
status counts only if one of the site's keys signed it. Without a registry no signature is checked. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from convert.collect.sources import SegmentSource, SourceFailed, listings, path_of
from convert.fleet.site_registry import SiteRegistry
from convert.pipeline.stage import Progress
from edge_agent.errors import ExchangeError
from edge_agent.formats import status_object
from edge_agent.formats.signed_document import DOCUMENT_BYTES_MAX, parse_timestamp
from edge_agent.formats.status_object import SiteStatus

READS_AT_ONCE = 16
Said = tuple[str, SiteStatus | str]
"""A site, and its status or what is wrong with it."""


@dataclass
class SiteStatuses:
    """What was read."""

    statuses: dict[str, SiteStatus] = field(default_factory=dict)
    """By site."""
    refused: dict[str, str] = field(default_factory=dict)
    """Sites whose status does not count, and why."""
    troubles: list[str] = field(default_factory=list)
    """Sources that could not be listed."""

    def take(self, site: str, said: SiteStatus | str) -> None:
        """Keep the newest status; a refusal counts only for a site of which nothing better came."""
        known = self.statuses.get(site)
        if isinstance(said, str):
            if not known:
                self.refused[site] = said
        elif not known or parse_timestamp(known.at) < parse_timestamp(said.at):
            self.statuses[site] = said
            self.refused.pop(site, None)


def read(
    sources: Sequence[SegmentSource], sites: SiteRegistry | None, progress: Progress = lambda *_: None
) -> SiteStatuses:
    """Read the status objects of all sites in all sources; what cannot be read is named, and stops nothing."""
    heard = SiteStatuses()
    for source in sources:
        try:
            found = [listing.site for listing in listings(source) if listing.status]
        except SourceFailed as error:
            heard.troubles.append(str(error))
            continue
        with ThreadPoolExecutor(READS_AT_ONCE) as pool:
            for done, said in enumerate(pool.map(_reader(source, sites), found), 1):
                heard.take(*said)
                progress("status", done, len(found))
    return heard


def _reader(source: SegmentSource, sites: SiteRegistry | None) -> Callable[[str], Said]:
    def one(site: str) -> Said:
        try:
            signed = status_object.verify(source.read(path_of(site, status_object.FILE_NAME), DOCUMENT_BYTES_MAX), None)
        except SourceFailed as error:
            return site, str(error)
        except ExchangeError as error:
            return site, error.message
        if signed.body.site != site:
            return site, f"is of site {signed.body.site}, but lies with {site}"
        objection = sites.objection(site, signed.key) if sites else ""
        return site, objection or signed.body

    return one
