"""Changes of one task take turns, those of others do not wait; work whose caller leaves is given up."""

from __future__ import annotations

import asyncio
import functools

import pytest

from edge_agent.errors import ModelLoadFailed, RequestCancelled
from edge_agent.update.activation import TaskChanges, run_unless_left
from tests.support.eventually import turns


async def test_only_changes_of_the_same_task_wait() -> None:
    """The second of a task waits for the first, that of another begins at once; nothing is kept of them."""
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


async def test_work_goes_on_while_its_caller_is_there() -> None:
    """Its result, or its error, is what comes of it; without a caller to look at, too."""

    async def works() -> int:
        await turns()
        return 7

    async def fails() -> None:
        raise ModelLoadFailed("no")

    for left in (None, asyncio.Event()):
        assert 7 == await run_unless_left(left, works())
        with pytest.raises(ModelLoadFailed):
            await run_unless_left(left, fails())


async def test_work_ends_when_its_caller_leaves() -> None:
    """It is cancelled, has ended when that is said, and says so as a request that was cancelled."""
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


async def test_who_is_cancelled_leaves_no_task_behind() -> None:
    """Where the change itself is cancelled its work ends with it."""
    waiting = asyncio.create_task(run_unless_left(asyncio.Event(), asyncio.Event().wait()))
    await turns()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert {asyncio.current_task()} == asyncio.all_tasks()
