"""Who may speak for a site: the keys in the registry, or the first one seen of a site that nobody registered."""

from __future__ import annotations

from collections import Counter

from convert.fleet.site_registry import UNDECIDED, SiteRegistry


class SiteKeyTrust:
    """Decides about keys, and writes first ones down."""

    def __init__(self, sites: SiteRegistry, *, registered_only: bool) -> None:
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
        if self._sites.standing(site, key) == "unknown" and not self._registered_only:
            self._sites.accept(site, key)
            self.pinned[site] = key
        if self._sites.standing(site, key) in UNDECIDED:
            self.waiting[site, key] += 1
        return self._sites.objection(site, key)

    def objection_to_sealed(self, site: str, key: str) -> str:
        """Likewise of what a key has sealed: that is taken also when the key speaks for the site no more."""
        return "" if self._sites.standing(site, key) == "retired" else self.objection(site, key)
