"""The tools of the cancellation sweep: cancelling a call at a chosen await, and listing what it still holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.server.admission_control import AdmissionControl
from tests.support.cancelling.cancellation_points import CancellationPoint, CancellationPoints, How
from tests.support.cancelling.held_resources import HeldResources, held
from tests.support.eventually import turns


@pytest_asyncio.fixture
async def points() -> AsyncIterator[CancellationPoints]:
    made = CancellationPoints(asyncio.get_running_loop())
    yield made
    made.close()


async def _handle_exceptions(steps: list[str], futures: list[asyncio.Future[None]]) -> None:
    """Stand in for the gRPC coroutine of this name, which runs a call."""
    for number, future in enumerate(futures, 1):
        try:
            await future
        except asyncio.CancelledError:
            steps.append(f"cancelled at {number}, which was {'cancelled' if future.cancelled() else 'done'}")
            raise
        steps.append(f"passed {number}")


async def _run(points: CancellationPoints, at: CancellationPoint | None) -> list[str]:
    steps: list[str] = []
    loop = asyncio.get_running_loop()
    futures = [loop.create_future() for _ in range(3)]
    points.aim(at, lambda: steps.append("left"))
    call = asyncio.create_task(_handle_exceptions(steps, futures))
    for future in futures:
        await turns(3)
        if not future.done():
            future.set_result(None)
    await asyncio.gather(call, return_exceptions=True)
    assert points.handled
    return steps


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("waiting", ["passed 1", "cancelled at 2, which was cancelled"]),
        ("waking", ["passed 1", "cancelled at 2, which was done"]),
        ("wire", ["passed 1", "left", "passed 2", "passed 3"]),
    ],
)
async def test_call_is_cancelled_at_the_chosen_await(points: CancellationPoints, how: How, expected: list[str]):
    """The call is cancelled while it waits there, after the await before it continues, or by its client."""
    assert expected == await _run(points, CancellationPoint("own", how, 2))
    assert points.reached.is_set()


async def test_point_beyond_the_last_await_cancels_nothing(points: CancellationPoints):
    """A call with three awaits is not cancelled at a fourth, and its awaits are counted."""
    assert ["passed 1", "passed 2", "passed 3"] == await _run(points, CancellationPoint("own", "waiting", 4))
    assert not points.reached.is_set()
    assert {"own": 3, "begun": 0} == points.passed


async def test_awaits_of_started_tasks_are_points(points: CancellationPoints):
    """A call can be cancelled at the second await of a task that it started; a shielded task continues."""
    steps: list[str] = []
    waits = [asyncio.get_running_loop().create_future() for _ in range(2)]

    async def begun() -> None:
        for wait in waits:
            await wait
        steps.append("the task has ended")

    async def handler() -> Any:
        return await asyncio.shield(asyncio.create_task(begun()))

    handler.__qualname__ = "_handle_exceptions"
    points.aim(CancellationPoint("begun", "waiting", 2), lambda: None)
    call = asyncio.create_task(handler())
    for wait in waits:
        await turns(3)
        wait.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await call
    await turns(3)
    assert ["the task has ended"] == steps
    assert {"own": 1, "begun": 2} == points.passed


async def test_held_resources_are_listed(tmp_path: Path):
    """A place that was not released, a task, a lock, a descriptor and a file are each listed."""
    admission = AdmissionControl(4, 1.0)
    admission.lock = asyncio.Lock()
    before = held(admission, tmp_path)
    assert [] == before.beyond(before)
    place = admission.call("till")
    task = asyncio.create_task(asyncio.Event().wait())
    await admission.lock.acquire()
    with (tmp_path / "staging").open("wb"):
        said = held(admission, tmp_path).beyond(before)
    task.cancel()
    assert [
        "1 more of task Event.wait",
        f"1 more open: {tmp_path}/staging",
        "AdmissionControl.lock is locked",
        "AdmissionControl.calls has 1; before 0",
        "AdmissionControl._by_client has 1; before 0",
        "a new file: staging",
    ] == sorted(said, key=said.index)
    assert place is not None


def test_missing_resources_are_listed():
    """A child and a file that should exist but do not are listed."""
    before = HeldResources(files=frozenset({"blobs/1"}), children=1)
    assert ["0 children; before 1", "a file is gone: blobs/1"] == HeldResources().beyond(before)
