"""A daemon with a llama.cpp engine under stress: killed with sixteen streams, overloaded, called with short
deadlines."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import AdminClient, AsyncClient, CallFailed, Client
from edge_agent.client.site_state import Engine
from tests.support import tiny_gguf
from tests.support.bundles import write
from tests.support.daemon import RunningDaemon
from tests.support.eventually import eventually_sync
from tests.support.llama_mixed_jobs import manifest
from tests.support.models import smollm2_path

STREAMS = 16
QUEUE = 32
CROWD = 150
ANSWERS_EACH = 2
CROWDED_SECONDS = 60.0
REFUSALS_IN_A_ROW_MAX = 1000 * CROWD
"""With so many between two answers the crowd is not served any more."""
HURRIED = 300
COUNT = "Count: 1, 2, 3, 4, 5,"  # SmolLM2 does not stop
TEXT = "How much is the blue lamp?"
LONG = "I bought a coat here on Monday and the zip broke. " * 12


def bundle(folder: Path, kind: str, name: str, weights: Path) -> Path:
    """Write a bundle of one of the tasks in tests/support/llama_mixed_jobs.py with these weights."""
    fields = manifest(kind).model_dump(mode="json", by_alias=True)
    fields["task"]["name"] = name
    fields["task"]["prompt"] = {"template": "{input}"}
    fields["task"]["limits"] = {"input_tokens_max": 200, "output_tokens_max": 300}
    fields["engine"]["context_tokens"] = 512
    fields.pop("artifacts")
    return write(folder, fields, {}, {"weights": ("model.gguf", weights)})


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[RunningDaemon]:
    """A daemon with a classify task on the tiny decoder."""
    engine = {"sequences_max": STREAMS, "queue_requests_max": QUEUE, "restart_seconds_first": 0.05}
    with RunningDaemon(tmp_path, engine=engine) as running:
        running.install(bundle(tmp_path / "sort", "classify", "sort", tiny_gguf.write(tmp_path / "tiny.gguf")))
        yield running


def engine_of(admin: AdminClient, task: str) -> Engine:
    return next(engine for engine in admin.status().engines if task in engine.tasks)


def read_on(client: Client, begun: threading.Barrier, ends: list[CallFailed | None]) -> None:
    """Read a stream to its end; pass the barrier `begun` after the first piece."""
    try:
        with client.generate("talk", COUNT, timeout_seconds=60) as stream:
            pieces = iter(stream)
            next(pieces)
            begun.wait()
            for _ in pieces:
                pass
        ends.append(None)
    except CallFailed as failed:
        ends.append(failed)


@pytest.mark.release
def test_engine_killed_with_sixteen_streams_restarts(daemon: RunningDaemon, tmp_path: Path) -> None:
    """When an engine with 16 streams is killed, each stream ends with STREAM_BROKEN and a retry delay; the engine
    restarts once and answers."""
    daemon.install(bundle(tmp_path / "talk", "generate", "talk", smollm2_path()))
    begun, ends = threading.Barrier(STREAMS + 1), list[CallFailed | None]()
    with daemon.admin() as admin, daemon.client() as client:
        before = engine_of(admin, "talk")
        readers = [threading.Thread(target=read_on, args=(client, begun, ends)) for _ in range(STREAMS)]
        for reader in readers:
            reader.start()
        begun.wait(60)
        os.kill(before.pid, signal.SIGKILL)
        for reader in readers:
            reader.join()
        assert [("UNAVAILABLE", "STREAM_BROKEN")] * STREAMS == [(end.code, end.reason) for end in ends if end]
        assert all(end and (end.retry_after_seconds or 0) > 0 for end in ends)
        eventually_sync(lambda: engine_of(admin, "talk").state == "READY")
        assert before.pid != engine_of(admin, "talk").pid
        with client.generate("talk", COUNT, timeout_seconds=60, output_tokens_max=2) as stream:
            assert "".join(stream)
        assert 1 == engine_of(admin, "talk").restarts
        assert 0 == engine_of(admin, "sort").restarts


@pytest.mark.release
async def test_overloaded_queue_serves_every_caller(daemon: RunningDaemon) -> None:
    """For a minute, each of 150 callers on 16 sequences and a queue of 32 is answered repeatedly, and every refusal has
    a retry delay."""
    refusals: Counter[str] = Counter()
    until = time.monotonic() + CROWDED_SECONDS
    in_a_row = 0

    async def call(client: AsyncClient) -> int:
        nonlocal in_a_row
        answers = 0
        while time.monotonic() < until or answers < ANSWERS_EACH:
            try:
                await client.classify("sort", [TEXT], timeout_seconds=30)
                answers, in_a_row = answers + 1, 0
            except CallFailed as failed:
                refusals[f"{failed.code} {failed.reason}"] += 1
                in_a_row += 1
                assert (failed.retry_after_seconds or 0) > 0
                assert in_a_row <= REFUSALS_IN_A_ROW_MAX
                await asyncio.wait_for(client.task("sort"), 30)  # a moment in which others come to word
        return answers

    async with AsyncClient(daemon.inference) as client:
        answers = await asyncio.gather(*(call(client) for _ in range(CROWD)))
        assert min(answers) >= ANSWERS_EACH
        assert refusals.keys() <= {"RESOURCE_EXHAUSTED QUEUE_FULL", "RESOURCE_EXHAUSTED CLIENT_SHARE_FULL"}
        assert refusals
        assert await client.classify("sort", [TEXT], timeout_seconds=10)


@pytest.mark.slow
async def test_burst_of_short_deadlines_leaves_no_pending_work(daemon: RunningDaemon) -> None:
    """After 300 calls with deadlines of 1 to 60 ms, each answered, refused or expired, no work is pending and the
    engine has not restarted."""
    dice, outcomes = random.Random(1), Counter[str]()

    async def call(client: AsyncClient, seconds: float) -> None:
        try:
            await client.classify("sort", [TEXT], timeout_seconds=seconds)
            outcomes["OK"] += 1
        except CallFailed as failed:
            outcomes[failed.code] += 1

    async with AsyncClient(daemon.inference) as client:
        for _ in range(HURRIED // 50):
            await asyncio.gather(*(call(client, dice.uniform(0.001, 0.06)) for _ in range(50)))
        with daemon.admin() as admin:
            eventually_sync(lambda: engine_of(admin, "sort").pending == 0)
            assert 0 == engine_of(admin, "sort").restarts
        assert outcomes.keys() <= {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}
        assert outcomes["DEADLINE_EXCEEDED"] > 0
        assert HURRIED == outcomes.total()
        assert await client.classify("sort", [TEXT], timeout_seconds=10)


@pytest.mark.slow
def test_unattainable_deadline_is_refused_with_retry_delay(daemon: RunningDaemon, tmp_path: Path) -> None:
    """An engine that has measured enough steps refuses a deadline of a sixth of the usual time with
    DEADLINE_UNATTAINABLE and a retry delay. Before that, such a call is answered or expires."""
    daemon.install(bundle(tmp_path / "talk", "generate", "talk", smollm2_path()))
    numbers, ends = itertools.count(), list[CallFailed]()

    def read(client: Client, seconds: float) -> None:
        text = f"{next(numbers)}. {LONG}"
        with client.generate("talk", text, timeout_seconds=seconds, output_tokens_max=1) as stream:
            "".join(stream)

    def refused() -> bool:
        with daemon.client() as client:
            started = time.perf_counter()
            read(client, 120.0)
            try:
                read(client, (time.perf_counter() - started) / 6)
            except CallFailed as failed:
                ends.append(failed)
        return bool(ends) and "DEADLINE_UNATTAINABLE" == ends[-1].reason

    eventually_sync(refused)
    assert "RESOURCE_EXHAUSTED" == ends[-1].code
    assert (ends[-1].retry_after_seconds or 0) > 0
    assert all("DEADLINE_EXCEEDED" == end.code for end in ends[:-1])
