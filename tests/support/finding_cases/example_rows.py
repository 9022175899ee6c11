"""Rows of captured examples: the disk does not finish a write, the spool cannot be opened, examples were given up."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.support.finding_cases.case import made
from tests.support.finding_cases.disk_rows import own_disk
from tests.support.finding_cases.exchange_rows import COLLECTED, collecting
from tests.support.finding_cases.site import TASK, FaultySite
from tests.support.reason_cases.uplink_cases import IDENTITY

QUEUED_MAX = 4
SCHEMA_AT, PAGE_BYTES = 100, 4096
"""Where SQLite keeps the names of the tables: behind the header, to the end of the first page."""


def _captured(folder: Path) -> Mapping[str, Any]:
    """Let examples be captured on a disk of their own, with little room in memory."""
    examples = {"collect": {TASK: "local"}, "commit_seconds": 0.05, "disk_reserve_bytes": 0}
    return {**own_disk(folder), "examples": {**examples, "queue_examples_max": QUEUED_MAX}}


def _release_disk(site: FaultySite) -> None:
    site.releases.callback(subprocess.run, ["fsfreeze", "-u", str(site.daemon.state_dir)], capture_output=True)
    site.ends.callback(subprocess.run, ["umount", "-l", str(site.daemon.state_dir)], check=True)


def _freeze(site: FaultySite) -> None:
    subprocess.run(["fsfreeze", "-f", str(site.daemon.state_dir)], check=True)


def _thaw(site: FaultySite) -> None:
    subprocess.run(["fsfreeze", "-u", str(site.daemon.state_dir)], check=True)
    site.until_found("examples-stalled", is_found=False)


def _classify(site: FaultySite, count: int) -> None:
    with site.daemon.client() as client:
        client.classify(TASK, [f"refund {number}" for number in range(count)])


@made("examples-stalled/fault/problem-message", settings=_captured, prepare=_release_disk, by_hand=_thaw)
def disk_hangs(site: FaultySite) -> None:
    """The disk takes writes and does not finish them."""
    _freeze(site)
    _classify(site, 1)
    site.until_found("examples-stalled")


def _lose(site: FaultySite) -> None:
    """More answers come than fit in memory while the disk hangs."""
    _freeze(site)
    _classify(site, 1)
    site.until_found("examples-stalled")
    _classify(site, 4 * QUEUED_MAX)
    _thaw(site)
    site.until_found("examples-lost")


def _one_day_later(key: str, value: int, kind: str) -> Callable[[FaultySite], None]:
    """Raise a limit, as the remedy says, and let the spool look as if the daemon had run for a day since."""

    def pass_a_day(site: FaultySite) -> None:
        site.edit(examples={key: value})
        site.daemon.stop()
        with closing(sqlite3.connect(site.daemon.state_dir / "spool.db")) as database, database:
            database.execute("UPDATE meta SET value = value - 86400 WHERE name = ?", (f"loss_clock_{kind}",))
        site.restart()

    return pass_a_day


made(
    "examples-lost/warning/",
    settings=_captured,
    prepare=_release_disk,
    by_hand=_one_day_later("queue_examples_max", 1000, "lost"),
)(_lose)


def _small_spool(_: Path) -> Mapping[str, Any]:
    return {"site": IDENTITY, "examples": {**COLLECTED, "spool_bytes_max": 2**20}}


@made(
    "examples-lost/note/",
    settings=_small_spool,
    with_it=("spool",),
    by_hand=_one_day_later("spool_bytes_max", 2**28, "evicted"),
)
def spool_full(site: FaultySite) -> None:
    """More was captured than the spool may hold, and the oldest made room."""

    def is_evicting() -> bool:
        with site.daemon.client() as client, site.daemon.admin() as admin:
            client.classify(TASK, ["refund" * 500] * 64)
            examples = admin.status().examples
        return examples is not None and "evicted" in examples.loss_seconds

    site.until(is_evicting)


def _move_away(site: FaultySite) -> None:
    """Do what the sentence of the finding says."""
    site.daemon.stop()
    for path in site.daemon.state_dir.glob("spool.db*"):
        path.rename(site.folder / path.name)
    site.restart()


@made("examples-kept/fault/problem-message", settings=collecting, by_hand=_move_away)
def spool_damaged(site: FaultySite) -> None:
    """The disk lost a part of the spool while the daemon was stopped."""
    site.daemon.stop()
    path = site.daemon.state_dir / "spool.db"
    with path.open("r+b") as file:
        file.seek(SCHEMA_AT)
        file.write(bytes(PAGE_BYTES - SCHEMA_AT))
    site.restart()
    site.until_found("examples-kept")
