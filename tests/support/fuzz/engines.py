"""Model files that are read by libraries: in this process, for many cases in a second, and as the daemon reads them.

In this process a library may die or hang of a file; then `settle_...` reads it again through the pool of engines, with
a child that is confined, and what counts is how that ends: the bundle answers, or is refused with a reason.
"""

from __future__ import annotations

import asyncio
import functools
import shutil
from collections.abc import Callable
from pathlib import Path

from edge_agent.config import EngineConfig
from edge_agent.engine import protocol
from edge_agent.engine.pool import EnginePool
from edge_agent.engine.runtimes import create
from edge_agent.errors import EdgeAgentError
from tests.support import bundles, gguf_head
from tests.support.fuzz import corpus

Read = Callable[[bytes], object]
MODEL_BYTES_MAX = 512 * 2**20
"""What one model of some kilobytes may take, libraries included."""
ANSWER_SECONDS_MAX = 20.0
LABELS = ("refund", "price")
TEXT = "I want a refund"
DIGEST = "d" * 64


def onnx_graph(folder: Path) -> Read:
    """Return a reader that loads a graph, attaches a bundle and answers a text in this process."""
    return _in_this_process(_onnx_bundle(folder), "model.onnx")


def tokenizer(folder: Path) -> Read:
    """Return a reader that opens a tokenizer.json with a valid graph and answers a text."""
    return _in_this_process(_onnx_bundle(folder), "tokenizer.json")


def settle_onnx_graph(folder: Path, raw: bytes) -> None:
    """Load a graph in an engine's child. Raises EdgeAgentError."""
    _in_a_child(_onnx_bundle(folder), "model.onnx")(raw)


def settle_tokenizer(folder: Path, raw: bytes) -> None:
    """Open a tokenizer in an engine's child. Raises EdgeAgentError."""
    _in_a_child(_onnx_bundle(folder), "tokenizer.json")(raw)


def onnx_in_a_child(folder: Path) -> Read:
    """Return a reader that loads a graph in an engine's child."""
    return _in_a_child(_onnx_bundle(folder), "model.onnx")


def gguf_in_a_child(folder: Path) -> Read:
    """Return a reader that loads a GGUF file in an engine's child."""
    raw = corpus.sound("gguf-engine")
    fields = {
        "schema": "edge-agent/bundle/v1",
        "runtime": "llama",
        "version": "1.0.0",
        "task": {
            "name": "a",
            "kind": "classify",
            "labels": LABELS,
            "prompt": {"template": "{input} is a"},
            "limits": {"input_tokens_max": 32},
        },
        "engine": {"context_tokens": 64},
    }
    bundle = bundles.write(folder / "bundle", fields, {}, {"weights": ("model.gguf", raw)})
    return _in_a_child(bundle, "model.gguf")


def _onnx_bundle(folder: Path) -> Path:
    files: dict[str, tuple[str, bytes | Path]] = {
        "weights": ("model.onnx", corpus.sound("onnx-graph")),
        "tokenizer": ("tokenizer.json", corpus.sound("tokenizer")),
    }
    fields = {
        "schema": "edge-agent/bundle/v1",
        "runtime": "onnx",
        "version": "1.0.0",
        "task": {"name": "a", "kind": "classify", "labels": LABELS, "limits": {"input_tokens_max": 32}},
    }
    shutil.rmtree(folder / "bundle", ignore_errors=True)
    return bundles.write(folder / "bundle", fields, {}, files)


def _in_this_process(bundle: Path, name: str) -> Read:
    described, paths = bundles.manifest_of(bundle), bundles.paths_of(bundle)
    load = protocol.LoadRequest(
        runtime="onnx", weights=paths["weights"], readable=(str(bundle),), memory_bytes_max=MODEL_BYTES_MAX
    )

    def read(raw: bytes) -> None:
        (bundle / name).write_bytes(raw)
        runtime = create("onnx")
        try:
            runtime.load(load)
            runtime.attach(DIGEST, described, paths)
            try:
                runtime.submit(protocol.JobRequest(job_id="1", digest=DIGEST, text=TEXT))
            except EdgeAgentError:  # a tokenizer that knows no text: the caller is told
                return
            events = runtime.step()
            assert ["1"] == [event.job_id for event in events], "a job did not end once"
            for event in events:
                if isinstance(event, protocol.JobResult):
                    assert len(event.scores) == len(LABELS)
                    assert abs(sum(event.scores) - 1) < 1e-3
        finally:
            runtime.close()

    return read


def _in_a_child(bundle: Path, name: str) -> Read:
    digest, described, paths = bundles.digest_of(bundle), bundles.manifest_of(bundle), bundles.paths_of(bundle)
    manifest_bytes = (bundle / "manifest.json").read_bytes()
    config = EngineConfig(
        cpu_threads=1,
        tune=False,
        memory_bytes_max=MODEL_BYTES_MAX,
        memory_reserve_bytes=0,
        load_seconds_max=ANSWER_SECONDS_MAX,
        heartbeat_seconds_max=ANSWER_SECONDS_MAX,
    )

    async def tried() -> None:
        pool = EnginePool(config, lambda: None, [bundle])
        try:
            async with pool.sandbox_pool(ANSWER_SECONDS_MAX) as trial:
                await trial.attach(
                    digest, described, manifest_bytes, {role: Path(path) for role, path in paths.items()}
                )
                until = asyncio.get_running_loop().time() + ANSWER_SECONDS_MAX
                await trial.answer(protocol.JobRequest(job_id="1", digest=digest, text=TEXT), until)
        finally:
            await pool.stop()

    def read(raw: bytes) -> None:
        (bundle / name).write_bytes(raw)
        asyncio.run(tried())

    return read


@functools.cache
def gguf_heads() -> tuple[bytes, ...]:
    """Return heads of several shapes."""
    return (gguf_head.gguf(), gguf_head.gguf(version=2))
