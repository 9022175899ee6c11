"""The audit log has caller, action and result; it is bounded, counts repetitions, and does not block the event loop."""

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


async def test_change_is_logged_with_its_caller_and_result(tmp_path: Path) -> None:
    """A change is logged with caller, certificate, roles, call, outcome and its identifying fields, in a file with mode
    0600."""
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


async def test_inputs_and_outputs_are_not_logged(tmp_path: Path) -> None:
    """Corrections and reasons are not logged, and a line break in a field does not start a second line."""
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="p\n{}", corrected_text="secret", reject_reason="secret")
    await audit(tmp_path).record_change(BOSS, "X", "OK", request)
    assert "secret" not in (tmp_path / FILE_NAME).read_text()
    assert ["p\n{}"] == [line["prediction_id"] for line in lines(tmp_path)]


async def test_long_value_is_truncated(tmp_path: Path) -> None:
    """A path of 20,000 characters makes a line below 1,000 bytes."""
    await audit(tmp_path).record_change(BOSS, "InstallBundle", "OK", admin_pb2.InstallBundleRequest(path="/x" * 10_000))
    assert (tmp_path / FILE_NAME).stat().st_size < 1000


async def test_repeated_denials_are_counted(tmp_path: Path) -> None:
    """A thousand denials of one client and call make two lines, the second with a count; metrics count all."""
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


async def test_every_change_has_its_own_line(tmp_path: Path) -> None:
    """Repeated changes are logged in a line each."""
    log = audit(tmp_path)
    for _ in range(5):
        await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert 5 == len(lines(tmp_path))


async def test_log_is_continued_after_a_restart(tmp_path: Path) -> None:
    """A restarted daemon appends to the log."""
    await audit(tmp_path).record_change(BOSS, "Drain", "OK", DRAIN)
    await audit(tmp_path).record_change(BOSS, "Drain", "DRAINING", DRAIN)
    assert ["OK", "DRAINING"] == [line["outcome"] for line in lines(tmp_path)]


async def test_the_log_is_bounded(tmp_path: Path) -> None:
    """Both files of the log together stay below the limit and have the newest lines without a gap."""
    log, bytes_max = audit(tmp_path, 10_000), 10_000
    for number in range(500):
        await log.record_change(BOSS, "RemoveBundle", "OK", admin_pb2.RemoveBundleRequest(task=str(number)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bytes_max
    numbers = [int(line["task"]) for line in (*lines(tmp_path, OLDER_NAME), *lines(tmp_path))]
    assert list(range(numbers[0], 500)) == numbers
    assert len(numbers) > 20


async def test_failing_disk_does_not_block_changes(tmp_path: Path) -> None:
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
    """A pipe as the log file: a write waits until somebody reads."""

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


async def test_slow_disk_delays_only_the_change(tmp_path: Path) -> None:
    """A change waits for its line and the event loop does not; lines are written in order."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    change = asyncio.create_task(log.record_change(BOSS, "Drain", "OK", DRAIN))
    await turns()  # it has begun
    log.note(BOSS, "ListBundles", "OK")
    assert not change.done()
    assert ["GetStatus", "Drain", "ListBundles"] == await disk.read(3)
    await change
    await log.close()


async def test_line_is_written_although_its_change_is_cancelled(tmp_path: Path) -> None:
    """The line of a change that is cancelled while it is queued is still written."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    change = asyncio.create_task(log.record_change(BOSS, "Drain", "OK", DRAIN))
    await turns()
    change.cancel()
    with pytest.raises(asyncio.CancelledError):
        await change
    assert ["GetStatus", "Drain"] == await disk.read(2)
    await log.close()


async def test_queue_of_lines_is_bounded(tmp_path: Path) -> None:
    """If too many lines wait, those of calls that only read are dropped and status reports it; those of changes are
    always written."""
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


async def test_hanging_disk_blocks_neither_a_change_nor_the_stop(tmp_path: Path) -> None:
    """A change and the stop each wait up to their timeout, status reports it, and the line is written when the disk
    responds."""
    disk, log = SlowDisk(tmp_path), audit(tmp_path, timeouts=AuditTimeouts(0.05, 0.05))
    await log.record_change(BOSS, "Drain", "OK", DRAIN)
    assert "the disk has not taken a line for 0.05 s" in log.problem
    with structlog.testing.capture_logs() as logged:
        assert not await log.close()
    assert ["audit_not_closed"] == [entry["event"] for entry in logged]
    assert ["Drain"] == await disk.read(1)


async def test_close_waits_for_all_lines(tmp_path: Path) -> None:
    """With a working disk, `close` returns after all lines are written."""
    log = audit(tmp_path)
    log.note(BOSS, "GetStatus", "OK")
    assert await log.close()
    assert ["GetStatus"] == [line["call"] for line in lines(tmp_path)]
