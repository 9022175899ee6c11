"""Who may speak for a site: the keys in the registry, or the first one seen of a site that nobody registered."""

from __future__ import annotations

from collections import Counter

from convert.sites import UNDECIDED, Sites, Standing
from edge_agent.formats.kit import code

_WHY: dict[Standing, str] = {
    "retired": "signed by a key of an earlier life of the site, whose segments only are taken",
    "rejected": "signed by a key that was rejected",
    "revoked": "the site was revoked; 'edge-convert sites restore {site}' takes that back",
    "awaited": "the site's key was not accepted yet; {how}",
    "another": "signed by another key than the site's, {known}…; was the box replaced or installed anew? {how}",
    "unknown": "the site is not registered; {how}",
}


class Trust:
    """Decides about keys, and writes first ones down."""

    def __init__(self, sites: Sites, *, registered_only: bool) -> None:
        """With `registered_only`, a site that is not in the registry is refused."""
        self._sites = sites
        self._registered_only = registered_only
        self.pinned: dict[str, str] = {}
        """Sites taken at their word in this run: their keys."""
        self.waiting: Counter[tuple[str, str]] = Counter()
        """By site and key: documents of keys that nobody has decided about."""

    def objection(self, site: str, key: str) -> str:
        """Return why a key may not speak for a site; empty = it may. Call it only when the signature fits the key.

        Raises OSError when a first key cannot be written down.
        """
        standing = self._sites.standing(site, key)
        if standing == "unknown" and not self._registered_only:
            self._sites.accept(site, key)
            self.pinned[site] = key
            standing = "current"
        if standing in UNDECIDED:
            self.waiting[site, key] += 1
        return self._said(site, key, standing)

    def objection_to_sealed(self, site: str, key: str) -> str:
        """Likewise of what a key has sealed: that is taken also when the key speaks for the site no more."""
        return "" if self._sites.standing(site, key) == "retired" else self.objection(site, key)

    def _said(self, site: str, key: str, standing: Standing) -> str:
        if standing == "current":
            return ""
        how = f"if the site shows the code {code(key)}, accept it with 'edge-convert sites accept {site} {key}'"
        known = self._sites.keys(site)[-1:]
        return _WHY[standing].format(site=site, how=how, known="".join(known)[:16])
