"""The self-test with real children: bundles that answer wrong, crash, hang, leak, are slow or fail later.

Nothing of it reaches the engine that serves: its child lives on, and no child of a trial is left.
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
    """Return an echo bundle that does with every text as its template says."""
    labels = ("refund", "price") if kind in ("classify", "extract") else ()
    task = TaskSpec(name="intent", kind=kind, labels=labels, prompt=PromptTemplate(template=template))
    return Manifest(task=task, version=version, runtime="echo")


def loadable(made: Manifest) -> tuple[Manifest, bytes, dict[str, Path]]:
    """Return it as an engine loads it: the manifest, its bytes, and the paths of its files."""
    return made, encode(made), {}


def subject(asked: SandboxedBundle) -> BundleUnderTest:
    """Return what the self-test asks."""
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
    """Return what a good bundle says, as its maker would write it down."""
    async with open_sandbox(pool, "made", *loadable(manifest(kind=kind)), 20) as asked:
        said = [(await asked.answer(text, 10))[0] for text in TEXTS]
    return tuple(GoldenCase(input=t, answer=s.answer, scores=s.scores) for t, s in zip(TEXTS, said, strict=True))


async def outcome(pool: EnginePool, made: Manifest, cases: tuple[GoldenCase, ...]) -> StepOutcome:
    """Test a bundle beside 'old'."""
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
    """Of each kind, in the words of its golden file."""
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
    """Each in a child of its own, which is gone afterwards; 'old' answers as if nothing were."""
    cases = await golden(pool)
    found = await outcome(pool, manifest(template), cases)
    assert reason == found.reason, found
    assert 1 == len(pool.statuses())
    said, _ = await SandboxedBundle(pool, "old", manifest()).answer(TEXTS[0], 10)
    assert (cases[0].answer, cases[0].scores) == (said.answer, said.scores)


async def test_a_bundle_that_answers_wrong_fails(pool: EnginePool):
    """The label is right, and the confidence is another."""
    cases = await golden(pool)
    spoilt = tuple(case.model_copy(update={"scores": (0.5, 0.5)}) for case in cases)
    assert "GOLDEN_DIFFERS" == (await outcome(pool, manifest(), spoilt)).reason


async def test_a_bundle_that_does_not_load_fails(pool: EnginePool, tmp_path: Path):
    """At the first try: the child of a trial is not started again."""
    missing = {"weights": tmp_path / "none"}
    with pytest.raises(ModelLoadFailed):
        async with open_sandbox(pool, "new", manifest(), encode(manifest()), missing, 20):
            raise AssertionError("it does not load")


async def test_memory_that_serves_is_not_there_for_a_trial():
    """The cap is for both together: with it used up by what serves, the trial's child gets next to nothing."""
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


async def test_the_child_ends_with_the_block_whatever_happens(pool: EnginePool):
    """Also when the self-test is given up in the middle of an answer."""
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
async def test_a_crash_in_a_trial_is_forgotten(pool: EnginePool):
    """The input is not quarantined: the bundle is to blame, not the text."""
    for _ in range(2):
        async with open_sandbox(pool, "new", *loadable(manifest("!crash {input}")), 20) as asked:
            with pytest.raises(EngineCrashed):
                await asked.answer(TEXTS[0], 10)
    said, _ = await SandboxedBundle(pool, "old", manifest()).answer(TEXTS[0], 10)
    assert isinstance(said, GoldenAnswer)


def test_memory_short_is_this_machine_s_fault():
    """So a bundle that does not fit beside another is tried again."""
    assert "BLOCKED" == classify_error(MemoryShort("no room")).end.name
