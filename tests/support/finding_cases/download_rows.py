"""Rows of a repository behind a network: it does not answer, lacks files, or has been away for a day."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.answering_server import AnsweringServer
from tests.support.finding_cases.case import made
from tests.support.finding_cases.exchange_rows import SERVERS
from tests.support.finding_cases.site import FaultySite
from tests.support.finding_cases.update_rows import (
    CENTRAL_TEAMS,
    await_state,
    await_version,
    by_drive,
    publish,
    write_drive,
)
from tests.support.uplink_cases import PATIENT
from tests.support.wall_clock import WallClock

LONGER_THAN_A_DAY = -90_000
SEVEN_HOURS = 7 * 3600
WEIGHTS_BYTES = 3 * 2**20
"""Three pieces: the second one has to wait for a quarter of an hour."""
TIMESTAMP = "/fleet/metadata/timestamp.json"


def from_network(folder: Path) -> Mapping[str, Any]:
    """Give the site a repository at an HTTP server, and nothing to upload."""
    server = SERVERS[folder] = AnsweringServer()
    uplink = {
        **PATIENT,
        "updates_url": f"{server.address}/fleet",
        "updates_options": {"allow_http": "true"},
        "updates_seconds": 1,
        "notes_dir": str(folder / "notes"),
        "disk_reserve_bytes": 0,
    }
    return {**by_drive(folder), "uplink": uplink}


def _offer(site: FaultySite) -> None:
    """Copy the central team's publications to the server."""
    central = CENTRAL_TEAMS[site.folder].folder
    files = (path for path in central.rglob("*") if path.is_file())
    SERVERS[site.folder].objects.update({f"/fleet/{path.relative_to(central)}": path.read_bytes() for path in files})


def _download(site: FaultySite) -> None:
    """Run the uplink until it has downloaded the first version."""
    site.ends.enter_context(SERVERS[site.folder])
    publish(site, "1.0.0")
    _offer(site)
    site.serve("uplink", "uplink")
    await_version(site, "1.0.0")
    site.until(lambda: not {each["check"] for each in site.everything()} & _OFFLINE)


_OFFLINE = {"downloads", "uplink-online", "uplink-problem"}


def _download_by_late_clock(site: FaultySite) -> None:
    """The same with an uplink whose clock is behind: since when it is offline it tells by that clock."""
    (site.folder / "late").mkdir()
    clock = WallClock(site.folder / "late")
    clock.jump(LONGER_THAN_A_DAY)
    site.serve_environment = clock.environment
    _download(site)


def _away(site: FaultySite) -> None:
    SERVERS[site.folder].answer("503")
    site.until_found("downloads")


def _back(site: FaultySite) -> None:
    SERVERS[site.folder].answer("well")
    site.until(lambda: not {each["check"] for each in site.everything()} & _OFFLINE)


fetching: Mapping[str, Any] = {"settings": from_network, "has_task": False, "prepare": _download}

made(
    "downloads/note/f-the-uplink-retries-automatically",
    with_it=("uplink-online", "uplink-problem"),
    asks_nothing=True,
    **fetching,
)(_away)
a_day: Mapping[str, Any] = {**fetching, "prepare": _download_by_late_clock, "by_hand": _back}
made("downloads/warning/seen", with_it=("uplink-online", "uplink-problem"), **a_day)(_away)
made("uplink-online/warning/f-in-a-row", with_it=("downloads", "uplink-problem"), **a_day)(_away)


def _publish_again(site: FaultySite) -> None:
    _offer(site)
    site.until_found("uplink-problem", is_found=False)


@made("uplink-problem/warning/seen-2", by_hand=_publish_again, **fetching)
def repository_emptied(site: FaultySite) -> None:
    """Somebody removed the repository's timestamp; the store answers well."""
    SERVERS[site.folder].objects.pop(TIMESTAMP)
    site.until_found("uplink-problem")


@made("update/warning/-4", **fetching)
def files_come_slowly(site: FaultySite) -> None:
    """The plan allows a thousand bytes per second, and seven hours later the weights are not here; a drive has them."""
    central = CENTRAL_TEAMS[site.folder]
    plan = central.offering(publish(site, "2.0.0", weights=b"2" * WEIGHTS_BYTES))
    capped = plan.channels["stable"].model_copy(update={"bytes_per_second_max": 1000})
    central.plan(plan.model_copy(update={"channels": {"stable": capped}}))
    write_drive(site)
    _offer(site)
    await_state(site, "FETCHING")
    site.daemon.stop()
    with closing(sqlite3.connect(site.daemon.state_dir / "state.db")) as database, database:
        database.execute("UPDATE updates SET since = since - ?", (SEVEN_HOURS,))
    site.restart()
    await_state(site, "FETCHING")
    site.until_found("update")
