"""How the watchdog checks that engines compute: over real children that are stopped, killed, busy, or lose their
work."""

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
    """Return a bundle that executes this order with every text."""
    task = TaskSpec(
        name="intent", kind="classify", labels=("a", "b"), prompt=PromptTemplate(template=f"{order}\n{{input}}")
    )
    return Manifest(task=task, version="1.0.0", runtime="echo")


async def alone(pool: EnginePool, manifest: Manifest) -> None:
    """Attach the bundle as the only one of its engine."""
    await pool.attach("only", manifest, encode(manifest), {})
    await pool.detach("classify", 0)
    await pool.detach("generate", 0)
    await ready(pool)


async def ready(pool: EnginePool) -> None:
    """Wait until the engine has loaded everything: until then it gets no request."""
    await eventually(lambda: pool.statuses()[0].state is EngineState.READY)


async def test_idle_engine_gets_a_request_at_each_check() -> None:
    """At each check an idle engine gets one tiny request, answers it, and is not reported as stuck."""
    async with pool_of() as pool:
        await ready(pool)
        for _ in range(5):
            assert [] == pool.stuck(0.0)
            await eventually(lambda: running(pool, "classify") == 0)
        assert 0 == pool.statuses()[0].restarts


async def test_watchdog_requests_are_not_counted() -> None:
    """The statistics of a bundle, by which probation judges it, do not count requests of the watchdog."""
    async with pool_of() as pool:
        await alone(pool, told_to("!slow 50"))
        assert [] == pool.stuck(0.0)
        await eventually(lambda: running(pool, "only") == 1)
        await eventually(lambda: running(pool, "only") == 0)
        assert (0, 0) == (pool.stats("only").calls, pool.stats("only").timed)


async def test_busy_engine_gets_no_watchdog_request() -> None:
    """The watchdog sends no request while an engine computes a call, nor soon after one."""
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
async def test_engine_that_loses_its_requests_is_stuck() -> None:
    """A child that answers pings but no request is ready for its engine and stuck for the watchdog."""
    async with pool_of() as pool:
        await alone(pool, told_to("!lose"))
        (name,) = (each.name for each in pool.statuses())
        await eventually(lambda: pool.stuck(0.0) == [name], CONFIG.load_seconds_max)
        assert (EngineState.READY, 0) == (pool.statuses()[0].state, pool.statuses()[0].restarts)


async def test_engine_that_fails_every_request_is_not_stuck() -> None:
    """An engine that answers every request with an error is not stuck: the bundle is at fault, and a restart would not
    help."""
    async with pool_of(QUICK) as pool:
        await alone(pool, told_to("!fail"))
        for _ in range(3):
            assert [] == pool.stuck(0.0)
            await eventually(lambda: running(pool, "only") == 0)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGSTOP, signal.SIGKILL])
async def test_stopped_or_killed_child_is_replaced_without_a_stuck_report(signum: signal.Signals) -> None:
    """While an engine replaces a stopped or killed child, and afterwards, the watchdog does not report the engine as
    stuck."""
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
    """An engine whose bundle does not load is not stuck: a restart of the daemon would repeat without end."""
    pool = EnginePool(CONFIG, lambda: None)
    with pytest.raises(ModelLoadFailed):
        await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {"weights": tmp_path / "gone"}, keep=True)
    await eventually(lambda: pool.failure("classify") != "")
    assert [] == pool.stuck(0.0)
    await pool.stop()


async def test_a_site_without_bundles_is_not_stuck() -> None:
    """A site on which no bundle is installed has no stuck engine."""
    assert [] == EnginePool(CONFIG, lambda: None).stuck(0.0)


def test_watchdog_waits_longer_than_the_heartbeat_limit() -> None:
    """For every configured heartbeat the watchdog waits longer than an engine needs to find and kill a silent child."""
    for heartbeat in (0.1, 30.0, 3600.0):
        assert patience_seconds(heartbeat) > 1.25 * heartbeat


async def test_cancelled_request_does_not_make_an_engine_stuck() -> None:
    """When the caller of a lost request cancels it, the watchdog sends a request of its own, and the engine is not
    stuck."""
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
