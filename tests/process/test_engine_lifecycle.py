"""How an engine starts, restarts and ends: without descriptors, with cancelled callers, and with concurrent changes.
Real child processes with the echo runtime."""

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
    """Return the processes that this one has started and not reaped."""
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
    """Yield a pool with bundles of one engine. At its end no child and no descriptor remains."""
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
    """Yield a child that does not react, so that it has to be killed."""
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
    """An attach that reaches the limit of descriptors raises an error and leaves no engine, child or socket."""
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


async def test_engine_starts_when_descriptors_are_available_again() -> None:
    """An engine without descriptors backs off and reports the reason; the bundle answers without intervention once
    there are descriptors."""
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


async def test_engine_starts_when_memory_is_available_again() -> None:
    """An engine for which memory is short starts without intervention once there is enough, however often it failed;
    until then its failure is visible to probation."""
    available = [1]
    dependencies = dataclasses.replace(lone_engine(), available_memory=lambda _: available[0])
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), CONFIG, Quarantine(60.0), dependencies)
    try:
        with pytest.raises(MemoryShort, match="is available"):
            await engine.attach(AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={}))
        await eventually(lambda: engine.status().load_failures > CONFIG.load_failures_max)
        await eventually(lambda: "is available" in engine.failure("classify"))
        with pytest.raises(EngineNotReady):
            engine.require_ready("classify")
        available[0] = 2**40
        await eventually(lambda: engine.ready("classify"))
        assert "" == engine.failure("classify")
    finally:
        await engine.child.stop()


async def test_dead_child_is_replaced_when_descriptors_are_available() -> None:
    """A child that dies while the process has no free descriptors is replaced as soon as it has some."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        before = child(pool)
        with descriptors_left(1):
            os.kill(before, signal.SIGKILL)
            await eventually(lambda: pool.statuses()[0].load_failures >= 1)
        await eventually(lambda: pool.ready("classify") and child(pool) != before)


async def test_failed_bundle_can_be_attached_again_during_a_restart() -> None:
    """A bundle that failed after a crash and is detached and attached again, before the child has finished its other
    bundles, is tried again."""
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


async def test_engine_removed_during_its_restart_ends() -> None:
    """If all bundles of an engine are detached during its restart, the restart fails, and no engine and no child
    remain."""
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


async def test_restart_is_completed_after_its_caller_left() -> None:
    """If the caller of a restart is cancelled, the old child is still replaced, and the bundles answer from a new
    one."""
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


async def test_ending_engine_is_counted_until_its_child_has_exited() -> None:
    """After a cancelled detach the child is still killed, and the pool counts it until it has exited."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        async with stopped_child(pool) as old:
            detaching = asyncio.create_task(pool.detach("classify", drain_seconds=0))
            await eventually(lambda: [] == pool.statuses())
            detaching.cancel()
            await asyncio.wait([detaching])
            assert [old] == [child.pid for child in pool.children]
        await eventually(lambda: not any(child.pid for child in pool.children))


class CancelledAt:
    """Awaits a coroutine in a task that is cancelled at its k-th suspension; `reached` tells whether it has that
    many."""

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
    """Pass through every await of a pool: a first start, a bundle that fails, a restart, a drain and the end."""
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
async def test_pool_works_after_a_cancellation_at_any_await() -> None:
    """After a cancellation at any await of attach and detach, bundles can be attached and answer, and at the end no
    engine and no child remain."""
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


async def test_child_without_a_pidfd_is_killed() -> None:
    """If a process has started but its pidfd cannot be opened, the process is killed and reaped, and its socket is
    closed."""
    before = descriptors()
    with pytest.raises(OSError, match="Cannot allocate memory"):
        await ChildProcess.spawn(lambda _: None, lambda _: None, no_pidfd)
    assert [] == children()
    await eventually(lambda: descriptors() <= before)


@contextlib.asynccontextmanager
async def engine_of(before_load: Callable[[], None], on_change: Callable[[], None]) -> AsyncIterator[SupervisedEngine]:
    """Yield an echo engine outside of any pool."""
    dependencies = lone_engine(on_change, before_load)
    engine = SupervisedEngine("echo", LoadRequest(runtime="echo"), CONFIG, Quarantine(60.0), dependencies)
    try:
        yield engine
    finally:
        await engine.child.stop()
    assert [] == children()


def faults(count: int) -> Callable[[], None]:
    """Return a function that raises an error on its first `count` calls."""
    left = iter(range(count))

    def fault() -> None:
        if next(left, None) is not None:
            raise RuntimeError("a fault of ours")

    return fault


async def test_supervisor_error_fails_the_attach_and_restarts_the_engine(capfd: pytest.CaptureFixture[str]) -> None:
    """An error in the supervision of an engine is logged with its traceback, the attach fails, and the engine restarts
    after a pause."""
    message = AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={})
    async with engine_of(faults(2), lambda: None) as engine, asyncio.timeout(60):
        with pytest.raises(EngineNotReady, match="supervising it failed with RuntimeError"):
            await engine.attach(message)
        assert "supervising it failed with RuntimeError" in engine.child.problem
        await eventually(lambda: engine.ready("classify"))
        assert (2, 2) == (engine.child.restarts, engine.child.load_failures)
    assert "a fault of ours" in capfd.readouterr().out


async def test_error_in_the_change_callback_does_not_affect_the_engine() -> None:
    """If the callback for changes raises errors, the engine still starts, attaches and answers."""
    async with engine_of(lambda: None, faults(1000)) as engine, asyncio.timeout(60):
        await engine.attach(AttachRequest(digest="classify", manifest=encode(CLASSIFY), paths={}))
        assert (0, True) == (engine.child.restarts, engine.ready("classify"))
        assert (await engine.jobs.answer(run("refund"), loop_time() + 10)).result.scores[0] > 0.5


@pytest.mark.parametrize("abandoned", [GENERATE, NEEDY])
async def test_outcome_of_an_abandoned_attach_is_not_reused(abandoned: Manifest) -> None:
    """If a bundle is detached and attached again before the child has answered, the second attach gets the outcome of
    its own request."""
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
    """After `stop` neither an attach nor a restart starts the engine again."""
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


async def test_input_over_the_frame_limit_is_refused() -> None:
    """An input that exceeds the frame limit is refused before it reaches the child, which answers the next input."""
    async with pool_of("classify") as pool, asyncio.timeout(60):
        before = child(pool)
        with pytest.raises(InputTooLong, match=f"the limit is {FRAME_BYTES_MAX}"):
            await answer(pool, run("x" * (FRAME_BYTES_MAX + 1)))
        assert (await answer(pool, run("refund", "next"))).result.scores[0] > 0.5
        assert (before, 0) == (child(pool), pool.statuses()[0].restarts)


async def test_large_input_reaches_a_busy_child_within_a_few_steps() -> None:
    """A large input reaches a child that generates text within 16 steps, because it blocks the inputs and cancellations
    that follow."""
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
