"""The tools of the cancellation sweep: leaving a call at one exact await, and seeing what is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from edge_agent.server.admission_control import AdmissionControl
from tests.support.cancelling.held import Held, held
from tests.support.cancelling.points import How, Point, Points
from tests.support.eventually import turns


@pytest_asyncio.fixture
async def points() -> AsyncIterator[Points]:
    made = Points(asyncio.get_running_loop())
    yield made
    made.close()


async def _handle_exceptions(steps: list[str], futures: list[asyncio.Future[None]]) -> None:
    """Stand for what gRPC runs a call in: it goes by this name."""
    for number, future in enumerate(futures, 1):
        try:
            await future
        except asyncio.CancelledError:
            steps.append(f"cancelled at {number}, which was {'cancelled' if future.cancelled() else 'done'}")
            raise
        steps.append(f"passed {number}")


async def _run(points: Points, at: Point | None) -> list[str]:
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
async def test_a_call_is_left_at_the_await_that_was_chosen(points: Points, how: How, expected: list[str]):
    """It is cancelled while it waits there, when that is over and it has not gone on, or by its client."""
    assert expected == await _run(points, Point("own", how, 2))
    assert points.reached.is_set()


async def test_a_point_that_is_not_there_leaves_nobody(points: Points):
    """A call that passes through three awaits is not cancelled at its fourth; the awaits are counted."""
    assert ["passed 1", "passed 2", "passed 3"] == await _run(points, Point("own", "waiting", 4))
    assert not points.reached.is_set()
    assert {"own": 3, "begun": 0} == points.passed


async def test_awaits_of_what_a_call_begins_are_points_too(points: Points):
    """A call is cancelled when a task that it began waits for the second time; that task goes on if it is shielded."""
    steps: list[str] = []
    waits = [asyncio.get_running_loop().create_future() for _ in range(2)]

    async def begun() -> None:
        for wait in waits:
            await wait
        steps.append("the task has ended")

    async def handler() -> Any:
        return await asyncio.shield(asyncio.create_task(begun()))

    handler.__qualname__ = "_handle_exceptions"
    points.aim(Point("begun", "waiting", 2), lambda: None)
    call = asyncio.create_task(handler())
    for wait in waits:
        await turns(3)
        wait.set_result(None)
    with pytest.raises(asyncio.CancelledError):
        await call
    await turns(3)
    assert ["the task has ended"] == steps
    assert {"own": 1, "begun": 2} == points.passed


async def test_what_is_held_is_seen(tmp_path: Path):
    """A place that was not given back, a task, a lock, a descriptor and a file are each named."""
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


def test_what_is_gone_is_seen():
    """A task that should be there, and a file, are missed."""
    before = Held(files=frozenset({"blobs/1"}), children=1)
    assert ["0 children; before 1", "a file is gone: blobs/1"] == Held().beyond(before)
