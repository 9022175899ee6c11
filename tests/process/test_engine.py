"""Engines over real child processes with the echo runtime."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from edge_agent.config import EngineConfig
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.job_dispatch import EngineAnswer
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest, TextChunk
from edge_agent.errors import (
    DeadlineExpired,
    EngineCrashed,
    EngineNotReady,
    InputQuarantined,
    InputTooLong,
    MemoryShort,
    ModelFailed,
    ModelLoadFailed,
    QueueFull,
    StreamBroken,
)
from edge_agent.formats.manifest import Manifest, PromptTemplate, Requires, TaskLimits, TaskSpec, encode
from edge_agent.process_resources import resident_bytes
from tests.support.eventually import SECONDS_MAX, eventually, eventually_sync, turns

CONFIG = EngineConfig(
    queue_requests_max=4,
    sequences_max=2,
    heartbeat_seconds_max=1.0,
    restart_seconds_first=0.05,
    load_seconds_max=20,
    load_failures_max=2,
)
PATIENT = CONFIG.model_copy(update={"load_seconds_max": 3600.0, "attach_seconds_max": 3600.0})
"""Gives a load or an attach an hour: a child that is found out before that is found out by its silence."""
CLASSIFY = Manifest(
    task=TaskSpec(name="intent", kind="classify", labels=("refund", "price"), limits=TaskLimits(input_tokens_max=8)),
    version="1.0.0",
    runtime="echo",
)
GENERATE = Manifest(task=TaskSpec(name="talk", kind="generate"), version="1.0.0", runtime="echo")


def run(text: str, job_id: str = "job", digest: str = "classify") -> JobRequest:
    return JobRequest(job_id=job_id, digest=digest, text=text, output_tokens_max=100)


@contextlib.asynccontextmanager
async def pool_of(config: EngineConfig = CONFIG) -> AsyncIterator[EnginePool]:
    """Yield a pool with a classify and a generate bundle on one echo engine."""
    pool = EnginePool(config, lambda: None)
    try:
        await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {})
        await pool.attach("generate", GENERATE, encode(GENERATE), {})
        yield pool
    finally:
        await pool.stop()


async def answer(pool: EnginePool, job: JobRequest, seconds: float = 10.0) -> EngineAnswer:
    deadline = asyncio.get_running_loop().time() + seconds
    async with contextlib.aclosing(pool.events(job, deadline)) as events:
        async for event in events:
            if isinstance(event, EngineAnswer):
                return event
    raise AssertionError("no answer")


def child(pool: EnginePool) -> int:
    (status,) = pool.statuses()
    return status.pid


def running(pool: EnginePool, digest: str) -> int:
    """Return how many inputs the child of a bundle is computing."""
    (status,) = (each for each in pool.statuses() if digest in each.digests)
    return status.running


async def test_child_answers_an_input() -> None:
    """A classify job returns one score for each label and the time that it waited."""
    async with pool_of() as pool:
        got = await answer(pool, run("a refund please"))
        assert 1.0 == pytest.approx(sum(got.result.scores))
        assert got.result.scores[0] > got.result.scores[1]
        assert got.queue_ms >= 0.0


async def test_bundles_on_one_base_share_one_engine() -> None:
    """Two bundles with the same base and settings run in one process; detaching the last stops it."""
    async with pool_of() as pool:
        (status,) = pool.statuses()
        assert ("classify", "generate") == status.digests
        assert status.resident_bytes > 0
        await pool.detach("classify", drain_seconds=1)
        assert [("generate",)] == [status.digests for status in pool.statuses()]
        await pool.detach("generate", drain_seconds=1)
        assert [] == pool.statuses()
        assert 0 == resident_bytes(status.pid)


async def test_every_bundle_of_an_engine_is_checked_for_memory() -> None:
    """A second bundle on one base that requires too much memory is refused, even without weights; the first bundle and
    its engine stay."""
    async with pool_of() as pool:
        greedy = CLASSIFY.model_copy(update={"requires": Requires(memory_bytes=2**50)})
        with pytest.raises(MemoryShort, match=r"the bundle asks for 1125899906\.8 MB of memory"):
            await pool.attach("greedy", greedy, encode(greedy), {})
        assert (await answer(pool, run("refund"))).result.scores
        assert [("classify", "generate")] == [status.digests for status in pool.statuses()]


async def test_load_error_names_the_bundle_and_the_cause() -> None:
    """If the runtime cannot use a bundle, the error names the bundle and the library's message instead of only the type
    of an exception."""
    async with pool_of() as pool:
        odd = GENERATE.model_copy(update={"task": TaskSpec(name="talk", kind="generate", prompt=_ODD_PROMPT)})
        with pytest.raises(ModelLoadFailed) as caught:
            await pool.attach("odd", odd, encode(odd), {})
        said = "bundle odd cannot be used with the model: invalid literal for int() with base 10: 'x'"
        assert said == caught.value.message


_ODD_PROMPT = PromptTemplate(template="!slow 1 after x {input}")


async def test_generated_text_is_streamed() -> None:
    """Chunks of generated text arrive in order, then the answer with the reason for its end."""
    async with pool_of() as pool:
        deadline = asyncio.get_running_loop().time() + 10
        events = [event async for event in pool.events(run("one two three", digest="generate"), deadline)]
        assert ["one", " two", " three"] == [event.text for event in events if isinstance(event, TextChunk)]
        assert isinstance(events[-1], EngineAnswer)
        assert "stop" == events[-1].result.finish


async def test_leaving_a_stream_cancels_it() -> None:
    """A caller who leaves a stream after the first chunk frees the engine: nothing is pending, and the next job is
    answered."""
    async with pool_of() as pool:
        deadline = asyncio.get_running_loop().time() + 10
        text = "!slow 20 " + "word " * 90
        async with contextlib.aclosing(pool.events(run(text, digest="generate"), deadline)) as events:
            assert isinstance(await anext(events), TextChunk)
        assert 0 == pool.statuses()[0].pending
        assert (await answer(pool, run("refund", "next"), seconds=1.0)).result.scores[0] > 0.5


async def test_error_of_the_child_keeps_its_type_and_numbers() -> None:
    """An input that the runtime refuses raises the same error in the parent, with its numbers."""
    async with pool_of() as pool:
        with pytest.raises(InputTooLong, match="9 tokens; the limit is 8") as caught:
            await answer(pool, run("1 2 3 4 5 6 7 8 9"))
        assert {"tokens": "9", "limit": "8"} == caught.value.metadata
        with pytest.raises(ModelFailed):
            await answer(pool, run("!fail"))


async def test_expired_deadline_does_not_end_the_engine() -> None:
    """A job whose deadline expires raises an error, and the engine answers the next one."""
    async with pool_of() as pool:
        with pytest.raises(DeadlineExpired):
            await answer(pool, run("!slow 300"), seconds=0.05)
        assert (await answer(pool, run("refund", "next"))).result.scores[0] > 0.5


async def test_the_queue_is_bounded() -> None:
    """With two inputs running and four waiting, the seventh is refused with the numbers, and the six are answered."""
    async with pool_of() as pool:
        jobs = [asyncio.create_task(answer(pool, run("!slow 100", f"job-{i}"))) for i in range(6)]
        await eventually(lambda: pool.statuses()[0].pending == 6)
        with pytest.raises(QueueFull, match="the limit is 4"):
            pool.reserve("classify", 1)
        assert 6 == len(await asyncio.gather(*jobs))
        with pool.reserve("classify", 4), pytest.raises(QueueFull, match="4 inputs are waiting and 1 more do not fit"):
            pool.reserve("classify", 1)
        with pytest.raises(QueueFull, match="5 more do not fit"):
            pool.reserve("classify", 5)


async def test_only_the_input_that_kills_the_child_fails() -> None:
    """After a crash the inputs in flight are retried alone: the innocent one is answered, and the culprit fails the
    second time."""
    async with pool_of() as pool:
        both = [answer(pool, run("!crash", "culprit")), answer(pool, run("refund", "neighbour"))]
        culprit, neighbour = await asyncio.gather(*both, return_exceptions=True)
        assert isinstance(culprit, EngineCrashed)
        assert isinstance(neighbour, EngineAnswer)
        assert neighbour.result.scores[0] > 0.5
        await eventually(lambda: pool.ready("classify"))
        assert 2 == pool.statuses()[0].restarts


async def test_an_input_that_kills_its_child_alone_is_quarantined() -> None:
    """An input that has killed its child alone is refused afterwards without another crash; other inputs are
    answered."""
    async with pool_of() as pool:
        with pytest.raises(EngineCrashed):
            await answer(pool, run("!crash"))
        await eventually(lambda: pool.ready("classify"))
        before = child(pool)
        with pytest.raises(InputQuarantined, match="killed the model's process before"):
            await answer(pool, run("!crash"))
        assert (await answer(pool, run("refund", "other"))).result.scores[0] > 0.5
        assert before == child(pool)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
async def test_child_ignores_signals_to_its_process_group(signum: signal.Signals) -> None:
    """A child ignores SIGINT and SIGTERM, which reach the whole process group, from its first instruction on."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    pool = EnginePool(CONFIG, lambda: None)
    try:
        attaching = asyncio.create_task(pool.attach("classify", CLASSIFY, encode(CLASSIFY), {}))
        await eventually(lambda: any(status.pid for status in pool.statuses()))
        started = child(pool)
        os.kill(started, signum)  # while Python starts
        await attaching
        slow = asyncio.create_task(answer(pool, run("!slow 300 refund")))
        await eventually(lambda: running(pool, "classify") == 1)
        os.kill(started, signum)  # while it computes
        assert (await slow).result.scores[0] > 0.5
        assert started == child(pool)
    finally:
        await pool.stop()
    assert before == signal.pthread_sigmask(signal.SIG_BLOCK, ())


async def test_no_child_is_started_while_the_pool_drains() -> None:
    """While the pool drains, running jobs finish; if their child dies, they fail with an error that allows a retry, and
    no other child starts."""
    async with pool_of() as pool:
        slow = asyncio.create_task(answer(pool, run("!slow 300 refund")))
        await eventually(lambda: running(pool, "classify") == 1)
        pool.drain()
        assert (await slow).result.scores[0] > 0.5
        slow = asyncio.create_task(answer(pool, run("!slow 9000 refund")))
        await eventually(lambda: running(pool, "classify") == 1)
        os.kill(child(pool), signal.SIGKILL)
        with pytest.raises(EngineNotReady, match="is stopping"):
            await slow
        await eventually(lambda: child(pool) == 0)
        assert [(EngineState.STOPPING, 1)] == [(status.state, status.loads) for status in pool.statuses()]
        with pytest.raises(EngineNotReady):
            await pool.attach("other", CLASSIFY, encode(CLASSIFY), {})
        assert [] == pool.stuck(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGHUP])
async def test_kill_from_outside_quarantines_no_input(signum: signal.Signals) -> None:
    """An input whose child is killed from outside twice is retried and answered, and it is not quarantined."""
    async with pool_of() as pool:
        slow = asyncio.create_task(answer(pool, run("!slow 300 refund")))
        for _ in range(2):
            await eventually(lambda: pool.ready("classify") and running(pool, "classify") == 1)
            killed = child(pool)
            os.kill(killed, signum)
            await eventually(lambda killed=killed: child(pool) != killed)
        assert (await slow).result.scores[0] > 0.5
        assert (await answer(pool, run("!slow 300 refund", "again"))).result.scores[0] > 0.5


async def test_operator_call_overtakes_a_device_call() -> None:
    """On a busy engine a call of priority 0 starts before a call of priority 1 that arrived earlier."""
    async with pool_of(CONFIG.model_copy(update={"sequences_max": 1})) as pool:
        order: list[str] = []

        async def call(job_id: str, priority: int) -> None:
            deadline = asyncio.get_running_loop().time() + 10
            await pool.answer(run("!slow 100", job_id), deadline, priority)
            order.append(job_id)

        async with asyncio.TaskGroup() as calls:
            for job_id, priority in (("first", 1), ("device", 1), ("operator", 0)):
                calls.create_task(call(job_id, priority))
        assert ["first", "operator", "device"] == order


async def test_a_killed_child_is_replaced_and_its_bundles_attached_again() -> None:
    """After SIGKILL every bundle answers again from a new child."""
    async with pool_of() as pool:
        before = child(pool)
        os.kill(before, signal.SIGKILL)
        await eventually(lambda: not pool.ready("classify"))
        with pytest.raises(EngineNotReady) as caught:
            pool.reserve("classify", 1)
        assert caught.value.retry_seconds > 0
        await eventually(lambda: pool.ready("classify") and pool.ready("generate"))
        assert before != child(pool)
        assert (await answer(pool, run("refund"))).result.scores[0] > 0.5


async def test_a_broken_stream_ends_with_an_error_that_allows_a_retry() -> None:
    """A stream whose child is killed after the first chunk ends with StreamBroken and is not restarted silently."""
    async with pool_of() as pool:
        deadline = asyncio.get_running_loop().time() + 10
        events = pool.events(run("!slow 20 " + "word " * 90, digest="generate"), deadline)
        assert isinstance(await anext(events), TextChunk)
        os.kill(child(pool), signal.SIGKILL)
        with pytest.raises(StreamBroken):
            async for _ in events:
                pass


async def test_child_that_hangs_in_a_step_is_killed() -> None:
    """A child that does not return from a step is killed after the heartbeat limit, and the engine continues."""
    async with pool_of() as pool:
        with pytest.raises(EngineCrashed):
            await answer(pool, run("!hang"), seconds=20)
        await eventually(lambda: pool.ready("classify"))
        assert (await answer(pool, run("refund"))).result.scores[0] > 0.5


@pytest.mark.slow
async def test_stopped_idle_child_is_replaced() -> None:
    """An idle child that was stopped by SIGSTOP does not answer the ping and is replaced."""
    async with pool_of() as pool:
        before = child(pool)
        os.kill(before, signal.SIGSTOP)
        await eventually(lambda: pool.ready("classify") and child(pool) != before)


@pytest.mark.slow
async def test_child_that_stopped_before_an_attach_is_replaced() -> None:
    """A stopped child that never begins an attach is replaced after the heartbeat limit: only an attach that has begun
    can take as long as a load."""
    async with pool_of(PATIENT) as pool:
        await pool.detach("generate", drain_seconds=1)
        await eventually(lambda: EngineState.READY is pool.statuses()[0].state)
        before = child(pool)
        os.kill(before, signal.SIGSTOP)
        with structlog.testing.capture_logs() as logged:
            async with asyncio.timeout(SECONDS_MAX):
                with pytest.raises(EngineCrashed):
                    await pool.attach("generate", GENERATE, encode(GENERATE), {})
            await eventually(lambda: pool.ready("classify") and child(pool) != before)
        assert [before] == [each["pid"] for each in logged if each["event"] == "engine_silent"]


@pytest.mark.slow
@pytest.mark.parametrize("loaded", [True, False])
async def test_child_that_stops_within_an_attach_is_replaced(loaded: bool) -> None:
    """A child whose attach has begun but uses no processor time is replaced after the heartbeat limit."""
    task = TaskSpec(name="stall", kind="generate", prompt=PromptTemplate(template="!stall {input}"))
    stalling = Manifest(task=task, version="1.0.0", runtime="echo")
    async with pool_of(PATIENT) as pool:
        if loaded:
            await eventually(lambda: EngineState.READY is pool.statuses()[0].state)
        before = child(pool)
        with structlog.testing.capture_logs() as logged:
            async with asyncio.timeout(SECONDS_MAX):
                with pytest.raises(EngineCrashed if loaded else ModelLoadFailed):
                    await pool.attach("stall", stalling, encode(stalling), {})
            await eventually(lambda: pool.ready("classify") and child(pool) != before)
        assert before in [each["pid"] for each in logged if each["event"] == "engine_silent"]


async def test_model_that_does_not_load_leaves_no_engine(tmp_path: Path) -> None:
    """If a model does not load, attach raises the child's error, and no engine remains."""
    pool = EnginePool(CONFIG, lambda: None)
    with pytest.raises(ModelLoadFailed, match="does not exist"):
        await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {"weights": tmp_path / "gone"})
    assert [] == pool.statuses()
    with pytest.raises(EngineNotReady):
        pool.reserve("classify", 1)


async def test_number_of_load_attempts_is_limited(tmp_path: Path) -> None:
    """A bundle that is kept despite its failure is loaded at most `load_failures_max` times; then calls report that it
    does not load."""
    pool = EnginePool(CONFIG, lambda: None, [tmp_path])
    weights = tmp_path / "weights"
    with pytest.raises(ModelLoadFailed):
        await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {"weights": weights}, keep=True)
    await eventually(lambda: pool.statuses()[0].state is EngineState.FAILED)
    with pytest.raises(ModelLoadFailed, match="does not load"):
        pool.reserve("classify", 1)
    weights.touch()
    await pool.attach("classify", CLASSIFY, encode(CLASSIFY), {"weights": weights}, keep=True)
    assert pool.ready("classify")
    await pool.stop()


async def test_detach_lets_running_jobs_finish() -> None:
    """A job on a bundle that is being detached is answered within the drain time."""
    async with pool_of() as pool:
        job = asyncio.create_task(answer(pool, run("!slow 200 refund")))
        await eventually(lambda: pool.statuses()[0].pending == 1)
        await pool.detach("classify", drain_seconds=5)
        assert (await job).result.scores[0] > 0.5


async def test_a_crash_counts_for_the_bundle_whose_input_was_computed() -> None:
    """A crash counts for the bundle whose input was computed and not for another bundle on the same engine."""
    async with pool_of() as pool:
        with pytest.raises(EngineCrashed):
            await answer(pool, run("!crash"), SECONDS_MAX)
        assert (2, 0) == (pool.stats("classify").crashes, pool.stats("generate").crashes)


async def test_jobs_cut_off_by_a_detach_allow_a_retry() -> None:
    """Running, waiting and streaming jobs of a detached bundle fail with errors that allow a retry, not as cancelled or
    as failures of the model."""
    async with pool_of() as pool:
        deadline = asyncio.get_running_loop().time() + SECONDS_MAX
        written = pool.events(run("!slow 200 " + "word " * 90, "writes", "generate"), deadline)
        assert isinstance(await anext(written), TextChunk)
        silent = [asyncio.create_task(answer(pool, run("!slow 200 refund", str(number)))) for number in range(4)]
        await eventually(lambda: (2, 3) == (running(pool, "classify"), pool.statuses()[0].waiting))
        await pool.detach("classify", drain_seconds=0)
        for each in silent:
            with pytest.raises(EngineNotReady, match="replaced or removed before it had answered"):
                await each
        await pool.detach("generate", drain_seconds=0)
        with pytest.raises(StreamBroken, match="replaced or removed in the middle of the stream"):
            async for _ in written:
                pass


async def test_stop_ends_the_child() -> None:
    """After the pool stopped, its child process no longer exists."""
    async with pool_of() as pool:
        pid = child(pool)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


PARENT = """
import asyncio, sys
sys.path.insert(0, ".")
from tests.process.test_engine import child, pool_of

async def main():
    async with pool_of() as pool:
        print(child(pool), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def stopped_while_it_loads() -> None:
    """Start an engine whose model does not exist, and stop it before it can report so."""
    pool = EnginePool(CONFIG, lambda: None)
    missing = {"weights": Path("/nowhere/model.bin")}
    attaching = asyncio.create_task(pool.attach("classify", CLASSIFY, encode(CLASSIFY), missing, keep=True))
    await eventually(lambda: bool(pool.statuses()) and child(pool) > 0)
    await pool.stop()
    await asyncio.gather(attaching, return_exceptions=True)


async def test_unawaited_load_failure_is_not_logged() -> None:
    """An engine that is stopped while its load fails leaves no exception that was never retrieved."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await stopped_while_it_loads()
    await turns(3)
    gc.collect()
    assert [] == complaints


def test_a_child_does_not_outlive_its_parent() -> None:
    """If the daemon is killed, its children end."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert resident_bytes(pid) > 0
        parent.kill()
    eventually_sync(lambda: resident_bytes(pid) == 0)
