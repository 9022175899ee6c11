"""Whether engines are seen to compute: over real children that are stopped, killed, busy, or lose their work."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.engine import patience_seconds
from edge_agent.engine.pool import EnginePool
from edge_agent.errors import ModelLoadFailed
from edge_agent.formats.manifest import Manifest, PromptTemplate, TaskSpec, encode
from tests.process.test_engine import CLASSIFY, CONFIG, answer, child, pool_of, run, running
from tests.support.eventually import eventually

# Patience is then a tenth of a second and what PATIENCE_SECONDS_MIN adds.
QUICK = CONFIG.model_copy(update={"heartbeat_seconds_max": 0.1})


def told_to(order: str) -> Manifest:
    """A bundle that does as ordered with every text."""
    task = TaskSpec(
        name="intent", kind="classify", labels=("a", "b"), prompt=PromptTemplate(template=f"{order}\n{{input}}")
    )
    return Manifest(task=task, version="1.0.0", runtime="echo")


async def alone(pool: EnginePool, manifest: Manifest) -> None:
    """Attach it as the only bundle of its engine."""
    await pool.attach("only", manifest, encode(manifest), {})
    await pool.detach("classify", 0)
    await pool.detach("generate", 0)
    await ready(pool)


async def ready(pool: EnginePool) -> None:
    """Wait until the engine notes that all is loaded: until then nothing is asked of it."""
    await eventually(lambda: pool.statuses()[0].state is EngineState.READY)


async def test_an_idle_engine_is_asked_and_answers() -> None:
    """Without calls an engine is sent a tiny request at each look, one at a time, and is not stuck."""
    async with pool_of() as pool:
        await ready(pool)
        for _ in range(5):
            assert [] == pool.stuck(0.0)
            await eventually(lambda: running(pool, "classify") == 0)
        assert 0 == pool.statuses()[0].restarts


async def test_what_the_watchdog_asks_counts_nowhere() -> None:
    """The tally of a bundle, by which probation judges it, knows only what somebody asked."""
    async with pool_of() as pool:
        await alone(pool, told_to("!slow 50"))
        assert [] == pool.stuck(0.0)
        await eventually(lambda: running(pool, "only") == 1)
        await eventually(lambda: running(pool, "only") == 0)
        assert (0, 0) == (pool.stats("only").calls, pool.stats("only").timed)


async def test_an_engine_that_works_is_not_asked() -> None:
    """Calls are signs enough: neither while one is computed nor soon after one does the watchdog add its own."""
    async with pool_of() as pool:
        await ready(pool)
        busy = asyncio.create_task(answer(pool, run("!slow 300")))
        await eventually(lambda: running(pool, "classify") == 1)
        assert [] == pool.stuck(0.0)
        assert 1 == running(pool, "classify")
        await busy
        assert [] == pool.stuck(60.0)
        assert 0 == running(pool, "classify")


@pytest.mark.slow
async def test_an_engine_that_loses_what_it_is_given_is_stuck() -> None:
    """A child that answers pings and no request is alive for its engine, and stuck for the watchdog."""
    async with pool_of() as pool:
        await alone(pool, told_to("!lose"))
        (name,) = (each.name for each in pool.statuses())
        await eventually(lambda: pool.stuck(0.0) == [name], CONFIG.load_seconds_max)
        assert (EngineState.READY, 0) == (pool.statuses()[0].state, pool.statuses()[0].restarts)


async def test_an_error_is_an_answer() -> None:
    """An engine that fails every request computes; what is wrong is the bundle, and no restart mends that."""
    async with pool_of(QUICK) as pool:
        await alone(pool, told_to("!fail"))
        for _ in range(3):
            assert [] == pool.stuck(0.0)
            await eventually(lambda: running(pool, "only") == 0)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
async def test_a_child_at_fault_is_its_engines_to_mend(signum: signal.Signals) -> None:
    """While a stopped or killed child is found and replaced, the daemon is not stuck, and afterwards neither."""
    async with pool_of() as pool:
        before = child(pool)
        os.kill(before, signum)
        seen: set[str] = set()

        def replaced() -> bool:
            seen.update(pool.stuck(0.0))
            return child(pool) not in (0, before) and pool.ready("classify")

        await eventually(replaced)
        await eventually(lambda: pool.stuck(0.0) == [] and running(pool, "classify") == 0)
        assert set() == seen


async def test_an_engine_that_never_loads_is_not_stuck(tmp_path: Path) -> None:
    """A bundle that does not load is the bundle's fault: a daemon that restarted for it would do so for ever."""
    pool = EnginePool(CONFIG, lambda: None)
    with pytest.raises(ModelLoadFailed):
        await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {"weights": tmp_path / "gone"}, keep=True)
    await eventually(lambda: pool.failure("classify") != "")
    assert [] == pool.stuck(0.0)
    await pool.stop()


async def test_a_site_without_bundles_is_not_stuck() -> None:
    """Nothing is installed: nothing has to compute."""
    assert [] == EnginePool(CONFIG, lambda: None).stuck(0.0)


def test_patience_outlasts_the_engines_own_cure() -> None:
    """The watchdog waits longer than it takes an engine to find and kill a silent child, whatever is configured."""
    for heartbeat in (0.1, 30.0, 3600.0):
        assert patience_seconds(heartbeat) > 1.25 * heartbeat


async def test_a_request_that_is_called_off_leaves_no_debt() -> None:
    """A sign that was owed while a call ran is asked for when its caller goes away."""
    async with pool_of() as pool:
        await alone(pool, told_to("!slow 50"))
        lost = asyncio.create_task(answer(pool, run("!lose", digest="only"), 30))
        await eventually(lambda: running(pool, "only") == 1)
        assert [] == pool.stuck(0.0)
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        assert [] == pool.stuck(0.0)
        await eventually(lambda: pool.statuses()[0].pending == 1)
        await eventually(lambda: pool.statuses()[0].pending == 0)
        assert [] == pool.stuck(60.0)
