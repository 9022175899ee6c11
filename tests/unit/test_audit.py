"""The audit log: who, what, what came of it; bounded, and quiet about what repeats."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import structlog

from edge_agent.service.audit import FILE_NAME, OLDER_NAME, Audit
from edge_agent.service.callers import Caller
from edge_agent.v1 import admin_pb2, feedback_pb2

BOSS = Caller("tls boss", frozenset({"admin"}), "ab" * 32)
TILL = Caller("tls till-3", frozenset({"infer"}), "cd" * 32)
DRAIN = admin_pb2.DrainRequest()
AT = "2026-11-25T18:00:00.000Z"


def audit(folder: Path, bytes_max: int = 2**20) -> Audit:
    return Audit(folder, bytes_max, wall=lambda: 1_795_629_600.0)


def lines(folder: Path, name: str = FILE_NAME) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_change_says_who_did_what(tmp_path: Path) -> None:
    """With the fields that say what it was; the file is for the daemon's user alone."""
    request = admin_pb2.InstallBundleRequest(path="/media/stick/bundle")
    audit(tmp_path).changed(BOSS, "InstallBundle", "OK", request)
    expected = {
        "at": AT,
        "who": "tls boss",
        "certificate": "ab" * 32,
        "roles": ["admin"],
        "call": "InstallBundle",
        "outcome": "OK",
        "path": "/media/stick/bundle",
    }
    assert [expected] == lines(tmp_path)
    assert 0o600 == stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode)


def test_nothing_of_inputs_and_outputs_is_written(tmp_path: Path) -> None:
    """Neither a correction nor a reason; and what a caller writes cannot make a second line."""
    request = feedback_pb2.SubmitFeedbackRequest(prediction_id="p\n{}", corrected_text="secret", reject_reason="secret")
    audit(tmp_path).changed(BOSS, "X", "OK", request)
    assert "secret" not in (tmp_path / FILE_NAME).read_text()
    assert ["p\n{}"] == [line["prediction_id"] for line in lines(tmp_path)]


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    """A path of any length is one short line."""
    audit(tmp_path).changed(BOSS, "InstallBundle", "OK", admin_pb2.InstallBundleRequest(path="/x" * 10_000))
    assert (tmp_path / FILE_NAME).stat().st_size < 1000


def test_denials_that_repeat_are_counted(tmp_path: Path) -> None:
    """A thousand from one client are two lines; each client and call has its own. Metrics count all of them."""
    log = audit(tmp_path)
    for _ in range(1000):
        log.seen(TILL, "Drain", "ROLE_MISSING")
    log.seen(TILL, "GetStatus", "ROLE_MISSING")
    log.seen(TILL, "GetStatus", "OK")
    log.close()
    assert {"ROLE_MISSING": 1001} == log.denied
    found = [(line["call"], line["outcome"], line.get("times_more")) for line in lines(tmp_path)]
    assert [
        ("Drain", "ROLE_MISSING", None),
        ("GetStatus", "ROLE_MISSING", None),
        ("GetStatus", "OK", None),
        ("Drain", "ROLE_MISSING", 999),
    ] == found


def test_changes_are_never_counted_together(tmp_path: Path) -> None:
    """Each has its line."""
    log = audit(tmp_path)
    for _ in range(5):
        log.changed(BOSS, "Drain", "OK", DRAIN)
    assert 5 == len(lines(tmp_path))


def test_the_log_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was there stays."""
    audit(tmp_path).changed(BOSS, "Drain", "OK", DRAIN)
    audit(tmp_path).changed(BOSS, "Drain", "DRAINING", DRAIN)
    assert ["OK", "DRAINING"] == [line["outcome"] for line in lines(tmp_path)]


def test_the_log_is_bounded(tmp_path: Path) -> None:
    """Both files together stay below the limit, and hold the newest lines without a gap."""
    log, bytes_max = audit(tmp_path, 10_000), 10_000
    for number in range(500):
        log.changed(BOSS, "RemoveBundle", "OK", admin_pb2.RemoveBundleRequest(task=str(number)))
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bytes_max
    numbers = [int(line["task"]) for line in (*lines(tmp_path, OLDER_NAME), *lines(tmp_path))]
    assert list(range(numbers[0], 500)) == numbers
    assert len(numbers) > 20


def test_a_disk_that_fails_stops_nothing(tmp_path: Path) -> None:
    """The call goes on, and status says what is missing until it works again."""
    (tmp_path / FILE_NAME).symlink_to("/etc/passwd")
    log = audit(tmp_path)
    with structlog.testing.capture_logs() as logged:
        log.changed(BOSS, "Drain", "OK", DRAIN)
        log.changed(BOSS, "Drain", "OK", DRAIN)
    assert ["audit_not_written"] == [entry["event"] for entry in logged]
    assert "cannot be written" in log.problem
    (tmp_path / FILE_NAME).unlink()
    log.changed(BOSS, "Drain", "OK", DRAIN)
    assert "" == log.problem
