"""Rows of examples that wait, of the store that takes them, and of the uplink."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edge_agent.formats import uplink_state
from tests.support.answering_server import AnsweringServer
from tests.support.eventually import eventually_sync
from tests.support.finding_cases.case import made
from tests.support.finding_cases.site import TASK, FaultySite
from tests.support.reason_cases.uplink_cases import IDENTITY
from tests.support.uplink_cases import PATIENT

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


@made(
    "folder-store/fault/problem-message", settings=_folder_store, by_hand=lambda site: (site.folder / "store").mkdir()
)
def store_away(site: FaultySite) -> None:
    """The disk of the folder store is not mounted."""
    (site.folder / "store").rmdir()


def _start_uplink(site: FaultySite) -> None:
    site.serve("uplink", "uplink")


@made("uplink/fault/facts-silence", settings=_folder_store, prepare=_start_uplink)
def uplink_killed(site: FaultySite) -> None:
    """The uplink was killed some time ago: its report is ten minutes old."""
    site.ends.pop_all().close()
    report = site.daemon.state_dir / "uplink" / uplink_state.FILE_NAME
    document = json.loads(report.read_bytes())
    document["running_seconds"] -= 600
    report.write_text(json.dumps(document))


SERVERS: dict[Path, AnsweringServer] = {}
"""The object store of each site, by its folder."""


def _object_store(folder: Path) -> Mapping[str, Any]:
    server = SERVERS[folder] = AnsweringServer()
    uplink = {**PATIENT, "url": f"{server.address}/fleet", "options": {"allow_http": "true"}, "disk_reserve_bytes": 0}
    return {"site": IDENTITY, "examples": COLLECTED, "uplink": uplink}


def _start_with_store(site: FaultySite) -> None:
    site.ends.enter_context(SERVERS[site.folder])
    site.serve("uplink", "uplink")


def _answering(site: FaultySite, way: str, check: str, *, is_found: bool = True) -> None:
    """Make the store answer in this way, and wait until the uplink, which has data to upload, receives the answer."""
    SERVERS[site.folder].answer(way)
    with site.daemon.client() as client, site.daemon.admin() as admin:
        client.classify(TASK, ["refund"])
        admin.seal_examples()
    eventually_sync(lambda: (check in {each["check"] for each in site.everything()}) is is_found)


@made(
    "uplink-refused/fault/seen",
    settings=_object_store,
    prepare=_start_with_store,
    with_it=("uplink-online",),
    person="the central team",
)
def credential_refused(site: FaultySite) -> None:
    """The store no longer accepts the credential."""
    _answering(site, "403", "uplink-refused")


@made(
    "uplink-online/note/f-in-a-row",
    settings=_object_store,
    prepare=_start_with_store,
    with_it=("uplink-problem",),
    by_hand=lambda site: _answering(site, "well", "uplink-online", is_found=False),
)
def store_busy(site: FaultySite) -> None:
    """The store asks to slow down; the uplink retries by itself until it answers."""
    _answering(site, "503", "uplink-online")


def _patient_folder_store(folder: Path) -> Mapping[str, Any]:
    (folder / "store").mkdir()
    uplink = {**PATIENT, "url": str(folder / "store"), "disk_reserve_bytes": 0}
    return {"site": IDENTITY, "examples": COLLECTED, "uplink": uplink}


def _mount_again(site: FaultySite) -> None:
    (site.folder / "away").rename(site.folder / "store")
    eventually_sync(lambda: not {"uplink-problem", "uplink-online"} & {each["check"] for each in site.everything()})


@made(
    "uplink-problem/warning/seen",
    settings=_patient_folder_store,
    prepare=_start_uplink,
    with_it=("folder-store", "uplink-online"),
    by_hand=_mount_again,
)
def share_away(site: FaultySite) -> None:
    """The share that is the store is gone while examples go to it."""
    (site.folder / "store").rename(site.folder / "away")
    with site.daemon.client() as client, site.daemon.admin() as admin:
        client.classify(TASK, ["refund"])
        admin.seal_examples()
    eventually_sync(lambda: "uplink-problem" in {each["check"] for each in site.everything()})


def _remove_uplink(site: FaultySite) -> None:
    site.edit(uplink={"url": None})
    site.restart()


made(
    "uplink/note/none-is-configured-examples-and-updates-travel-on-a-usb-drive",
    settings=_folder_store,
    asks_nothing=True,
)(_remove_uplink)


@made(
    "uplink-problem/note/f-for-now",
    settings=_object_store,
    prepare=_start_with_store,
    with_it=("uplink-online",),
    by_hand=lambda site: _answering(site, "well", "uplink-online", is_found=False),
)
def store_busy_for_a_moment(site: FaultySite) -> None:
    """The store asks to slow down: beside being offline, that is a note."""
    _answering(site, "503", "uplink-problem")
