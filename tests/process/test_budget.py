"""How one budget of CPU threads is divided among engines in real, confined child processes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.child_supervisor import EngineState
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest, LoadRequest
from edge_agent.formats.manifest import MANIFEST_NAME
from tests.support import bundles
from tests.support.eventually import eventually

SECONDS_MAX = 60.0


@contextlib.asynccontextmanager
async def pool_on(folder: Path, cpu_threads: int) -> AsyncIterator[EnginePool]:
    """Yield a pool without engines whose children can read this folder."""
    config = EngineConfig(cpu_threads=cpu_threads, restart_seconds_first=0.05)
    pool = EnginePool(config, lambda: None, readable=[folder])
    try:
        yield pool
    finally:
        await pool.stop()


async def attach(pool: EnginePool, folder: Path, task: str, context_tokens: int) -> str:
    """Attach a bundle of that task; another `context_tokens` is another engine. Returns its digest."""
    directory = folder / f"{task}-{context_tokens}"
    bundles.tiny_onnx_bundle(directory, name=task, engine={"context_tokens": context_tokens})
    paths = {role: Path(path) for role, path in bundles.paths_of(directory).items()}
    stored = (directory / MANIFEST_NAME).read_bytes()
    await pool.attach(directory.name, bundles.manifest_of(directory), stored, paths)
    return directory.name


def threads(pool: EnginePool) -> list[int]:
    """Return the number of threads of each child, in the order of the engines."""
    return [int(status.details["threads"]) for status in pool.statuses()]


async def answers(pool: EnginePool, digest: str, texts: Sequence[str], name: str) -> list[tuple[float, ...]]:
    """Compute texts at the same time; return the scores of each."""
    deadline = asyncio.get_running_loop().time() + SECONDS_MAX
    runs = [JobRequest(job_id=f"{name}-{i}", digest=digest, text=text) for i, text in enumerate(texts)]
    return [answer.result.scores for answer in await asyncio.gather(*(pool.answer(run, deadline) for run in runs))]


@pytest.mark.slow
async def test_second_engine_gets_half_of_the_threads(tmp_path):
    """The first engine runs with all threads and the second with half of them; the first gets its half when it
    restarts."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        await attach(pool, tmp_path, "first", 512)
        assert [4] == threads(pool)
        await attach(pool, tmp_path, "second", 256)
        assert [4, 2] == threads(pool)
        first = pool.statuses()[0]
        first_child = first.pid
        assert EngineState.READY is first.state
        os.kill(first_child, signal.SIGKILL)
        await eventually(lambda: pool.statuses()[0].pid not in (0, first_child))
        await eventually(lambda: pool.statuses()[0].state is EngineState.READY)
        assert [2, 2] == threads(pool)


async def test_tuning_result_is_stored_for_the_measured_thread_count(tmp_path):
    """A second engine changes the share for the first engine's next child; the tuning cache stores a result only for
    the thread count of the child that measured it."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        first = await attach(pool, tmp_path, "first", 512)
        pool.statuses()[0].details["tuned"] = "measured"  # type: ignore[index]  # as if it had
        await attach(pool, tmp_path, "second", 256)
        assert [4, 2] == [status.threads for status in pool.statuses()]
        told = LoadRequest(runtime="onnx", weights=bundles.paths_of(tmp_path / first)["weights"])
        known = {count: pool.tuning_cache.lookup(msgspec.structs.replace(told, threads=count)) for count in (4, 2)}
        assert {4: {"threads": "4"}, 2: {}} == known


@pytest.mark.slow
async def test_engines_attached_together_start_with_equal_shares(tmp_path):
    """Engines that are attached at the same time, as at the daemon's start, all start with their share of the
    threads."""
    async with pool_on(tmp_path, cpu_threads=6) as pool:
        await asyncio.gather(*(attach(pool, tmp_path, f"task{i}", 512 - i) for i in range(3)))
        assert [2, 2, 2] == threads(pool)


async def test_new_engine_of_the_same_task_gets_the_same_share(tmp_path):
    """A new engine for a task that an old engine still serves replaces the old one in the division instead of adding to
    it."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        old = await attach(pool, tmp_path, "task", 512)
        new = await attach(pool, tmp_path, "task", 256)
        assert [4, 4] == threads(pool)
        await pool.detach(old, drain_seconds=0)
        assert ([4], True) == (threads(pool), pool.ready(new))


async def test_a_confined_child_answers_on_several_threads(tmp_path):
    """A confined child with three threads gives simultaneous inputs the same answers as it gives each input alone."""
    texts = ["refund please", "no", "do you have this in blue, or in any other colour", "what time", "lamp", "x " * 60]
    async with pool_on(tmp_path, cpu_threads=3) as pool:
        digest = await attach(pool, tmp_path, "task", 512)
        alone = [(await answers(pool, digest, [text], str(i)))[0] for i, text in enumerate(texts)]
        together = await answers(pool, digest, texts, "together")
        for one, other in zip(alone, together, strict=True):
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5


async def test_echo_engine_takes_no_share_of_the_threads(tmp_path):
    """An echo engine does not compute, so another engine gets all threads."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        directory = bundles.echo_bundle(tmp_path / "echo", name="echo")
        stored = (directory / MANIFEST_NAME).read_bytes()
        await pool.attach("echo", bundles.manifest_of(directory), stored, {})
        await attach(pool, tmp_path, "first", 512)
        assert ["4"] == [status.details["threads"] for status in pool.statuses() if status.runtime == "onnx"]
