"""Rows of what an enrolment file brings: the root of trust, credentials, complete settings.

The central team makes the file; the technician enrols with it, as every remedy here says.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import FaultySite
from tests.support.fleet_cases import Centre
from tests.support.reason_cases.uplink_cases import IDENTITY


def fleet(folder: Path) -> Mapping[str, Any]:
    """Give the site a root of trust, and a folder from which updates come."""
    centre = Centre(folder / "centre")
    root = folder / "root.json"
    root.write_bytes(centre.root_bytes)
    shutil.copy(root, folder / "kept.json")
    return {"site": IDENTITY, "update": {"root_file": str(root)}, "uplink": {"updates_url": str(centre.folder)}}


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


@made("metadata/fault/timestamp-json-is-damaged", settings=fleet)
def timestamp_cut_short(site: FaultySite) -> None:
    """A power cut left a timestamp that is empty."""
    _metadata(site).mkdir(parents=True, exist_ok=True)
    (_metadata(site) / "timestamp.json").write_bytes(b"")
