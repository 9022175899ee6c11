"""Who may speak for a site: the keys in the registry, or the first one seen."""

from __future__ import annotations

from convert.sites import Sites


class Trust:
    """Decides about keys, and writes first ones down."""

    def __init__(self, sites: Sites, *, registered_only: bool) -> None:
        """With `registered_only`, a site that is not in the registry is refused."""
        self._sites = sites
        self._registered_only = registered_only
        self.pinned: dict[str, str] = {}
        """Sites taken at their word in this run: their keys."""

    def objection(self, site: str, key: str) -> str:
        """Return why a key may not speak for a site; empty = it may. Call it only when the signature fits the key.

        Raises OSError when a first key cannot be written down.
        """
        known = self._sites.keys(site)
        if key in known:
            return ""
        how = f"accept it with 'edge-convert sites accept {site} {key}'"
        if known:
            return (
                f"signed by another key than the site's, {known[-1][:16]}…; if the box was replaced or installed anew,"
                f" {how}"
            )
        if self._registered_only:
            return f"the site is not registered; {how}"
        self._sites.accept(site, key)
        self.pinned[site] = key
        return ""
