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
    """Yield an echo engine with a long backoff. At the end no child and no task remains."""
    dependencies = lone_engine(on_change, owner=owner)
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), LONG, Quarantine(60.0), dependencies)
    async with asyncio.timeout(60):
        yield engine
        await engine.child.stop()
    assert ([], {asyncio.current_task()}) == (children(), asyncio.all_tasks())


async def crashed(engine: SupervisedEngine) -> None:
    """Crash the engine's child, so that the engine backs off."""
    await engine.attach(CLASSIFIER)
    await eventually(lambda: engine.child.state is EngineState.READY)
    os.kill(engine.child.pid, signal.SIGKILL)
    await eventually(lambda: engine.child.state is EngineState.BACKING_OFF and not engine.child.pid)


async def assert_ended(engine: SupervisedEngine) -> None:
    """Check that the engine has ended and refuses further calls."""
    await eventually(lambda: engine.child.ended)
    assert (EngineState.STOPPING, 0, True) == (engine.child.state, engine.child.pid, engine.is_alive(1.0))
    with pytest.raises(EngineNotReady):
        await engine.attach(CLASSIFIER)
    with pytest.raises(EngineNotReady):
        await engine.child.restart()


async def test_draining_engine_finishes_with_its_last_child() -> None:
    """A draining engine answers running and further calls; when its child dies, waiting calls are refused, and no other
    child starts."""
    async with engine_of() as engine:
        await engine.attach(CLASSIFIER)
        slow = asyncio.ensure_future(engine.jobs.answer(run("!slow 100 refund"), loop_time() + 10))
        await turns()
        engine.child.drain()
        assert (await slow).result.scores[0] > 0.5
        assert (await engine.jobs.answer(run("refund", "next"), loop_time() + 10)).result.scores[0] > 0.5
        cut = asyncio.ensure_future(engine.jobs.answer(run("!slow 5000 refund"), loop_time() + 10))
        await eventually(lambda: engine.jobs.in_flight == 1)
        os.kill(engine.child.pid, signal.SIGKILL)
        with pytest.raises(EngineNotReady, match="stopping"):
            await cut
        await assert_ended(engine)
        assert 0 == engine.child.restarts


async def test_restart_of_a_draining_engine_is_refused() -> None:
    """A restart of a draining engine is refused, and the running call is answered."""
    async with engine_of() as engine:
        await engine.attach(CLASSIFIER)
        slow = asyncio.ensure_future(engine.jobs.answer(run("!slow 100 refund"), loop_time() + 10))
        await eventually(lambda: engine.jobs.in_flight == 1)
        engine.child.drain()
        child = engine.child.pid
        with pytest.raises(EngineNotReady, match="stopping"):
            await engine.child.restart()
        assert (await slow).result.scores[0] > 0.5
        assert child == engine.child.pid


async def test_draining_engine_ends_its_backoff() -> None:
    """An engine that is told to drain while it backs off ends at once and starts no child."""
    async with engine_of() as engine:
        await crashed(engine)
        engine.child.drain()
        await assert_ended(engine)
        assert 0 == engine.child.restarts


@pytest.mark.parametrize("turn", range(4))
async def test_drain_during_a_start_attaches_or_refuses(turn: int) -> None:
    """In whichever turn of the event loop the drain begins, the bundle is attached to the last child or its caller gets
    an error."""
    async with engine_of() as engine:
        attaching = asyncio.create_task(engine.attach(CLASSIFIER))
        await turns(turn + 1)
        engine.child.drain()
        try:
            await attaching
        except EngineNotReady:
            await assert_ended(engine)
        else:
            assert (await engine.jobs.answer(run("refund"), loop_time() + 10)).result.scores[0] > 0.5


async def test_drain_at_the_death_of_a_child_skips_the_backoff() -> None:
    """An engine that is told to drain between the death of its child and the backoff ends without the backoff."""
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
    """Return a supervisor whose engine dies at its first step and does not restart before `release`."""
    faults.at_start.add("engine echo")
    return Supervisor(sleep=faults.sleep, monotonic=faults.monotonic, wrap=faults.around)


@pytest.mark.parametrize("end", [ChildSupervisor.request_stop, ChildSupervisor.drain])
async def test_attach_to_an_unsupervised_engine_fails_when_it_ends(
    end: Callable[[ChildSupervisor], None],
) -> None:
    """While an engine's supervision is paused after a death, an attach waits for the next child; it fails when the
    engine ends."""
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


async def test_stopping_engine_does_not_end_another_of_its_name() -> None:
    """When one of two engines with the same name stops, the other one still restarts after its pause."""
    faults = InjectedFaults()
    owner = paused(faults)
    async with engine_of(owner) as engine, contextlib.aclosing(_SecondEngine(owner)) as other:
        engine.child.start()
        await eventually(lambda: len(faults.pauses) == 1)
        faults.at_start.add("engine echo")
        attaching = asyncio.create_task(other.engine.attach(CLASSIFIER))
        await eventually(lambda: len(faults.pauses) == 2)
        await engine.child.stop()
        faults.release()
        await attaching
        assert other.engine.ready("classify")


class _SecondEngine:
    """A second engine of the same name and owner."""

    def __init__(self, owner: Supervisor) -> None:
        self.engine = SupervisedEngine(
            "echo", LoadRequest(runtime="echo"), LONG, Quarantine(60.0), lone_engine(owner=owner)
        )

    async def aclose(self) -> None:
        await self.engine.child.stop()
