"""What sites say of themselves: the newest status object of each, and the highest segment number it ever named.

An old status laid before us again must not hide that segments are missing, so highest numbers only grow.
"""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from convert import durable
from convert.collect.sources import Listing, Source, path_of
from convert.collect.trust import Trust
from edge_agent.errors import ExchangeError
from edge_agent.formats import status
from edge_agent.formats.document import DOCUMENT_BYTES_MAX

FOLDER = "status"
_HIGHEST = "highest.json"


class Statuses:
    """The folder of status objects, one for each site, as the sites signed them."""

    def __init__(self, folder: Path) -> None:
        """Use a folder, which is made."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._highest: dict[str, dict[str, int]] = defaultdict(dict)
        if (folder / _HIGHEST).is_file():
            self._highest.update(json.loads((folder / _HIGHEST).read_bytes()))
        self._missing: dict[str, dict[str, set[int]]] = defaultdict(lambda: defaultdict(set))

    def look(self, source: Source, listing: Listing, trust: Trust) -> str:
        """Read a site's status, if there is one; returns what is wrong with it, if anything.

        Raises:
            SourceFailed: it cannot be read now.
            OSError: it cannot be kept.
        """
        if not listing.status:
            return ""
        raw = source.read(path_of(listing.site, status.FILE_NAME), DOCUMENT_BYTES_MAX)
        try:
            signed = status.verify(raw, None)
        except ExchangeError as error:
            return error.message
        if signed.body.site != listing.site:
            return f"is of site {signed.body.site}, but lies with {listing.site}"
        objection = trust.objection(listing.site, signed.key)
        if not objection:
            self._keep(signed.body, raw)
        return objection

    def highest(self, site: str) -> dict[str, int]:
        """Return the highest number ever named, by epoch."""
        return self._highest.get(site, {})

    def lost(self, site: str, epoch: str) -> set[int]:
        """Return the numbers that the site says are lost."""
        return self._missing[site][epoch]

    def sites(self) -> set[str]:
        """Return every site whose status was ever read."""
        return set(self._highest)

    def save(self) -> None:
        """Write down the highest numbers. Raises OSError."""
        content = json.dumps(self._highest, indent=1, sort_keys=True).encode() + b"\n"
        path = self._folder / _HIGHEST
        if not path.is_file() or path.read_bytes() != content:
            durable.write(path, content)

    def _keep(self, body: status.SiteStatus, raw: bytes) -> None:
        for epoch, sequence in body.highest.items():
            self._raise_highest(body.site, epoch, sequence)
        for epoch, numbers in body.missing.items():
            self._missing[body.site][epoch].update(numbers)
        path = self._folder / f"site={body.site}.json"
        if not path.is_file() or status.verify(path.read_bytes(), None).body.at < body.at:
            durable.write(path, raw)

    def _raise_highest(self, site: str, epoch: str, sequence: int) -> None:
        known = self._highest[site]
        known[epoch] = max(known.get(epoch, 0), sequence)
