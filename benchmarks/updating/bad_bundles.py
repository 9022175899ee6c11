"""Signed bundles that a site must not keep, one after the other on one site, and a good one in the end."""

from __future__ import annotations

from benchmarks.updating.tally import Tally
from tests.support.bad_bundles import BAD, SETTINGS, offered
from tests.support.update_field import NEW, Field, wanted


def measure(field: Field, tally: Tally) -> None:
    """Offer each."""
    with field.site(**SETTINGS) as site:
        site.start_uplink()
        for number, (what, bad) in enumerate(BAD.items(), 1):
            ending = offered(field, site, number, bad)
            tally.add(f"a bundle that {what}", served=ending.served(bad), converged=ending.arrived)
        wanted(field.central, field.new)
        site.until(NEW)
