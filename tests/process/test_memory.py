"""The memory limits of real children: estimates match the use, and a model that does not fit is never loaded."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import llama_cpp as llama
import pytest

from edge_agent.config import EngineConfig
from edge_agent.engine.child_process import CHILD_ENVIRONMENT, ChildProcess
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.protocol import (
    AttachRequest,
    BundleAttached,
    ChildReady,
    DetachRequest,
    FailureReport,
    FromChild,
    JobRequest,
    JobResult,
    LoadRequest,
)
from edge_agent.engine.runtimes.llama.memory_estimate import adapter_bytes
from edge_agent.errors import MemoryShort
from edge_agent.formats import manifest
from edge_agent.process_resources import resident_bytes
from tests.support import bundles, models
from tests.support.children import spawned
from tests.support.eventually import eventually
from tests.support.gguf_adapter import write_adapter

MIB = 2**20
BARE_BYTES_MAX = 100 * MIB  # a child with its libraries and no model
INPUTS = 2
DIFFERENT_INPUTS = 10
GEMMA = Path(__file__).parents[2] / ".cache/models/gemma-3-270m-Q4_K_M.gguf"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
BundleMaker = Callable[[Path], Path]


@dataclass
class ChildMessages:
    """The messages of a child."""

    process: ChildProcess
    heard: list[FromChild] = field(default_factory=list)

    async def next(self, kind: type[FromChild]) -> FromChild:
        """Wait for a message of that kind."""

        def found() -> list[FromChild]:
            assert kind is FailureReport or not any(isinstance(each, FailureReport) for each in self.heard), self.heard
            return [each for each in self.heard if isinstance(each, kind)]

        await eventually(lambda: bool(found()), seconds=60)
        return found()[-1]


@contextlib.asynccontextmanager
async def child(memory_bytes_max: int = 0) -> AsyncIterator[ChildMessages]:
    """Start a child with this much available memory; kill it at the end."""
    heard: list[FromChild] = []
    process = await spawned(heard.append, lambda _: None, memory_bytes_max)
    try:
        yield ChildMessages(process, heard)
    finally:
        process.kill()
        await process.wait_until_gone()


def load_of(folder: Path, memory_bytes_max: int = 0, threads: int = 2) -> LoadRequest:
    """Return the request that a pool would send for a bundle."""
    about = bundles.manifest_of(folder)
    return LoadRequest(
        runtime=about.runtime,
        weights=bundles.paths_of(folder)["weights"],
        context_tokens=about.engine.context_tokens,
        kv_type=about.engine.kv_type,
        threads=threads,
        readable=(str(folder),),
        memory_bytes_max=memory_bytes_max,
    )


def smollm2_q4_1(folder: Path) -> Path:
    return bundles.smollm2_bundle(folder, "generate")


def smollm2_q4_0(folder: Path) -> Path:
    """Return a bundle with a weight type of which ggml keeps a second copy for this processor."""
    bundles.smollm2_bundle(folder, "generate")
    params = llama.llama_model_quantize_default_params()
    params.ftype, params.allow_requantize, params.nthread = llama.LLAMA_FTYPE_MOSTLY_Q4_0, True, 2
    source, target = (str(path).encode() for path in (models.smollm2_path(), folder / "model.gguf"))
    assert 0 == llama.llama_model_quantize(source, target, ctypes.byref(params))
    return folder


def gemma(folder: Path) -> Path:
    """Return a bundle of the model with a vocabulary of 262,144 tokens."""
    if not GEMMA.is_file():
        pytest.skip("Gemma comes under terms of its own and is no part of this project: 'scripts/bench llm' loads it")
    bundles.smollm2_bundle(folder, "generate", task={"prompt": {"chat": False, "system": "", "template": "{input}"}})
    (folder / "model.gguf").unlink()
    shutil.copyfile(GEMMA, folder / "model.gguf")
    return folder


def minilm(folder: Path) -> Path:
    return bundles.minilm_bundle(folder)


async def worked(talk: ChildMessages, folder: Path, inputs: int) -> int:
    """Load a bundle and compute inputs of the maximum length; return the estimated need."""
    talk.process.send(load_of(folder))
    ready = await talk.next(ChildReady)
    assert isinstance(ready, ChildReady)
    about = bundles.manifest_of(folder)
    talk.process.send(AttachRequest(digest="a", manifest=manifest.encode(about), paths=bundles.paths_of(folder)))
    await talk.next(BundleAttached)
    text = " the" * (about.task.limits.input_tokens_max - 60)
    for number in range(inputs):
        talk.process.send(JobRequest(job_id=str(number), digest="a", text=f"{number}{text}", output_tokens_max=4))
    await eventually(
        lambda: inputs == sum(isinstance(each, JobResult | FailureReport) for each in talk.heard), seconds=300
    )
    assert [] == [each for each in talk.heard if isinstance(each, FailureReport)]
    return int(ready.details["memory_estimated_bytes"])


@pytest.mark.slow
async def test_memory_estimate_of_an_encoder_is_a_close_upper_bound(tmp_path: Path) -> None:
    """After full-length inputs an encoder's child uses at most the memory that was estimated before loading, and at
    least two thirds of it."""
    taken, reckoned = await measured(minilm(tmp_path), INPUTS)
    assert taken <= reckoned <= 1.5 * taken, f"{reckoned / taken:.2f} of {taken / MIB:.0f} MiB"


@pytest.mark.parametrize(
    "bundle",
    [
        pytest.param(smollm2_q4_1, marks=pytest.mark.slow),
        pytest.param(smollm2_q4_0, marks=pytest.mark.release),
        pytest.param(gemma, marks=pytest.mark.release),
    ],
)
async def test_memory_estimate_of_a_decoder_is_within_ten_percent(tmp_path: Path, bundle: BundleMaker) -> None:
    """After different long inputs have filled a decoder's prompt cache, its child uses the estimated memory, within
    10%."""
    taken, reckoned = await measured(bundle(tmp_path), DIFFERENT_INPUTS)
    assert 0.9 * taken <= reckoned <= 1.1 * taken, f"{reckoned / taken:.2f} of {taken / MIB:.0f} MiB"


async def measured(folder: Path, inputs: int) -> tuple[int, int]:
    """Return the memory that a child has taken after this many inputs, and its estimate."""
    async with child() as talk:
        reckoned = await worked(talk, folder, inputs)
        return resident_bytes(talk.process.pid), reckoned


@pytest.mark.slow
@pytest.mark.parametrize("bundle", [smollm2_q4_1, minilm])
async def test_model_over_the_memory_limit_is_not_loaded(tmp_path: Path, bundle: BundleMaker) -> None:
    """A model whose need exceeds the limit is refused with all numbers by a child that has loaded nothing; a model that
    needs exactly the limit is loaded."""
    folder = bundle(tmp_path)
    async with child(200 * MIB) as talk:
        talk.process.send(load_of(folder, memory_bytes_max=200 * MIB))
        refused = await talk.next(FailureReport)
        refusing = talk.process.processor_seconds
        taken = resident_bytes(talk.process.pid)
    assert isinstance(refused, FailureReport)
    assert ("", "MEMORY_SHORT") == (refused.job_id, refused.reason)
    parts = ("weights", "copies", "cache", "compute", "process")
    needed = int(refused.metadata["needed_bytes"])
    assert needed == sum(int(refused.metadata[f"{part}_bytes"]) for part in parts)
    assert str(200 * MIB) == refused.metadata["available_bytes"]
    assert f"needs {needed / 1e6:.1f} MB" in refused.message
    assert taken < BARE_BYTES_MAX
    async with child(needed) as talk:
        talk.process.send(load_of(folder, memory_bytes_max=needed))
        ready = await talk.next(ChildReady)
        loading = talk.process.processor_seconds
    assert isinstance(ready, ChildReady)
    assert refusing < loading
    assert [str(needed)] * 2 == [ready.details["memory_estimated_bytes"], ready.details["memory_limit_bytes"]]


@pytest.mark.slow
async def test_adapters_count_towards_the_memory_limit(tmp_path: Path) -> None:
    """An adapter that does not fit in addition to the base and other adapters is refused with the numbers; it fits
    after another one was detached."""
    folder = smollm2_q4_1(tmp_path)
    one, two = (str(write_adapter(folder / f"{seed}.gguf", seed)) for seed in (1, 2))
    about = manifest.encode(bundles.manifest_of(folder))

    def attach(digest: str, adapter: str) -> AttachRequest:
        return AttachRequest(digest=digest, manifest=about, paths={**bundles.paths_of(folder), "adapter": adapter})

    async with child(1) as talk:
        talk.process.send(load_of(folder, memory_bytes_max=1))
        refused = await talk.next(FailureReport)
    assert isinstance(refused, FailureReport)
    room = int(refused.metadata["needed_bytes"]) + int(1.5 * adapter_bytes(Path(one).stat().st_size))
    async with child(room) as talk:
        talk.process.send(load_of(folder, memory_bytes_max=room))
        await talk.next(ChildReady)
        talk.process.send(attach("one", one))
        await talk.next(BundleAttached)
        talk.process.send(attach("two", two))
        refused = await talk.next(FailureReport)
        assert isinstance(refused, FailureReport)
        assert ("two", "MEMORY_SHORT", str(room)) == (
            refused.job_id,
            refused.reason,
            refused.metadata["available_bytes"],
        )
        assert "+ adapters " in refused.message
        talk.heard.clear()
        talk.process.send(DetachRequest(digest="one"))
        talk.process.send(attach("two", two))
        assert BundleAttached(digest="two") == await talk.next(BundleAttached)


@pytest.mark.slow
async def test_engines_share_one_memory_limit(tmp_path: Path) -> None:
    """Of two engines that load at the same time and do not fit together, one is refused; it can be loaded after the
    other one stopped."""
    one = bundles.tiny_onnx_bundle(tmp_path / "a")
    other = bundles.tiny_onnx_bundle(tmp_path / "b", engine={"context_tokens": 2048})
    pool = EnginePool(EngineConfig(memory_bytes_max=160 * MIB, cpu_threads=1), lambda: None, [tmp_path])
    try:
        results = await asyncio.gather(
            bundles.attach_bundle(pool, one, "one"), bundles.attach_bundle(pool, other, "other"), return_exceptions=True
        )
        assert {type(None), MemoryShort} == {type(result) for result in results}
        first, second = ("one", "other") if pool.ready("one") else ("other", "one")
        folder = {"one": one, "other": other}[second]
        assert not pool.ready(second)
        await pool.detach(first, drain_seconds=0)
        await bundles.attach_bundle(pool, folder, second)
        assert pool.ready(second)
    finally:
        await pool.stop()


@pytest.mark.slow
async def test_available_memory_is_measured_at_each_start(tmp_path: Path) -> None:
    """An engine that restarts gets only the memory that engines started later have left."""
    one = bundles.tiny_onnx_bundle(tmp_path / "a")
    other = bundles.tiny_onnx_bundle(tmp_path / "b", engine={"context_tokens": 2048})
    config = EngineConfig(memory_bytes_max=400 * MIB, cpu_threads=1, restart_seconds_first=0.05)
    pool = EnginePool(config, lambda: None, [tmp_path])

    def limit() -> int:
        return int(pool.statuses()[0].details["memory_limit_bytes"])

    try:
        await bundles.attach_bundle(pool, one, "one")
        assert 400 * MIB == limit()
        await bundles.attach_bundle(pool, other, "other")
        os.kill(pool.statuses()[0].pid, signal.SIGKILL)
        await eventually(lambda: limit() < 400 * MIB, seconds=30)
        await eventually(lambda: pool.ready("one"), seconds=30)
    finally:
        await pool.stop()


async def test_required_memory_of_a_bundle_is_checked(tmp_path: Path) -> None:
    """`requires.memory_bytes` of a bundle is compared with the available memory before anything is loaded."""
    folder = bundles.tiny_onnx_bundle(tmp_path, requires={"memory_bytes": 2**50})
    pool = EnginePool(EngineConfig(), lambda: None, [tmp_path])
    try:
        with pytest.raises(MemoryShort, match=r"the bundle asks for 1125899906\.8 MB of memory"):
            await bundles.attach_bundle(pool, folder, "a")
        assert [] == pool.statuses()
    finally:
        await pool.stop()


async def test_pausing_frees_memory_only_for_an_unshared_engine(tmp_path: Path) -> None:
    """Pausing a bundle frees memory for another engine only if the bundle is alone on its engine and the new bundle
    needs another one."""
    one = bundles.echo_bundle(tmp_path / "a")
    other = bundles.manifest_of(bundles.echo_bundle(tmp_path / "b", weights=b"other"))
    pool = EnginePool(EngineConfig(), lambda: None, [tmp_path])
    try:
        await bundles.attach_bundle(pool, one, "one")
        assert pool.replaces("one", other)
        assert not pool.replaces("one", bundles.manifest_of(one))
        assert not pool.replaces("unknown", other)
        await bundles.attach_bundle(pool, one, "two")
        assert not pool.replaces("one", other)
    finally:
        await pool.stop()


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="the kernel gives huge pages unasked, or not at all",
)
def test_large_allocations_of_a_child_request_huge_pages() -> None:
    """A large allocation requests huge pages in the environment of a child, and does not without it."""
    code = "held = bytearray(64 << 20); print(any(' hg' in l for l in open('/proc/self/smaps') if 'VmFlags' in l))"

    def asks(more: dict[str, str]) -> bool:
        environment = {"PATH": os.environ["PATH"], **more}
        said = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        return said.stdout == "True\n"

    assert [True, False] == [asks(CHILD_ENVIRONMENT), asks({})]
