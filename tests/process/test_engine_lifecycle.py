"""How an engine starts, starts again and ends: without descriptors, when callers leave, and when two things happen at
once. Real child processes, driven by the echo runtime."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import os
import resource
import signal
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.child_process import ChildProcess, loop_time
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.engine import SupervisedEngine
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import FRAME_BYTES_MAX, AttachRequest, LoadRequest
from edge_agent.engine.restart_policy import Quarantine
from edge_agent.errors import EngineNotReady, InputTooLong, MemoryShort, RequirementUnmet
from edge_agent.formats.manifest import Manifest, Requires, TaskSpec, encode
from edge_agent.process_resources import resident_bytes
from tests.process.test_engine import CLASSIFY, CONFIG, GENERATE, answer, child, run
from tests.support.eventually import eventually
from tests.support.lone_engine import lone_engine

PATIENT = CONFIG.model_copy(update={"heartbeat_seconds_max": 30.0})
# Loads, but no echo engine has that device: its attach fails while the others on the engine answer.
NEEDY = Manifest(
    task=TaskSpec(name="needy", kind="generate"), version="1.0.0", runtime="echo", requires=Requires(device="vulkan")
)
DESCRIPTORS_MAX = 400


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


def children() -> list[int]:
    """The processes that this one has started and not reaped."""
    return [int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()]


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """Let this process open that many more files, sockets and pipes inside the block."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_MAX, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.dup(0))
        for _ in range(count):
            os.close(held.pop())
        yield
    finally:
        for each in held:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def attach(pool: EnginePool, digest: str, manifest: Manifest, *, keep: bool = False) -> None:
    await pool.attach(digest, manifest, encode(manifest), {}, keep)


@contextlib.asynccontextmanager
async def pool_of(
    *digests: str, config: EngineConfig = CONFIG, on_change: Callable[[], None] = lambda: None
) -> AsyncIterator[EnginePool]:
    """A pool with bundles of one engine. At its end nothing is left."""
    before = descriptors()
    pool = EnginePool(config, on_change)
    try:
        for digest in digests:
            await attach(pool, digest, CLASSIFY if digest == "classify" else GENERATE)
        yield pool
    finally:
        await pool.stop()
    assert [] == children()
    await eventually(lambda: descriptors() <= before)


@contextlib.asynccontextmanager
async def stopped_child(pool: EnginePool) -> AsyncIterator[int]:
    """A child that does not do as it is told, so that it has to be killed."""
    await eventually(lambda: EngineState.READY is pool.statuses()[0].state)
    pid = child(pool)
    assert pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        await eventually(lambda: resident_bytes(pid) == 0)


@pytest.mark.parametrize("left", range(9))
async def test_a_start_without_descriptors_fails_and_leaves_nothing(left: int) -> None:
    """At whichever descriptor the limit is reached: an attach ends with an error, and no child or socket is left."""
    async with pool_of() as pool, asyncio.timeout(60):
        try:
            with descriptors_left(left):
                await attach(pool, "classify", CLASSIFY)
        except EngineNotReady as error:
            assert "Too many open files" in error.message
            assert [] == pool.statuses()
        else:
            assert pool.ready("classify")
            assert left > 2


async def test_an_engine_that_cannot_be_started_is_started_when_it_can() -> None:
    """It backs off and says why; once there are descriptors again the bundle answers, without anybody acting."""
    async with pool_of(config=CONFIG.model_copy(update={"load_failures_max": 1})) as pool, asyncio.timeout(60):
        with descriptors_left(1):
            with pytest.raises(EngineNotReady, match="Too many open files"):
                await attach(pool, "classify", CLASSIFY, keep=True)
            await eventually(lambda: pool.statuses()[0].load_failures >= 3)
            await eventually(lambda: EngineState.BACKING_OFF is pool.statuses()[0].state)
            assert "Too many open files" in pool.statuses()[0].problem
            with pytest.raises(EngineNotReady, match="being started again"):
                await answer(pool, run("refund"))
        await eventually(lambda: pool.ready("classify"))
        assert (await answer(pool, run("refund"))).result.scores[0] > 0.5


async def test_an_engine_for_which_memory_is_short_is_started_when_there_is_enough() -> None:
    """However often it has failed by then, without anybody acting; probation still hears of it, to roll back."""
    available = [1]
    dependencies = dataclasses.replace(lone_engine(), available_memory=lambda _: available[0])
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), CONFIG, Quarantine(60.0), dependencies)
    try:
        with pytest.raises(MemoryShort, match="is available"):
            await engine.attach(AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={}))
        await eventually(lambda: engine.status().load_failures > CONFIG.load_failures_max)
        await eventually(lambda: "is available" in engine.failure("classify"))
        with pytest.raises(EngineNotReady):
            engine.reserve("classify", 1, "till")
        available[0] = 2**40
        await eventually(lambda: engine.ready("classify"))
        assert "" == engine.failure("classify")
    finally:
        await engine.child.stop()


async def test_a_child_that_dies_without_descriptors_is_replaced_when_there_are_some() -> None:
    """The death of a child while nothing can be opened costs no more than the time that the shortage lasts."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        before = child(pool)
        with descriptors_left(1):
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: pool.statuses()[0].load_failures >= 1)
        await eventually(lambda: pool.ready("classify") and child(pool) != before)


async def test_a_bundle_that_is_tried_again_while_others_are_attached_is_attached() -> None:
    """After a crash one bundle fails, is detached and attached again before the next one is ready: it is tried anew."""
    before: list[int] = []
    stopped: list[int] = []

    def stop_after_the_failure() -> None:
        """Stop the second child when it has refused the needy bundle, before it hears of the next one."""
        if not stopped and before and child(pool) not in (0, *before) and failed(pool, "needy"):
            stopped.append(child(pool))
            os.kill(stopped[0], signal.SIGSTOP)

    async with pool_of(config=PATIENT, on_change=stop_after_the_failure) as pool, asyncio.timeout(60):
        with pytest.raises(RequirementUnmet):
            await attach(pool, "needy", NEEDY, keep=True)
        await attach(pool, "classify", CLASSIFY)
        await eventually(lambda: EngineState.READY is pool.statuses()[0].state)
        before.append(child(pool))
        os.kill(before[0], signal.SIGKILL)
        await eventually(lambda: bool(stopped))
        await pool.detach("needy", drain_seconds=0)
        again = asyncio.create_task(attach(pool, "needy", NEEDY))
        await eventually(lambda: "needy" in pool.statuses()[0].digests)
        os.kill(stopped[0], signal.SIGCONT)
        with pytest.raises(RequirementUnmet):
            await again
        await eventually(lambda: pool.ready("classify"))


def failed(pool: EnginePool, digest: str) -> bool:
    return pool._engines[NEEDY.engine_key()].bundles.has_failed(digest)


async def test_an_engine_that_is_removed_while_it_restarts_ends() -> None:
    """Its bundles are taken off in the middle of a restart: the restart ends with an error, and no child is left."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        with pytest.raises(RequirementUnmet):
            await attach(pool, "needy", NEEDY, keep=True)
        async with stopped_child(pool):
            restarting = asyncio.create_task(attach(pool, "needy", NEEDY, keep=True))
            await eventually(lambda: EngineState.STARTING is pool.statuses()[0].state)
            await pool.detach("classify", drain_seconds=0)
            await pool.detach("needy", drain_seconds=0)
            with pytest.raises(EngineNotReady):
                await restarting
        assert [] == pool.statuses()
        assert [] == children()


async def test_a_restart_whose_caller_leaves_is_finished() -> None:
    """The old child is killed and reaped, and the bundles answer from a new one."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        with pytest.raises(RequirementUnmet):
            await attach(pool, "needy", NEEDY, keep=True)
        async with stopped_child(pool) as old:
            restarting = asyncio.create_task(attach(pool, "needy", NEEDY, keep=True))
            await eventually(lambda: EngineState.STARTING is pool.statuses()[0].state)
            restarting.cancel()
            await asyncio.wait([restarting])
            assert restarting.cancelled()
        await eventually(lambda: pool.ready("classify") and child(pool) not in (0, old))
        assert (await answer(pool, run("refund"))).result.scores[0] > 0.5


async def test_an_engine_that_ends_is_counted_until_its_child_is_gone() -> None:
    """Whoever took the last bundle off may leave: the child is killed all the same, and its memory counts till then."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        async with stopped_child(pool) as old:
            detaching = asyncio.create_task(pool.detach("classify", drain_seconds=0))
            await eventually(lambda: [] == pool.statuses())
            detaching.cancel()
            await asyncio.wait([detaching])
            assert [old] == [child.pid for child in pool.children]
        await eventually(lambda: not any(child.pid for child in pool.children))


class CancelledAt:
    """Awaits something in a task that is cancelled at its k-th suspension; `reached` tells whether it has so many."""

    def __init__(self, awaited: Coroutine[Any, Any, None], suspension: int) -> None:
        self._awaited = awaited
        self._suspension = suspension
        self.reached = False

    def __await__(self) -> Generator[Any, Any, None]:
        task = asyncio.current_task()
        assert task is not None
        steps, suspensions = self._awaited.__await__(), 0
        thrown: BaseException | None = None
        while True:
            try:
                waits_for = steps.throw(thrown) if thrown else next(steps)
            except StopIteration:
                return
            suspensions += 1
            if suspensions == self._suspension:
                self.reached = True
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                yield waits_for
                thrown = None
            except BaseException as error:  # noqa: BLE001 - it is the awaited's to handle
                thrown = error


async def attach_and_detach(pool: EnginePool) -> None:
    """Pass through every await of a pool: a first start, a bundle that fails, a restart, a drain, an end."""
    await attach(pool, "classify", CLASSIFY)
    for _ in range(2):
        with contextlib.suppress(RequirementUnmet):
            await attach(pool, "needy", NEEDY, keep=True)
    await pool.detach("needy", drain_seconds=0)
    job = asyncio.create_task(answer(pool, run("!slow 50 refund")))
    await asyncio.wait([job], timeout=0.01)
    await pool.detach("classify", drain_seconds=5)
    await job


@pytest.mark.slow
async def test_whoever_leaves_at_any_await_leaves_an_engine_that_works() -> None:
    """Cancelled at the k-th await, for every k: bundles can be attached and answer, and at the end nothing is left."""
    reached, suspension = True, 0
    while reached:
        suspension += 1
        async with pool_of() as pool, asyncio.timeout(60):
            leaving = CancelledAt(attach_and_detach(pool), suspension)

            async def leave(leaving: CancelledAt = leaving) -> None:
                await leaving

            await asyncio.wait([asyncio.create_task(leave())])
            reached = leaving.reached
            await attach(pool, "classify", CLASSIFY)
            assert (await answer(pool, run("refund", "after"))).result.scores[0] > 0.5
            await pool.detach("needy", drain_seconds=0)
            await pool.detach("classify", drain_seconds=0)
            assert ([], []) == (pool.statuses(), children())
    assert suspension > 5


def no_pidfd(pid: int) -> int:
    assert pid in children()
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


async def test_a_child_that_cannot_be_watched_is_not_left_behind() -> None:
    """Where the process has begun and its descriptor cannot be had, it is killed and reaped, and its socket closed."""
    before = descriptors()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        await ChildProcess.spawn(lambda _: None, lambda _: None, no_pidfd)
    assert [] == children()
    await eventually(lambda: descriptors() <= before)


@contextlib.asynccontextmanager
async def engine_of(before_load: Callable[[], None], on_change: Callable[[], None]) -> AsyncIterator[SupervisedEngine]:
    """An echo engine outside any pool."""
    dependencies = lone_engine(on_change, before_load)
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), CONFIG, Quarantine(60.0), dependencies)
    try:
        yield engine
    finally:
        await engine.child.stop()
    assert [] == children()


def faults(count: int) -> Callable[[], None]:
    """A function that has a fault so many times."""
    left = iter(range(count))

    def fault() -> None:
        if next(left, None) is not None:
            raise RuntimeError("a fault of ours")

    return fault


async def test_a_fault_of_the_supervisor_leaves_nobody_waiting(capfd: pytest.CaptureFixture[str]) -> None:
    """It is logged with its traceback, who attaches is told, and the engine is started again after a pause."""
    message = AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={})
    async with engine_of(faults(2), lambda: None) as engine, asyncio.timeout(60):
        with pytest.raises(EngineNotReady, match="supervising it failed with RuntimeError"):
            await engine.attach(message)
        assert "supervising it failed with RuntimeError" in engine.child.problem
        await eventually(lambda: engine.ready("classify"))
        assert (2, 2) == (engine.child.restarts, engine.child.load_failures)
    assert "a fault of ours" in capfd.readouterr().out


async def test_a_fault_of_whoever_hears_of_changes_is_not_the_engines() -> None:
    """The engine starts, attaches and answers all the same."""
    async with engine_of(lambda: None, faults(1000)) as engine, asyncio.timeout(60):
        await engine.attach(AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={}))
        assert (0, True) == (engine.child.restarts, engine.ready("classify"))
        assert (await engine.answer(run("refund"), loop_time() + 10)).result.scores[0] > 0.5


@pytest.mark.parametrize("abandoned", [GENERATE, NEEDY])
async def test_the_outcome_of_an_abandoned_attach_is_not_that_of_a_later_one(abandoned: Manifest) -> None:
    """The bundle is taken off and attached again before the child has answered: who attached it hears of the second."""
    wanted = NEEDY if abandoned is GENERATE else GENERATE
    first, second = (AttachRequest(digest="d", manifest=encode(each), paths={}) for each in (abandoned, wanted))
    async with engine_of(lambda: None, lambda: None) as engine, asyncio.timeout(60):
        await engine.attach(AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={}))
        await eventually(lambda: EngineState.READY is engine.child.state)
        os.kill(engine.child.pid, signal.SIGSTOP)
        attaching = asyncio.create_task(engine.attach(first))
        await eventually(lambda: "d" in engine.bundles)
        await engine.detach("d", drain_seconds=0)
        again = asyncio.create_task(engine.attach(second))
        await eventually(lambda: "d" in engine.bundles)
        os.kill(engine.child.pid, signal.SIGCONT)
        outcomes = await asyncio.gather(attaching, again, return_exceptions=True)
        expected = RequirementUnmet if wanted is NEEDY else type(None)
        assert [EngineNotReady, expected] == [type(outcome) for outcome in outcomes]
        assert (wanted is GENERATE) == engine.ready("d")


async def test_an_engine_that_was_stopped_does_not_start_again() -> None:
    """Neither an attach nor a restart brings it back, whatever comes after `stop`."""
    message = AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={})
    async with engine_of(lambda: None, lambda: None) as engine, asyncio.timeout(60):
        attaching = asyncio.create_task(engine.attach(message))
        await eventually(lambda: engine.child.pid != 0)
        restarting, stopping = asyncio.create_task(engine.child.restart()), asyncio.create_task(engine.child.stop())
        await asyncio.wait([attaching, restarting, stopping])
        assert (True, 0) == (engine.child.ended, engine.child.pid)
        for again in (engine.child.restart(), engine.attach(message)):
            with pytest.raises(EngineNotReady):
                await again
        assert EngineState.STOPPING is engine.child.state


async def test_an_input_that_no_frame_takes_is_refused_and_nothing_else() -> None:
    """The child that would take it for nonsense never gets it, and answers the next one."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        before = child(pool)
        with pytest.raises(InputTooLong, match=f"the limit is {FRAME_BYTES_MAX}"):
            await answer(pool, run("x" * (FRAME_BYTES_MAX + 1)))
        assert (await answer(pool, run("refund", "next"))).result.scores[0] > 0.5
        assert (before, 0) == (child(pool), pool.statuses()[0].restarts)


async def test_a_large_input_reaches_a_child_that_computes_within_a_few_steps() -> None:
    """Until it has come, and here is refused, no input or cancellation behind it is seen."""
    async with pool_of("classify", "generate", config=PATIENT) as pool, asyncio.timeout(60):
        writes = pool.events(run("!slow 20 " + "word " * 99, "writes", "generate"), loop_time() + 60)
        await anext(writes)
        large, steps = asyncio.create_task(answer(pool, run("x " * 2**21, "large"))), 0
        while not large.done():
            await anext(writes)
            steps += 1
        with pytest.raises(InputTooLong):
            await large
        assert steps < 16
        await writes.aclose()
