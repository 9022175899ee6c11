"""The audit log: caller, action, result; bounded, without repetitions, and off the event loop."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import structlog

from edge_agent.server.audit_log import (
    AUDIT_TIMEOUTS,
    FILE_NAME,
    OLDER_NAME,
    WAITING_LINES_MAX,
    AuditLog,
    AuditTimeouts,
)
from edge_agent.server.roles import Caller
from edge_agent.v1 import admin_pb2, feedback_pb2
from tests.support.eventually import turns

BOSS = Caller("tls boss", frozenset({"admin"}), "ab" * 32)
TILL = Caller("tls till-3", frozenset({"infer"}), "cd" * 32)
DRAIN = admin_pb2.DrainRequest()
AT = "2026-11-25T18:00:00.000Z"


def audit(
    folder: Path,
    bytes_max: int = 2**20,
    waiting_lines_max: int = WAITING_LINES_MAX,
    timeouts: AuditTimeouts = AUDIT_TIMEOUTS,
) -> AuditLog:
    return AuditLog(folder, bytes_max, lambda: 1_795_629_600.0, waiting_lines_max, timeouts)


def lines(folder: Path, name: str = FILE_NAME) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


async def test_a_change_says_who_did_what(tmp_path: Path) -> None:
    """With the fields that say what it was; the file is for the daemon's user alone."""
    request = admin_pb2.InstallBundleRequest(path="/media/drive/bundle")
    await audit(tmp_path).record_change(BOSS, "InstallBundle", "OK", request)
    expected = {
        "at": AT,
        "who": "tls boss",
        "certificate": "ab" * 32,
        "roles": ["admin"],
        "call": "InstallBundle",
        "outcome": "OK",
        "path": "/media/drive/bundle",
    }
    assert [expected] == lines(tmp_path)
    assert 0o600 == stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode)


async def test_nothing_of_inputs_and_outputs_is_written(tmp_path: Path) -> None:
    """Neither a correction nor a reason; and what a caller writes cannot make a second line."""
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="p\n{}", corrected_text="secret", reject_reason="secret")
    await audit(tmp_path).record_change(BOSS, "X", "OK", request)
    assert "secret" not in (tmp_path / FILE_NAME).read_text()
    assert ["p\n{}"] == [line["prediction_id"] for line in lines(tmp_path)]


async def test_a_long_value_is_cut(tmp_path: Path) -> None:
    """A path of any length is one short line."""
    await audit(tmp_path).record_change(BOSS, "InstallBundle", "OK", admin_pb2.InstallBundleRequest(path="/x" * 10_000))
    assert (tmp_path / FILE_NAME).stat().st_size < 1000


async def test_denials_that_repeat_are_counted(tmp_path: Path) -> None:
    """A thousand from one client are two lines; each client and call has its own. Metrics count all of them."""
    log = audit(tmp_path)
    for _ in range(1000):
        log.note(TILL, "Drain", "ROLE_MISSING")
    log.note(TILL, "GetStatus", "ROLE_MISSING")
    log.note(TILL, "GetStatus", "OK")
    await log.close()
    assert {"ROLE_MISSING": 1001} == log.denied
    found = [(line["call"], line["outcome"], line.get("times_more")) for line in lines(tmp_path)]
    assert [
        ("Drain", "ROLE_MISSING", None),
        ("GetStatus", "ROLE_MISSING", None),
        ("GetStatus", "OK", None),
        ("Drain", "ROLE_MISSING", 999),
    ] == found


async def test_changes_are_never_counted_together(tmp_path: Path) -> None:
    """Each has its line."""
    log = audit(tmp_path)
    for _ in range(5):
        await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert 5 == len(lines(tmp_path))


async def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was there stays."""
    await audit(tmp_path).record_change(BOSS, "Drain", "OK", DRAIN)
    await audit(tmp_path).record_change(BOSS, "Drain", "DRAINING", DRAIN)
    assert ["OK", "DRAINING"] == [line["outcome"] for line in lines(tmp_path)]


async def test_the_log_is_bounded(tmp_path: Path) -> None:
    """Both files together stay below the limit, and hold the newest lines without a gap."""
    log, bytes_max = audit(tmp_path, 10_000), 10_000
    for number in range(500):
        await log.record_change(BOSS, "RemoveBundle", "OK", admin_pb2.RemoveBundleRequest(task=str(number)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bytes_max
    numbers = [int(line["task"]) for line in (*lines(tmp_path, OLDER_NAME), *lines(tmp_path))]
    assert list(range(numbers[0], 500)) == numbers
    assert len(numbers) > 20


async def test_a_disk_that_fails_stops_nothing(tmp_path: Path) -> None:
    """The call continues, and status shows the problem until the log works again."""
    (tmp_path / FILE_NAME).symlink_to("/etc/passwd")
    log = audit(tmp_path)
    with structlog.testing.capture_logs() as logged:
        await log.record_change(BOSS, "Drain", "OK", DRAIN)
        await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert ["audit_not_written"] == [entry["event"] for entry in logged]
    assert "cannot be written" in log.problem
    (tmp_path / FILE_NAME).unlink()
    await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert "" == log.problem


class SlowDisk:
    """The file is a pipe: nothing can be written before somebody reads."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE_NAME
        os.mkfifo(self._path)

    async def read(self, count: int) -> list[str]:
        """Let as many lines be written; return which calls they are of."""

        def taken() -> list[str]:
            # For writing, too: else the file would end whenever the writer has closed it.
            with os.fdopen(os.open(self._path, os.O_RDWR), "rb") as file:
                return [json.loads(file.readline())["call"] for _ in range(count)]

        return await asyncio.to_thread(taken)


async def test_a_slow_disk_stops_the_change_and_nothing_else(tmp_path: Path) -> None:
    """A change waits for its line, the event loop for none; lines are written in the order in which they came."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    change = asyncio.create_task(log.record_change(BOSS, "Drain", "OK", DRAIN))
    await turns()  # it has begun
    log.note(BOSS, "ListBundles", "OK")
    assert not change.done()
    assert ["GetStatus", "Drain", "ListBundles"] == await disk.read(3)
    await change
    await log.close()


async def test_a_line_is_written_whoever_waits_for_it(tmp_path: Path) -> None:
    """Also where the one who does is cancelled while it stands in the queue."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    change = asyncio.create_task(log.record_change(BOSS, "Drain", "OK", DRAIN))
    await turns()
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert ["GetStatus", "Drain"] == await disk.read(2)
    await log.close()


async def test_the_lines_that_wait_are_bounded(tmp_path: Path) -> None:
    """Of what is only seen, what comes while too many wait is not written, and status says so; a change always is."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path, waiting_lines_max=2)
    with structlog.testing.capture_logs() as logged:
        for call in ("GetStatus", "ListBundles", "GetFieldReport"):
            log.note(BOSS, call, "OK")
    assert ["audit_not_written"] == [entry["event"] for entry in logged]
    assert "2 lines wait for the disk" in log.problem
    change = asyncio.create_task(log.record_change(BOSS, "Drain", "OK", DRAIN))
    await turns()
    assert ["GetStatus", "ListBundles", "Drain"] == await disk.read(3)
    await change
    await log.close()


async def test_a_disk_that_hangs_holds_up_neither_a_change_nor_a_stop(tmp_path: Path) -> None:
    """Each waits its time, and status says what is missing; the line is written when the disk comes back."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path, timeouts=AuditTimeouts(0.05, 0.05))
    await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert "the disk has not taken a line for 0.05 s" in log.problem
    with structlog.testing.capture_logs() as logged:
        assert not await log.close()
    assert ["audit_not_closed"] == [entry["event"] for entry in logged]
    assert ["Drain"] == await disk.read(1)


async def test_a_log_that_is_written_is_closed(tmp_path: Path) -> None:
    """A disk that works takes all lines."""
    log = audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    assert await log.close()
    assert ["GetStatus"] == [line["call"] for line in lines(tmp_path)]
