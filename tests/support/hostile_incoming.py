"""A hostile uplink of a real site: it replaces the files in `incoming/`, and returns the site's status.

lay(site, field.central.copy(tmp_path / "honest"))
refused, arrived = attacked(field, site, "rollback")
"""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

from tests.support.bundles import echo_bundle
from tests.support.fleet_site import FleetSite, comes_true
from tests.support.repository_attacks import ATTACKS, AttackedRepository
from tests.support.update_sites import NEW, OLD, UpdateSites, wanted

REFUSED_SECONDS_MAX = 20.0


def lay(site: FleetSite, folder: Path) -> None:
    """Exchange what lies in `incoming/`."""
    aside = site.folder / "aside"
    shutil.rmtree(aside, ignore_errors=True)
    if site.incoming.exists():
        site.incoming.rename(aside)  # links and pipes move as they are
    folder.rename(site.incoming)


def refuses(site: FleetSite) -> bool:
    """Wait until the status reports that the last metadata are not trusted."""
    return comes_true(lambda: bool(site.problem()), REFUSED_SECONDS_MAX)


def believes(site: FleetSite) -> bool:
    """Return whether the last metadata are trusted."""
    return not site.updates().problem


def arrived(site: FleetSite, version: str) -> bool:
    """Return whether a version answers and the last metadata are trusted."""
    return site.version() == version and believes(site)


def attacked(field: UpdateSites, site: FleetSite, name: str) -> tuple[bool, bool]:
    """Publish newer metadata, give the site a damaged copy of them, then the intact copy.

    Returns whether the spoilt one was refused and changed nothing, and whether the honest one was taken afterwards.
    """
    attack, runs = ATTACKS[name], site.version()
    version, digest = {OLD: (NEW, field.new), NEW: (OLD, field.old)}[runs]
    other = f"1.0.0-x{secrets.token_hex(4)}"
    field.central.publish(echo_bundle(field.root / "others" / other, "other", version=other))
    wanted(field.central, digest)
    hostile = AttackedRepository(field.central, field.central.copy(field.root / "hostile"), field.before)
    attack.make(hostile)
    lay(site, hostile.folder)
    refused = refuses(site) and site.version() == runs
    attack.mend(field.central)
    lay(site, field.central.copy(field.root / "honest"))
    return refused, comes_true(lambda: arrived(site, version))
