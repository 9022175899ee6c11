"""Changes of one task run one after the other, those of different tasks together; work whose caller leaves is
cancelled."""

from __future__ import annotations

import asyncio
import functools

import pytest

from edge_agent.errors import ModelLoadFailed, RequestCancelled
from edge_agent.update.activation import TaskChanges, run_unless_left
from tests.support.eventually import turns


async def test_only_changes_of_the_same_task_wait() -> None:
    """The second change of a task waits for the first, a change of another task starts at once, and no lock remains
    afterwards."""
    may_end, began, reported = asyncio.Event(), list[str](), list[int]()

    async def report() -> None:
        reported.append(len(began))

    changes = TaskChanges(report)

    async def change(task: str) -> None:
        began.append(task)
        await may_end.wait()

    async with asyncio.TaskGroup() as group:
        for task in ("a", "a", "b"):
            group.create_task(changes.run(task, functools.partial(change, task)))
        await turns(2)
        assert (["a", "b"], []) == (began, reported)
        may_end.set()
    assert (["a", "b", "a"], [2, 2, 3]) == (began, reported)
    assert {} == changes._locks == changes._users


async def test_work_returns_its_result_while_its_caller_waits() -> None:
    """`run_unless_left` returns the result or raises the error of the work, also if no event can announce that the
    caller leaves."""

    async def works() -> int:
        await turns()
        return 7

    async def fails() -> None:
        raise ModelLoadFailed("no")

    for left in (None, asyncio.Event()):
        assert 7 == await run_unless_left(left, works())
        with pytest.raises(ModelLoadFailed):
            await run_unless_left(left, fails())


async def test_work_is_cancelled_when_its_caller_leaves() -> None:
    """Work whose caller leaves is cancelled and has ended before RequestCancelled is raised."""
    left, ended = asyncio.Event(), list[bool]()

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await turns()
            ended.append(True)

    waiting = asyncio.create_task(run_unless_left(left, work()))
    await turns()
    left.set()
    with pytest.raises(RequestCancelled):
        await waiting
    assert [True] == ended


async def test_cancelled_change_leaves_no_task_behind() -> None:
    """If the change itself is cancelled, its work ends with it."""
    waiting = asyncio.create_task(run_unless_left(asyncio.Event(), asyncio.Event().wait()))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {asyncio.current_task()} == asyncio.all_tasks()
