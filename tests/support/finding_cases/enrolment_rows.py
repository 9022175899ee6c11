"""Rows of the contents of an enrolment file: the root of trust, credentials, complete settings.

The central team makes the file; the technician enrols with it, as every remedy here says.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite
from tests.support.fleet_cases import CentralTeam
from tests.support.reason_cases.uplink_cases import IDENTITY
from tests.support.tls_site import DAY


def fleet(folder: Path) -> Mapping[str, Any]:
    """Give the site a root of trust, and a folder from which updates come."""
    central = CentralTeam(folder / "central")
    root = folder / "root.json"
    root.write_bytes(central.root_bytes)
    shutil.copy(root, folder / "kept.json")
    return {
        "site": IDENTITY,
        "update": {"root_file": str(root), "check_seconds": 0.1},
        "uplink": {"updates_url": str(central.folder)},
    }


def _restore(site: FaultySite) -> None:
    """Restore the file, or replace it with the fleet's root.json, as the sentences say."""
    shutil.copy(site.folder / "kept.json", site.folder / "root.json")


@made("root-of-trust/fault/does-not-exist", settings=fleet, with_it=("metadata",), by_hand=_restore)
def root_away(site: FaultySite) -> None:
    """Somebody removed the root of trust."""
    (site.folder / "root.json").unlink()


@made("root-of-trust/fault/is-not-a-root-of-trust", settings=fleet, by_hand=_restore)
def other_file_in_place_of_the_root(site: FaultySite) -> None:
    """Somebody put another file there."""
    (site.folder / "root.json").write_text("{}")


@made(
    "root-of-trust/fault/no-root",
    settings=fleet,
    by_hand=lambda site: site.edit(update={"root_file": str(site.folder / "root.json")}),
)
def no_root_named(site: FaultySite) -> None:
    """agent.yaml names updates, and no root of trust."""
    site.edit(update={"root_file": None})


def _metadata(site: FaultySite) -> Path:
    return site.daemon.state_dir / "incoming" / "metadata"


@made("metadata/fault/timestamp-json-is-damaged", settings=fleet, with_it=("updates-believed",))
def timestamp_cut_short(site: FaultySite) -> None:
    """A power cut left a timestamp that is empty."""
    _metadata(site).mkdir(parents=True, exist_ok=True)
    (_metadata(site) / "timestamp.json").write_bytes(b"")
    site.until_found("updates-believed")


@made(
    "enrolment/fault/the-enrolment-is-incomplete-missing",
    settings=fleet,
    by_hand=lambda site: site.edit(site={"id": IDENTITY["id"]}),
)
def site_without_a_name(site: FaultySite) -> None:
    """Somebody removed the site's name from agent.yaml, which the enrolment had brought."""
    site.edit(site={"id": None})


def _timestamp(site: FaultySite, days: float) -> None:
    _metadata(site).mkdir(parents=True, exist_ok=True)
    expires = datetime.fromtimestamp(time.time() + days * DAY, UTC)
    signed = {"_type": "timestamp", "version": 1, "expires": f"{expires:%Y-%m-%dT%H:%M:%SZ}"}
    (_metadata(site) / "timestamp.json").write_text(json.dumps({"signed": signed}))
    site.until_found("updates-believed")


@made("metadata/fault/version-expired-ago-nothing-new-is-installed", settings=fleet, with_it=("updates-believed",))
def metadata_expired(site: FaultySite) -> None:
    """The uplink has not run for a week after the newest metadata ended."""
    _timestamp(site, -7)


@made("metadata/warning/version-expires-in", settings=fleet, with_it=("updates-believed",))
def metadata_ends_soon(site: FaultySite) -> None:
    """The uplink has not run for so long that the metadata ends tomorrow."""
    _timestamp(site, 1.5)


@made("metadata/warning/no-metadata-has-arrived-in-yet", settings=fleet)
def metadata_never_arrived(site: FaultySite) -> None:
    """The site was enrolled two days ago, and its uplink did not run."""
    os.utime(site.folder / "root.json", (time.time() - 2 * DAY,) * 2)


@made("root-of-trust/note/is-version-expired-ago", settings=fleet, person="the central team")
def root_expired(site: FaultySite) -> None:
    """The root of trust that the site was enrolled with has ended."""
    path = site.folder / "root.json"
    document = json.loads(path.read_bytes())
    document["signed"]["expires"] = "2025-03-01T00:00:00Z"
    path.write_text(json.dumps(document))


@made(
    "root-of-trust/note/no-root",
    settings=lambda folder: {**fleet(folder), "uplink": {}},
    by_hand=lambda site: site.edit(update={"root_file": str(site.folder / "root.json")}),
)
def no_root_at_a_site_with_drives(site: FaultySite) -> None:
    """agent.yaml names no root of trust, and updates come on a drive."""
    site.edit(update={"root_file": None})


def _name_the_root(site: FaultySite) -> None:
    site.edit(update={"root_file": str(site.folder / "root.json")})
    site.restart()


def _wait_for_the_uplink(site: FaultySite) -> None:
    site.restart_uplink()
    site.until_found("metadata", is_found=False)


made(
    "metadata/note/no-update-has-arrived-yet",
    settings=lambda folder: {**fleet(folder), "uplink": {}, "update": {}},
    person="the central team",
)(_name_the_root)
made(
    "metadata/note/no-metadata-has-arrived-in-yet-this-site-was-enrolled-today",
    settings=lambda folder: {**fleet(folder), "update": {}},
    by_hand=_wait_for_the_uplink,
)(_name_the_root)
