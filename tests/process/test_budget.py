"""One budget of threads over engines in real, confined children."""

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
    """A pool without engines, whose children read this folder."""
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
    """The threads that each child runs with, in the order of the engines."""
    return [int(status.details["threads"]) for status in pool.statuses()]


async def answers(pool: EnginePool, digest: str, texts: Sequence[str], name: str) -> list[tuple[float, ...]]:
    """Compute texts at the same time; return the scores of each."""
    deadline = asyncio.get_running_loop().time() + SECONDS_MAX
    runs = [JobRequest(job_id=f"{name}-{i}", digest=digest, text=text) for i, text in enumerate(texts)]
    return [answer.result.scores for answer in await asyncio.gather(*(pool.answer(run, deadline) for run in runs))]


@pytest.mark.slow
async def test_a_second_engine_gets_half(tmp_path):
    """The first engine has all threads, the second half of them; the first has its half when it starts again."""
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


async def test_what_an_engine_has_measured_holds_for_the_threads_that_it_measured_with(tmp_path):
    """Another engine that comes changes the share for the next child, and nothing of what the running one was told."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        first = await attach(pool, tmp_path, "first", 512)
        pool.statuses()[0].details["tuned"] = "measured"  # type: ignore[index]  # as if it had
        await attach(pool, tmp_path, "second", 256)
        assert [4, 2] == [status.threads for status in pool.statuses()]
        told = LoadRequest(runtime="onnx", weights=bundles.paths_of(tmp_path / first)["weights"])
        known = {count: pool.tuning_cache.lookup(msgspec.structs.replace(told, threads=count)) for count in (4, 2)}
        assert {4: {"threads": "4"}, 2: {}} == known


@pytest.mark.slow
async def test_engines_that_come_together_share_from_the_start(tmp_path):
    """Engines that are asked for at the same time, as when the daemon starts, all begin with their share."""
    async with pool_on(tmp_path, cpu_threads=6) as pool:
        await asyncio.gather(*(attach(pool, tmp_path, f"task{i}", 512 - i) for i in range(3)))
        assert [2, 2, 2] == threads(pool)


async def test_a_task_that_moves_keeps_its_share(tmp_path):
    """A new engine for a task that an old one still serves counts for that one and not beside it."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        old = await attach(pool, tmp_path, "task", 512)
        new = await attach(pool, tmp_path, "task", 256)
        assert [4, 4] == threads(pool)
        await pool.detach(old, drain_seconds=0)
        assert ([4], True) == (threads(pool), pool.ready(new))


async def test_a_confined_child_answers_on_several_threads(tmp_path):
    """Inputs that come at the same time get the answers that each gets alone, from a child with three threads."""
    texts = ["refund please", "no", "do you have this in blue, or in any other colour", "what time", "lamp", "x " * 60]
    async with pool_on(tmp_path, cpu_threads=3) as pool:
        digest = await attach(pool, tmp_path, "task", 512)
        alone = [(await answers(pool, digest, [text], str(i)))[0] for i, text in enumerate(texts)]
        together = await answers(pool, digest, texts, "together")
        for one, other in zip(alone, together, strict=True):
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) < 1e-5


async def test_echo_takes_no_share(tmp_path):
    """An engine that computes nothing leaves the others all threads, also when they start again."""
    async with pool_on(tmp_path, cpu_threads=4) as pool:
        directory = bundles.echo_bundle(tmp_path / "echo", name="echo")
        stored = (directory / MANIFEST_NAME).read_bytes()
        await pool.attach("echo", bundles.manifest_of(directory), stored, {})
        await attach(pool, tmp_path, "first", 512)
        assert ["4"] == [status.details["threads"] for status in pool.statuses() if status.runtime == "onnx"]
