"""The reported use and savings of a real model's key-value cache."""

from __future__ import annotations

import pytest

from edge_agent.engine.protocol import CacheUse, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.formats.manifest import Manifest
from tests.support.models import smollm2_path

PREFIX = "What does the customer want?\nCustomer: My kettle broke.\nWants: refund\nCustomer: "


def make(kind: str, labels: tuple[str, ...]) -> Manifest:
    task = {
        "name": "till",
        "kind": kind,
        "labels": labels,
        "prompt": {"template": PREFIX + "{input}\nWants:"},
        "limits": {"input_tokens_max": 280, "output_tokens_max": 20},
    }
    whole = {"schema": "edge-agent/bundle/v1", "task": task, "version": "1.0.0", "runtime": "llama"}
    artifact = {"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}
    return Manifest.model_validate({**whole, "engine": {"context_tokens": 320}, "artifacts": [artifact]})


def used(runtime: LlamaRuntime) -> CacheUse:
    use = runtime.cache_use
    assert use is not None
    return use


def answer(runtime: LlamaRuntime, digest: str, text: str) -> int:
    """Compute one input; return the largest number of cells in use meanwhile."""
    runtime.submit(JobRequest(job_id="j", digest=digest, text=text, output_tokens_max=20))
    most = 0
    while runtime.busy:
        runtime.step()
        most = max(most, used(runtime).cells_in_use)
    return most


@pytest.mark.slow
def test_cache_reports_its_use_and_savings() -> None:
    """No cells are in use at first; an idle cache reports those of the last used prefixes, and more while jobs run. No
    job computes a prefix that was computed at attach."""
    runtime = LlamaRuntime()
    assert runtime.cache_use is None
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), context_tokens=320, sequences_max=4))
    try:
        runtime.attach("c", make("classify", ("refund", "price")), {})
        runtime.attach("g", make("generate", ()), {})
        idle = used(runtime)
        prefix = len(runtime._bundles["c"].prompt.tokens)
        assert 0 == idle.cells_in_use < idle.kept_bytes
        text = "How much is the blue lamp over there, next to the green one? " * 8
        assert answer(runtime, "g", text) > idle.cells_in_use + ROWS_MAX
        answer(runtime, "c", "How much is the lamp?")
        after = used(runtime)
        assert 2 * prefix == after.cells_in_use
        assert (idle.lookups + 2, idle.hits + 2) == (after.lookups, after.hits)
        assert 2 * prefix == after.reused - idle.reused
        assert len(text.split()) < after.computed - idle.computed < 280
    finally:
        runtime.close()
    assert runtime.cache_use is None


def test_cells_of_a_finished_job_are_freed_after_its_answer() -> None:
    """A step leaves the sequence of a job that it ends; `tidy` frees it, and the next job gets its cells with or
    without `tidy`."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), context_tokens=320, sequences_max=1))
    try:
        runtime.attach("c", make("classify", ("refund", "price")), {})
        cells, taken, done = runtime._cache._cells, list[tuple[int, int]](), list[JobResult]()
        for tidied in (True, False, True):
            runtime.submit(JobRequest(job_id="j", digest="c", text="How much is the lamp?"))
            while runtime.busy:
                done += [event for event in runtime.step() if isinstance(event, JobResult)]
            before = cells.taken
            if tidied:
                runtime.tidy()
            taken.append((before, cells.taken))
        prefix = len(runtime._bundles["c"].prompt.tokens)
        whole = taken[0][0]
        assert whole > prefix
        assert [(whole, prefix), (whole, whole), (whole, prefix)] == taken
        assert [done[0].scores] * 3 == [event.scores for event in done]
    finally:
        runtime.close()
