"""Decides which keys can sign for a site: those in the registry, or the first one seen of an unregistered site."""

from __future__ import annotations

from collections import Counter

from convert.fleet import accountability
from convert.fleet.site_registry import UNDECIDED, SiteRegistry


class SiteKeyTrust:
    """Decides about keys, and registers the first one of a site."""

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
        if self._sites.standing(site, key) == "unknown" and not self._registered_only:
            why = "the first key of a new site"
            accountability.record(self._sites.folder, "key accepted", [site], actor="collect", key=key, why=why)
            self._sites.accept(site, key)
            self.pinned[site] = key
        if self._sites.standing(site, key) in UNDECIDED:
            self.waiting[site, key] += 1
        return self._sites.objection(site, key)

    def objection_to_sealed(self, site: str, key: str) -> str:
        """Likewise for sealed segments, which are also accepted from retired keys of the site."""
        return "" if self._sites.standing(site, key) == "retired" else self.objection(site, key)
