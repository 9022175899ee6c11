"""The self-test with real children: bundles that answer wrongly, crash, hang, leak, are slow or fail later.

The self-test does not affect the engine that serves: its child survives, and no child of a self-test remains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.pool import EnginePool
from edge_agent.errors import EdgeAgentError, EngineCrashed, MemoryShort, ModelLoadFailed
from edge_agent.formats.golden_cases import GoldenAnswer, GoldenCase
from edge_agent.formats.manifest import Manifest, PromptTemplate, TaskSpec, encode
from edge_agent.process_resources import resident_bytes
from edge_agent.server.engine_access import SandboxedBundle, open_sandbox
from edge_agent.update.selftest import BundleUnderTest, SelfTest, run_selftest
from edge_agent.update.update_state_machine import StepOutcome, classify_error
from tests.support.eventually import eventually

TEXTS = ("I want a refund", "what is the price", "none of these")
SECONDS = 20.0
CONFIG = EngineConfig(heartbeat_seconds_max=5.0, restart_seconds_first=0.05, cpu_threads=1)


def manifest(template: str = "{input}", kind: str = "classify", version: str = "2.0.0") -> Manifest:
    """Return an echo bundle that executes its template with every text."""
    labels = ("refund", "price") if kind in ("classify", "extract") else ()
    task = TaskSpec(name="intent", kind=kind, labels=labels, prompt=PromptTemplate(template=template))
    return Manifest(task=task, version=version, runtime="echo")


def loadable(made: Manifest) -> tuple[Manifest, bytes, dict[str, Path]]:
    """Return the manifest, its bytes and the paths of its files, as an engine loads them."""
    return made, encode(made), {}


def subject(asked: SandboxedBundle) -> BundleUnderTest:
    """Return the interface through which the self-test queries a bundle."""
    return BundleUnderTest(asked.answer, asked.resident_bytes, asked.estimated_bytes, asked.crashes)


@pytest.fixture
async def pool() -> AsyncIterator[EnginePool]:
    """Return a pool that serves the bundle 'old'."""
    pool = EnginePool(CONFIG, lambda: None)
    good = manifest(version="1.0.0")
    await pool.attach("old", good, encode(good), {})
    yield pool
    assert pool.ready("old")
    assert [0] == [status.restarts for status in pool.statuses()]
    await pool.stop()


async def golden(pool: EnginePool, kind: str = "classify") -> tuple[GoldenCase, ...]:
    """Return golden cases with the answers of a good bundle."""
    async with open_sandbox(pool, "made", *loadable(manifest(kind=kind)), 20) as asked:
        said = [(await asked.answer(text, 10))[0] for text in TEXTS]
    return tuple(GoldenCase(input=t, answer=s.answer, scores=s.scores) for t, s in zip(TEXTS, said, strict=True))


async def outcome(pool: EnginePool, made: Manifest, cases: tuple[GoldenCase, ...]) -> StepOutcome:
    """Test a bundle next to 'old'."""
    exam = SelfTest(cases, made.task.kind == "embed", 200, SECONDS)
    old = SandboxedBundle(pool, "old", manifest()) if made.task.kind == "classify" else None
    try:
        async with open_sandbox(pool, "new", *loadable(made), SECONDS) as asked:
            return await run_selftest(exam, subject(asked), subject(old) if old else None)
    except EdgeAgentError as error:
        return classify_error(error)


@pytest.mark.parametrize(
    "kind", ["classify", *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("extract", "generate", "embed"))]
)
async def test_a_good_bundle_passes(pool: EnginePool, kind: str):
    """A bundle of each kind that repeats its golden answers passes."""
    found = await outcome(pool, manifest(kind=kind), await golden(pool, kind))
    assert ("", "3 of 3 golden inputs are answered alike") == (found.reason, found.message)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("!crash {input}", "ENGINE_CRASHED"),
        ("!crash after 2 {input}", "CRASHES"),
        ("!crash after 8 {input}", "CRASHES"),
        ("!hang {input}", "ENGINE_CRASHED"),
        ("!fail {input}", "MODEL_FAILED"),
        ("!leak 10 {input}", "MEMORY_GROWS"),
        ("!slow 30 {input}", "SLOWER"),
    ],
)
async def test_a_bundle_that_behaves_badly_fails(pool: EnginePool, template: str, reason: str):
    """Each bad bundle fails in a separate child, which ends afterwards, and 'old' continues to answer."""
    cases = await golden(pool)
    found = await outcome(pool, manifest(template), cases)
    assert reason == found.reason, found
    assert 1 == len(pool.statuses())
    said, _ = await SandboxedBundle(pool, "old", manifest()).answer(TEXTS[0], 10)
    assert (cases[0].answer, cases[0].scores) == (said.answer, said.scores)


async def test_bundle_with_other_scores_fails(pool: EnginePool):
    """A bundle with the right label but another confidence than the golden case fails."""
    cases = await golden(pool)
    spoilt = tuple(case.model_copy(update={"scores": (0.5, 0.5)}) for case in cases)
    assert "GOLDEN_DIFFERS" == (await outcome(pool, manifest(), spoilt)).reason


async def test_a_bundle_that_does_not_load_fails(pool: EnginePool, tmp_path: Path):
    """A bundle that does not load fails at the first attempt: the self-test does not restart its child."""
    missing = {"weights": tmp_path / "none"}
    with pytest.raises(ModelLoadFailed):
        async with open_sandbox(pool, "new", manifest(), encode(manifest()), missing, 20):
            raise AssertionError("it does not load")


async def test_sandbox_gets_the_memory_that_serving_engines_leave():
    """The memory limit applies to serving engines and the self-test together: the self-test's child gets only the
    rest."""
    cap = 4 * 2**30
    pool = EnginePool(CONFIG.model_copy(update={"memory_bytes_max": cap}), lambda: None)
    good = manifest(version="1.0.0")
    await pool.attach("old", good, encode(good), {})
    used = pool.resident_bytes("old")
    async with pool.sandbox_pool(20) as trial:
        await trial.attach("new", good, encode(good), {})
        (engine,) = trial._engines.values()
        assert cap - 2 * used < engine.child.load.memory_bytes_max <= cap - used // 2
    await pool.stop()


async def test_child_ends_when_the_self_test_is_cancelled(pool: EnginePool):
    """If the self-test is cancelled during an answer, its child ends."""
    pids: list[int] = []

    async def hanging() -> None:
        async with open_sandbox(pool, "new", *loadable(manifest("!slow 60000 {input}")), 60) as asked:
            assert pool._sandbox is not None
            pids.extend(child.pid for child in pool._sandbox.children)
            await asked.answer("x", 60)

    task = asyncio.create_task(hanging())
    await eventually(lambda: bool(pids))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 == resident_bytes(pids[0])


@pytest.mark.slow
async def test_crash_in_a_self_test_quarantines_no_input(pool: EnginePool):
    """An input that crashed the bundle under test is not quarantined, because the bundle is to blame."""
    for _ in range(2):
        async with open_sandbox(pool, "new", *loadable(manifest("!crash {input}")), 20) as asked:
            with pytest.raises(EngineCrashed):
                await asked.answer(TEXTS[0], 10)
    said, _ = await SandboxedBundle(pool, "old", manifest()).answer(TEXTS[0], 10)
    assert isinstance(said, GoldenAnswer)


def test_memory_short_blocks_the_self_test():
    """A self-test that fails because memory is short ends as BLOCKED, so the bundle is tested again."""
    assert "BLOCKED" == classify_error(MemoryShort("no room")).end.name
