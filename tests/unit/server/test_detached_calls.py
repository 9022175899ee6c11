"""An operator's change completes although the caller leaves, and the audit log has its result."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from edge_agent.errors import BundleInUse, QueueFull, RequestCancelled, ShareExceeded
from edge_agent.server.audit_log import FILE_NAME, AuditLog
from edge_agent.server.detached_calls import CHANGES_MAX, ChangeRunner, LatestProgress, OperatorChange, caller_left
from edge_agent.server.roles import Caller
from edge_agent.v1 import admin_pb2
from tests.support.eventually import eventually, given_up, turns

BOSS = Caller("tls boss", frozenset({"admin"}))
INSTALL = OperatorChange(BOSS, "InstallBundle", admin_pb2.InstallBundleRequest(path="/bundle"))


class PendingChange:
    """A change that has started and ends when the test allows it, with an answer or a given error."""

    def __init__(self, error: Exception | None = None) -> None:
        self.began, self.may_end, self.done = asyncio.Event(), asyncio.Event(), False
        self.error = error

    async def __call__(self) -> str:
        self.began.set()
        await self.may_end.wait()
        self.done = True
        if self.error is not None:
            raise self.error
        return "answer"


@pytest.fixture
async def audit(tmp_path: Path) -> AsyncIterator[AuditLog]:
    log = AuditLog(tmp_path, 2**20)
    yield log
    await log.close()


@pytest.fixture
def changes(audit: AuditLog) -> ChangeRunner:
    return ChangeRunner(audit)


def outcomes(folder: Path) -> list[tuple[str, str]]:
    found = [json.loads(line) for line in (folder / FILE_NAME).read_text().splitlines()]
    return [(line["call"], line["outcome"]) for line in found]


async def test_audit_line_is_written_before_the_answer(changes: ChangeRunner, tmp_path: Path) -> None:
    """The audit line of a successful or refused change is written before its caller gets the answer."""
    act = PendingChange()
    act.may_end.set()
    assert "answer" == await changes.run(INSTALL, act)
    assert [("InstallBundle", "OK")] == outcomes(tmp_path)
    act.error = BundleInUse("it answers")
    with structlog.testing.capture_logs() as logged, pytest.raises(BundleInUse):
        await changes.run(INSTALL, act)
    assert [("InstallBundle", "OK"), ("InstallBundle", "BUNDLE_IN_USE")] == outcomes(tmp_path)
    assert [] == logged


@pytest.mark.parametrize(
    ("error", "outcome", "logged"),
    [
        (None, "OK", []),
        (BundleInUse("it answers"), "BUNDLE_IN_USE", ["unattended_call_failed"]),
        (KeyError("bug"), "INTERNAL", ["unattended_call_broke"]),
    ],
)
async def test_audit_line_has_the_result_after_the_caller_left(
    changes: ChangeRunner, tmp_path: Path, error: Exception | None, outcome: str, logged: list[str]
) -> None:
    """The audit line has the result of the change and not that its caller left; an error is logged."""
    act = PendingChange(error)
    call = asyncio.create_task(changes.run(INSTALL, act))
    await act.began.wait()
    await given_up(call)
    assert not act.done
    with structlog.testing.capture_logs() as told:
        act.may_end.set()
        await changes.stop()
    assert act.done
    assert [("InstallBundle", outcome)] == outcomes(tmp_path)
    assert logged == [line["event"] for line in told]


async def test_changes_without_callers_are_bounded(changes: ChangeRunner) -> None:
    """A client that starts changes and leaves is refused at the limit, another still gets a place, and all changes
    end."""
    act = PendingChange()
    for _ in range(CHANGES_MAX):
        call = asyncio.create_task(changes.run(INSTALL, act))
        await turns()
        await given_up(call)
    with pytest.raises(QueueFull, match="64 changes are in progress"):
        await changes.run(INSTALL, act)
    other = asyncio.create_task(changes.run(INSTALL._replace(caller=Caller("admin.sock", frozenset())), act))
    await turns()
    with pytest.raises(ShareExceeded, match="64 changes of tls boss are in progress, and 1 of others"):
        await changes.run(INSTALL, act)
    act.may_end.set()
    assert "answer" == await other
    await changes.stop()
    assert "answer" == await changes.run(INSTALL, act)


async def test_caller_that_does_not_read_does_not_block_a_change(changes: ChangeRunner, tmp_path: Path) -> None:
    """If the caller does not read, older progress messages are dropped and it gets the newest when it reads."""
    written: list[str] = []
    reads = asyncio.Event()

    async def write(message: str) -> None:
        written.append(message)
        await reads.wait()

    async def act(progress: LatestProgress) -> None:
        for message in ("first", "second", "third"):
            await progress.write(message)
            await turns()  # the first is taken, and the reader stops

    call = asyncio.create_task(changes.run_with_progress(INSTALL, act, write))
    await eventually((tmp_path / FILE_NAME).exists)
    reads.set()
    await call
    assert ["first", "third"] == written


async def test_error_is_raised_after_the_last_progress(changes: ChangeRunner) -> None:
    """A caller gets the newest progress message and then the error of the change, which is not logged."""
    written: list[str] = []

    async def write(message: str) -> None:
        written.append(message)

    async def act(progress: LatestProgress) -> None:
        await progress.write("half")
        raise BundleInUse("it answers")

    with structlog.testing.capture_logs() as logged, pytest.raises(BundleInUse):
        await changes.run_with_progress(INSTALL, act, write)
    assert (["half"], []) == (written, logged)


async def test_change_continues_if_the_caller_leaves_during_progress(changes: ChangeRunner, tmp_path: Path) -> None:
    """A change continues if its caller leaves while progress is being sent."""
    began, may_end = asyncio.Event(), asyncio.Event()

    async def write(_: str) -> None:
        began.set()
        await asyncio.Event().wait()

    async def act(progress: LatestProgress) -> None:
        await progress.write("half")
        await may_end.wait()
        await progress.write("whole")

    call = asyncio.create_task(changes.run_with_progress(INSTALL, act, write))
    await began.wait()
    await given_up(call)
    may_end.set()
    await changes.stop()
    assert [("InstallBundle", "OK")] == outcomes(tmp_path)
    assert {asyncio.current_task()} == asyncio.all_tasks()


async def test_change_can_detect_that_its_caller_left(changes: ChangeRunner, tmp_path: Path) -> None:
    """A change that watches its caller can abandon its work and still has its audit line; it does not see other
    callers."""
    left = asyncio.Event()

    async def act() -> None:
        seen = caller_left.get()
        assert seen is not None
        assert not seen.is_set()
        left.set()
        await seen.wait()
        raise RequestCancelled("the caller left")

    call = asyncio.create_task(changes.run(INSTALL, act))
    await left.wait()
    await given_up(call)
    await changes.stop()
    assert [("InstallBundle", "CANCELLED")] == outcomes(tmp_path)
    assert caller_left.get() is None
