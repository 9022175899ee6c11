"""Rows of examples that wait, of the store that takes them, and of the uplink."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import TASK, FaultySite
from tests.support.reason_cases.uplink_cases import IDENTITY

COLLECTED = {"collect": {TASK: "upstream"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0}


def collecting(_: Path) -> Mapping[str, Any]:
    return {"site": IDENTITY, "examples": COLLECTED}


@made("receipts/warning/the-oldest-segment-has-waited-for-its-receipt", settings=collecting, person="the central team")
def segment_without_receipt(site: FaultySite) -> None:
    """A segment has waited for four days."""
    with site.daemon.client() as client, site.daemon.admin() as admin:
        client.classify(TASK, ["refund"])
        admin.seal_examples()
    for path in (site.daemon.state_dir / "outbox" / "segments").glob("*.age"):
        os.utime(path, (time.time() - 4 * 86_400,) * 2)


def _folder_store(folder: Path) -> Mapping[str, Any]:
    (folder / "store").mkdir()
    return {"site": IDENTITY, "uplink": {"url": str(folder / "store")}}


@made("folder-store/fault/problem-seen", settings=_folder_store, by_hand=lambda site: (site.folder / "store").mkdir())
def store_away(site: FaultySite) -> None:
    """The disk of the folder store is not mounted."""
    (site.folder / "store").rmdir()
