"""edge_agent/engine/jobs.py: what the child is told of a job beside its input."""

from __future__ import annotations

import asyncio

import pytest

from edge_agent.engine import protocol
from edge_agent.engine.jobs import Jobs, Limits, ToChild
from edge_agent.engine.quarantine import Quarantine


class Site:
    """Jobs, and a child that takes one at a time and keeps what it is sent."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[protocol.ToChild] = asyncio.Queue()
        self.jobs = Jobs(Limits(queue=10, running=1), Quarantine(60.0), ToChild(lambda: True, self._send))
        self.asked: list[asyncio.Task[object]] = []

    def _send(self, message: protocol.Message) -> None:
        (body,) = protocol.FrameSplitter().feed(protocol.frame(message))
        self.sent.put_nowait(protocol.decode_to_child(body))

    def ask(self, job_id: str, seconds: float, priority: int) -> None:
        """Let a caller ask who waits for so long."""
        run = protocol.Run(job_id=job_id, digest="d", text=job_id)
        deadline = asyncio.get_running_loop().time() + seconds
        self.asked.append(asyncio.create_task(self.jobs.answer(run, deadline, priority, "till")))

    async def next(self) -> protocol.Run:
        """Return the next input that the child is sent."""
        run = await self.sent.get()
        assert isinstance(run, protocol.Run)
        return run

    def finish(self, job_id: str) -> None:
        """Let the child answer."""
        assert self.jobs.finish(protocol.Done(job_id=job_id))


async def test_a_job_says_whose_it_is_and_how_long_its_caller_waits() -> None:
    """Priority and the time that is left go to the child with the input."""
    site = Site()
    site.ask("a", 30.0, 1)
    run = await site.next()
    assert 1 == run.priority
    assert run.seconds == pytest.approx(30.0, abs=1.0)
    site.finish("a")
    await asyncio.gather(*site.asked)


async def test_a_job_that_has_waited_says_what_is_left() -> None:
    """Time in the queue, and with a child that died, is not given twice."""
    site = Site()
    site.ask("first", 30.0, 0)
    site.ask("second", 30.0, 0)
    first = await site.next()
    site.jobs.child_died(to_blame=False)
    site.jobs.pump()
    again = await site.next()
    assert (first.job_id, True) == (again.job_id, 0 < again.seconds < first.seconds)
    site.finish("first")
    second = await site.next()
    assert ("second", True) == (second.job_id, 0 < second.seconds < again.seconds)
    site.finish("second")
    await asyncio.gather(*site.asked)


async def test_a_deadline_that_has_passed_is_not_none() -> None:
    """A caller without any time left is not taken for one who waits for ever."""
    site = Site()
    site.ask("late", -1.0, 0)
    assert 0 < (await site.next()).seconds < 0.01
    site.finish("late")
    await asyncio.gather(*site.asked)
