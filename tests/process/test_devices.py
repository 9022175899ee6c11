"""Engines on an accelerator, in real child processes: the echo runtime reports each device that it is given.

The children are confined like those that drive a device. test_vulkan.py tests them with a real driver.
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
    """Report an available device for every runtime."""
    return DeviceSupport(known=("vulkan",), built=("vulkan",), present=("vulkan",))


@contextlib.asynccontextmanager
async def pool_of(**settings: object) -> AsyncIterator[EnginePool]:
    """Yield a pool with one bundle on a machine with a GPU."""
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


async def test_answer_names_the_device() -> None:
    """With `device: auto` the engine uses the available GPU, each answer names it without degradation, and the child is
    confined."""
    async with pool_of() as pool:
        said = await answer(pool, "a refund")
        assert ComputeInfo("vulkan:0", ()) == said.compute
        assert ("vulkan:0", "") == (engine(pool).device, fallback(pool))
        assert ("on", "on") == tuple(engine(pool).details[measure] for measure in ("seccomp", "landlock"))
        assert {"cpu", "vulkan"} == pool.factory.devices


async def test_configured_cpu_is_not_a_degradation() -> None:
    """With `device: cpu` the engine computes on the CPU without a degradation, even if the machine has a GPU."""
    async with pool_of(device="cpu") as pool:
        assert ComputeInfo("cpu", ()) == (await answer(pool, "a refund")).compute
        assert {"cpu"} == pool.factory.devices


async def test_device_without_a_built_library_falls_back_to_the_cpu() -> None:
    """If the installed library is not built for the configured device, the CPU computes; status has the reason, and
    each answer has DEVICE_FALLBACK."""
    without = DeviceSupport(known=("cuda",))
    pool = EnginePool(CONFIG.model_copy(update={"device": "cuda"}), lambda: None, detect_support=lambda _: without)
    try:
        await pool.attach("intent", INTENT, encode(INTENT), {})
        assert ComputeInfo("cpu", ("DEVICE_FALLBACK",)) == (await answer(pool, "a refund")).compute
        assert "cuda is not used: the installed echo library is not built for it" == fallback(pool)
    finally:
        await pool.stop()


async def test_a_bundle_that_needs_a_device_is_refused_without_it() -> None:
    """A bundle whose required device the engine does not use is refused; the error names both devices, and nothing of
    the bundle remains."""
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
    """If the site's configuration leaves the device open, the first bundle's requirement selects it."""
    needy = INTENT.model_copy(update={"requires": Requires(device="vulkan")})
    pool = EnginePool(CONFIG, lambda: None, detect_support=a_card)
    try:
        await pool.attach("needy", needy, encode(needy), {})
        assert "vulkan:0" == (await answer(pool, "a refund", "needy")).compute.device
    finally:
        await pool.stop()


async def test_device_is_left_after_the_second_death_of_a_child() -> None:
    """After the first death of a child the engine restarts on the device, after the second on the CPU, where the
    interrupted input is answered; the deaths do not count as crashes of the bundle."""
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
    """An input that kills the child on the device, there again and on the CPU ends with an error; the engine continues
    on the CPU."""
    async with pool_of() as pool:
        with pytest.raises(EngineCrashed):
            await answer(pool, "!crash")
        await eventually(lambda: pool.ready("intent"))
        assert "cpu" == (await answer(pool, "a refund")).compute.device


@pytest.mark.slow
async def test_kills_from_outside_do_not_disable_the_device() -> None:
    """The engine keeps the device although an operator kills its child three times."""
    async with pool_of() as pool:
        for _ in range(3):
            killed = engine(pool).pid
            os.kill(killed, signal.SIGKILL)
            await eventually(lambda killed=killed: pool.ready("intent") and engine(pool).pid not in (0, killed))
        assert ComputeInfo("vulkan:0", ()) == (await answer(pool, "a refund")).compute


@pytest.mark.slow
async def test_idle_engine_returns_to_a_lost_device() -> None:
    """After `device_retry_seconds` an idle engine uses the lost device again, and its answers name it."""
    async with pool_of(device_failures_max=1, device_retry_seconds=1.0, heartbeat_seconds_max=0.8) as pool:
        os.kill(engine(pool).pid, signal.SIGABRT)
        await eventually(lambda: pool.ready("intent") and engine(pool).device == "cpu")
        assert ("DEVICE_FALLBACK",) == (await answer(pool, "a refund")).compute.degraded
        await eventually(lambda: pool.ready("intent") and engine(pool).device == "vulkan:0", seconds=60)
        assert ComputeInfo("vulkan:0", ()) == (await answer(pool, "a refund")).compute


def golden(folder: Path, answers: list[str]) -> dict[str, Path]:
    """Write a golden file in which every text has one of these answers."""
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
async def test_golden_answers_decide_whether_a_device_is_used(tmp_path: Path, answers: list[str], device: str) -> None:
    """A device can answer 1 of 20 golden inputs differently; with 2 the engine moves to the CPU and reports the reason.
    The bundle is attached in both cases."""
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


async def test_device_that_the_child_lacks_is_left_at_once(tmp_path: Path) -> None:
    """If the runtime in the child has no code for the device, the engine restarts on the CPU at once, without a failed
    load."""
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


async def test_self_test_uses_the_same_device() -> None:
    """The child of the self-test selects the device by the same rules as the serving engine."""
    async with pool_of() as pool, pool.sandbox_pool(30) as trial:
        await trial.attach("talk", TALK, encode(TALK), {})
        assert "vulkan:0" == engine(trial).device
