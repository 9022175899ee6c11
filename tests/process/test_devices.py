"""Engines that compute on a device, in real child processes: echo reports any device that it is given.

The children are confined as one that drives a device is. What a real driver does with them is in test_vulkan.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.engine import EngineStatus
from edge_agent.engine.job_dispatch import ComputeInfo, EngineAnswer
from edge_agent.engine.machine_limits import DeviceSupport
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import JobRequest
from edge_agent.errors import EngineCrashed, RequirementUnmet
from edge_agent.formats.golden_cases import GoldenCase
from edge_agent.formats.golden_cases import encode as encode_golden
from edge_agent.formats.manifest import Manifest, Requires, TaskSpec, encode
from tests.process.test_engine import running
from tests.support import bundles
from tests.support.eventually import eventually

CONFIG = EngineConfig(
    heartbeat_seconds_max=1.0,
    restart_seconds_first=0.05,
    load_seconds_max=20,
    load_failures_max=2,
    device_failures_max=2,
    device_retry_seconds=3600,
)
INTENT = Manifest(
    task=TaskSpec(name="intent", kind="classify", labels=("refund", "price")), version="1.0.0", runtime="echo"
)
TALK = Manifest(task=TaskSpec(name="talk", kind="generate"), version="1.0.0", runtime="echo")


def a_card(runtime: str) -> DeviceSupport:
    """Offer a device to every runtime."""
    return DeviceSupport(known=("vulkan",), built=("vulkan",), present=("vulkan",))


@contextlib.asynccontextmanager
async def pool_of(**settings: object) -> AsyncIterator[EnginePool]:
    """A pool on a machine with a card, with one bundle."""
    pool = EnginePool(CONFIG.model_copy(update=settings), lambda: None, detect_support=a_card)
    try:
        await pool.attach("intent", INTENT, encode(INTENT), {})
        yield pool
    finally:
        await pool.stop()


async def answer(pool: EnginePool, text: str, digest: str = "intent") -> EngineAnswer:
    run = JobRequest(job_id=f"{digest}-{text}", digest=digest, text=text, output_tokens_max=9)
    return await pool.answer(run, asyncio.get_running_loop().time() + 20)


def engine(pool: EnginePool) -> EngineStatus:
    (status,) = pool.statuses()
    return status


def fallback(pool: EnginePool) -> str:
    return engine(pool).shortfalls.get("DEVICE_FALLBACK", "")


async def test_an_answer_names_the_device() -> None:
    """auto takes the card that is there; the child is confined, and nothing is degraded."""
    async with pool_of() as pool:
        said = await answer(pool, "a refund")
        assert ComputeInfo("vulkan:0", ()) == said.compute
        assert ("vulkan:0", "") == (engine(pool).device, fallback(pool))
        assert ("on", "on") == tuple(engine(pool).details[measure] for measure in ("seccomp", "landlock"))
        assert {"cpu", "vulkan"} == pool.factory.devices


async def test_cpu_is_what_was_asked_for() -> None:
    """With the setting cpu nothing is missing, whatever the machine has."""
    async with pool_of(device="cpu") as pool:
        assert ComputeInfo("cpu", ()) == (await answer(pool, "a refund")).compute
        assert {"cpu"} == pool.factory.devices


async def test_what_is_not_built_is_told_and_left_alone() -> None:
    """The CPU computes; status has the reason and each answer the word."""
    without = DeviceSupport(known=("cuda",))
    pool = EnginePool(CONFIG.model_copy(update={"device": "cuda"}), lambda: None, detect_support=lambda _: without)
    try:
        await pool.attach("intent", INTENT, encode(INTENT), {})
        assert ComputeInfo("cpu", ("DEVICE_FALLBACK",)) == (await answer(pool, "a refund")).compute
        assert "cuda is not used: the installed echo library is not built for it" == fallback(pool)
    finally:
        await pool.stop()


async def test_a_bundle_that_needs_a_device_is_refused_without_it() -> None:
    """By name, with what the engine computes on and why, and nothing of it stays."""
    needy = INTENT.model_copy(update={"requires": Requires(device="cuda")})
    async with pool_of() as pool:
        with pytest.raises(RequirementUnmet, match="the bundle needs a cuda device; this engine computes on vulkan:0"):
            await pool.attach("needy", needy, encode(needy), {})
        assert ("intent",) == engine(pool).digests
    pool = EnginePool(CONFIG.model_copy(update={"device": "cpu"}), lambda: None, detect_support=a_card)
    with pytest.raises(RequirementUnmet, match="computes on cpu"):
        await pool.attach("needy", needy, encode(needy), {})
    assert [] == pool.statuses()


async def test_a_bundle_that_needs_a_device_gets_it() -> None:
    """Where the site leaves the choice open the first bundle's need makes it."""
    needy = INTENT.model_copy(update={"requires": Requires(device="vulkan")})
    pool = EnginePool(CONFIG, lambda: None, detect_support=a_card)
    try:
        await pool.attach("needy", needy, encode(needy), {})
        assert "vulkan:0" == (await answer(pool, "a refund", "needy")).compute.device
    finally:
        await pool.stop()


async def test_a_device_under_which_children_die_is_left() -> None:
    """The first death costs a restart on the device, the second the device; the input is answered on the CPU if it can
    be, and quarantined only for what it does there."""
    async with pool_of() as pool:
        first = engine(pool).pid
        os.kill(first, signal.SIGABRT)
        await eventually(lambda: pool.ready("intent") and engine(pool).pid not in (0, first))
        assert ("vulkan:0", "") == (engine(pool).device, fallback(pool))
        slow = asyncio.create_task(answer(pool, "!slow 400 refund"))
        await eventually(lambda: running(pool, "intent") == 1)
        os.kill(engine(pool).pid, signal.SIGABRT)
        assert ComputeInfo("cpu", ("DEVICE_FALLBACK",)) == (await slow).compute
        assert "2 failures, the last: the model's process died: killed by signal 6" in fallback(pool)
        assert 0 == pool.stats("intent").crashes


async def test_an_input_that_kills_every_child_ends_with_an_error() -> None:
    """On the device, on it again and on the CPU; the engine goes on there."""
    async with pool_of() as pool:
        with pytest.raises(EngineCrashed):
            await answer(pool, "!crash")
        await eventually(lambda: pool.ready("intent"))
        assert "cpu" == (await answer(pool, "a refund")).compute.device


@pytest.mark.slow
async def test_a_kill_from_outside_blames_no_device() -> None:
    """An operator's kill, however often, leaves the device in use."""
    async with pool_of() as pool:
        for _ in range(3):
            killed = engine(pool).pid
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda killed=killed: pool.ready("intent") and engine(pool).pid not in (0, killed))
        assert ComputeInfo("vulkan:0", ()) == (await answer(pool, "a refund")).compute


@pytest.mark.slow
async def test_an_idle_engine_goes_back_to_a_lost_device() -> None:
    """After the time that is set, when nothing runs; answers say so again."""
    async with pool_of(device_failures_max=1, device_retry_seconds=1.0, heartbeat_seconds_max=0.8) as pool:
        os.kill(engine(pool).pid, signal.SIGABRT)
        await eventually(lambda: pool.ready("intent") and engine(pool).device == "cpu")
        assert ("DEVICE_FALLBACK",) == (await answer(pool, "a refund")).compute.degraded
        await eventually(lambda: pool.ready("intent") and engine(pool).device == "vulkan:0", seconds=60)
        assert ComputeInfo("vulkan:0", ()) == (await answer(pool, "a refund")).compute


def golden(folder: Path, answers: list[str]) -> dict[str, Path]:
    """Write a golden file in which every text is answered so."""
    folder.mkdir()
    cases = [GoldenCase(input="a refund please", answer=answer, scores=(0.9, 0.1), tolerance=2.0) for answer in answers]
    (folder / "golden.jsonl").write_bytes(encode_golden(cases))
    return {"golden": folder / "golden.jsonl"}


@pytest.mark.parametrize(
    ("answers", "device"),
    [
        (["refund"] * 20, "vulkan:0"),
        (["refund"] * 19 + ["price"], "vulkan:0"),
        (["refund"] * 18 + ["price"] * 2, "cpu"),
    ],
)
async def test_golden_answers_decide_whether_a_device_may_be_used(
    tmp_path: Path, answers: list[str], device: str
) -> None:
    """One in twenty may be answered otherwise there; more, and the CPU computes, which says why. The bundle is attached
    all the same, beside one that was there."""
    pool = EnginePool(CONFIG, lambda: None, [tmp_path], detect_support=a_card)
    try:
        await pool.attach("intent", INTENT, encode(INTENT), {})
        await pool.attach("talk", TALK, encode(TALK), golden(tmp_path / "none", []))
        await pool.attach("judged", INTENT, encode(INTENT), golden(tmp_path / "some", answers))
        assert device == (await answer(pool, "a refund", "judged")).compute.device
        assert device == (await answer(pool, "a refund")).compute.device
        wrong = (
            "vulkan is not used: 2 of 20 golden inputs have different answers there: 'a refund please': the answer is"
        )
        assert fallback(pool).startswith(wrong if device == "cpu" else "")
        assert bool(fallback(pool)) == (device == "cpu")
    finally:
        await pool.stop()


async def test_what_the_child_finds_missing_is_left_at_once(tmp_path: Path) -> None:
    """A real runtime without code for the device: the CPU computes, without a failed load and without a pause."""
    folder = bundles.tiny_onnx_bundle(tmp_path / "tiny")
    about, claims = bundles.manifest_of(folder), DeviceSupport(known=("cuda",), built=("cuda",), present=("cuda",))
    paths = {role: Path(path) for role, path in bundles.paths_of(folder).items()}
    pool = EnginePool(CONFIG, lambda: None, [tmp_path], detect_support=lambda _: claims)
    try:
        await pool.attach("tiny", about, encode(about), paths)
        assert ("cpu", 1) == (engine(pool).device, engine(pool).restarts)
        assert "CUDAExecutionProvider" in fallback(pool)
    finally:
        await pool.stop()


async def test_a_trial_is_made_where_the_bundle_will_serve() -> None:
    """The self-test's child has the same choice of devices."""
    async with pool_of() as pool, pool.sandbox_pool(30) as trial:
        await trial.attach("talk", TALK, encode(TALK), {})
        assert "vulkan:0" == engine(trial).device
