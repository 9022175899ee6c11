"""An engine that must start no further child, or is no longer supervised, ends all waiting calls."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable

import pytest

from edge_agent.engine.child_process import loop_time
from edge_agent.engine.child_supervisor import ChildSupervisor, EngineState
from edge_agent.engine.engine import SupervisedEngine
from edge_agent.engine.protocol import AttachRequest, LoadRequest
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.errors import EngineNotReady
from edge_agent.formats.manifest import encode
from edge_agent.supervision import Supervisor
from tests.process.test_engine import CLASSIFY, CONFIG, run
from tests.process.test_engine_lifecycle import children
from tests.support.eventually import eventually, turns
from tests.support.injected_faults import InjectedFaults
from tests.support.lone_engine import lone_engine

# A pause that no test waits for.
LONG = CONFIG.model_copy(update={"restart_seconds_first": 600.0, "restart_seconds_max": 600.0})
CLASSIFIER = AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={})


@contextlib.asynccontextmanager
async def engine_of(
    owner: Supervisor | None = None, on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[SupervisedEngine]:
    """An echo engine that backs off for long. At its end no child and no task is left."""
    dependencies = lone_engine(on_change, owner=owner)
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), LONG, Quarantine(60.0), dependencies)
    async with asyncio.timeout(60):
        yield engine
        await engine.child.stop()
    assert ([], {asyncio.current_task()}) == (children(), asyncio.all_tasks())


async def crashed(engine: SupervisedEngine) -> None:
    """Let it back off."""
    await engine.attach(CLASSIFIER)
    await eventually(lambda: engine.child.state is EngineState.READY)
    os.kill(engine.child.pid, signal.SIGKILL)
    await eventually(lambda: engine.child.state is EngineState.BACKING_OFF and not engine.child.pid)


async def assert_ended(engine: SupervisedEngine) -> None:
    """It has ended, and says so to whoever asks more of it."""
    await eventually(lambda: engine.child.ended)
    assert (EngineState.STOPPING, 0, True) == (engine.child.state, engine.child.pid, engine.is_alive(1.0))
    with pytest.raises(EngineNotReady):
        await engine.attach(CLASSIFIER)
    with pytest.raises(EngineNotReady):
        await engine.child.restart()


async def test_the_child_that_runs_finishes_what_it_has_and_is_the_last() -> None:
    """A call that runs is answered, further ones too; when the child dies there is no other, and who waits is told."""
    async with engine_of() as engine:
        await engine.attach(CLASSIFIER)
        slow = asyncio.ensure_future(engine.answer(run("!slow 100 refund"), loop_time() + 10))
        await turns()
        engine.child.drain()
        assert (await slow).result.scores[0] > 0.5
        assert (await engine.answer(run("refund", "next"), loop_time() + 10)).result.scores[0] > 0.5
        cut = asyncio.ensure_future(engine.answer(run("!slow 5000 refund"), loop_time() + 10))
        await eventually(lambda: engine.jobs.in_flight == 1)
        os.kill(engine.child.pid, signal.SIGKILL)
        with pytest.raises(EngineNotReady, match="stopping"):
            await cut
        await assert_ended(engine)
        assert 0 == engine.child.restarts


async def test_a_restart_does_not_kill_the_last_child() -> None:
    """Who asks for one while the engine drains is told, and the call that runs is answered."""
    async with engine_of() as engine:
        await engine.attach(CLASSIFIER)
        slow = asyncio.ensure_future(engine.answer(run("!slow 100 refund"), loop_time() + 10))
        await eventually(lambda: engine.jobs.in_flight == 1)
        engine.child.drain()
        child = engine.child.pid
        with pytest.raises(EngineNotReady, match="stopping"):
            await engine.child.restart()
        assert (await slow).result.scores[0] > 0.5
        assert child == engine.child.pid


async def test_a_pause_before_a_child_ends() -> None:
    """An engine that backs off starts no child any more, and has ended at once."""
    async with engine_of() as engine:
        await crashed(engine)
        engine.child.drain()
        await assert_ended(engine)
        assert 0 == engine.child.restarts


@pytest.mark.parametrize("turn", range(4))
async def test_a_child_that_is_just_being_started_is_not_or_is_the_last(turn: int) -> None:
    """In whichever turn of the event loop: the bundle is attached to the last child, or its caller is told."""
    async with engine_of() as engine:
        attaching = asyncio.create_task(engine.attach(CLASSIFIER))
        await turns(turn + 1)
        engine.child.drain()
        try:
            await attaching
        except EngineNotReady:
            await assert_ended(engine)
        else:
            assert (await engine.answer(run("refund"), loop_time() + 10)).result.scores[0] > 0.5


async def test_no_pause_begins_while_an_engine_drains() -> None:
    """Told to drain as its child has died and is not yet put away, it ends without the pause that would have come."""
    told: list[EngineState] = []

    def drain_as_it_dies() -> None:
        if engine.child.state is EngineState.BACKING_OFF and engine.child.pid and not told:
            told.append(engine.child.state)
            engine.child.drain()

    async with engine_of(on_change=drain_as_it_dies) as engine:
        await engine.attach(CLASSIFIER)
        await eventually(lambda: engine.child.state is EngineState.READY)
        os.kill(engine.child.pid, signal.SIGKILL)
        await eventually(lambda: bool(told))
        await assert_ended(engine)


def paused(faults: InjectedFaults) -> Supervisor:
    """Return an owner whose engine dies at its first step, and is not started again before `release`."""
    faults.at_start.add("engine echo")
    return Supervisor(sleep=faults.sleep, monotonic=faults.monotonic, wrap=faults.around)


@pytest.mark.parametrize("end", [ChildSupervisor.request_stop, ChildSupervisor.drain])
async def test_who_waits_for_an_engine_that_nobody_supervises_is_told_when_it_ends(
    end: Callable[[ChildSupervisor], None],
) -> None:
    """What supervised it has died and pauses: the attach that waits for the next child ends with an error."""
    faults = InjectedFaults()
    async with engine_of(paused(faults)) as engine:
        attaching = asyncio.create_task(engine.attach(CLASSIFIER))
        await eventually(lambda: len(faults.pauses) == 1)
        end(engine.child)
        with pytest.raises(EngineNotReady, match="stopping"):
            await engine.attach(CLASSIFIER)
        with pytest.raises(EngineNotReady, match="stopping"):
            await attaching
        await assert_ended(engine)


async def test_an_engine_that_stops_ends_no_other_of_its_name() -> None:
    """The next engine on a base has the name of the one before, and is started again after its pause."""
    faults = InjectedFaults()
    owner = paused(faults)
    async with engine_of(owner) as engine, contextlib.aclosing(_Other(owner)) as other:
        engine.child.start()
        await eventually(lambda: len(faults.pauses) == 1)
        faults.at_start.add("engine echo")
        attaching = asyncio.create_task(other.engine.attach(CLASSIFIER))
        await eventually(lambda: len(faults.pauses) == 2)
        await engine.child.stop()
        faults.release()
        await attaching
        assert other.engine.ready("classify")


class _Other:
    """A second engine of the same name and owner."""

    def __init__(self, owner: Supervisor) -> None:
        self.engine = SupervisedEngine(
            "echo", LoadRequest(runtime="echo"), LONG, Quarantine(60.0), lone_engine(owner=owner)
        )

    async def aclose(self) -> None:
        await self.engine.child.stop()
