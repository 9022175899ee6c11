"""What lies in `incoming/`, exchanged at once; and what a site then says of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tests.fleet_site import FleetSite, comes_true

REFUSED_SECONDS_MAX = 20.0


def lay(site: FleetSite, folder: Path) -> None:
    """Exchange what lies in `incoming/`."""
    aside = site.folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    if site.incoming.exists():
        os.rename(site.incoming, aside)  # noqa: PTH104 - links and pipes move as they are
    os.rename(folder, site.incoming)  # noqa: PTH104


def refuses(site: FleetSite) -> bool:
    """Wait until status says that what came last is not believed."""
    return comes_true(lambda: bool(site.problem()), REFUSED_SECONDS_MAX)


def believes(site: FleetSite) -> bool:
    """Tell whether what came last is believed."""
    return not site.updates().problem


def arrived(site: FleetSite, version: str) -> bool:
    """Tell whether a version answers, and what came last is believed."""
    return site.version() == version and believes(site)
