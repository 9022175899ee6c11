"""Jobs of all kinds on a llama engine of the tiny decoder, with and without adapters, sent and cancelled at random."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.formats.manifest import Manifest
from tests.support import tiny_gguf
from tests.support.gguf_adapter import TINY, write_adapter

JOBS = 6
CONTEXT_TOKENS = 320
KEPT_BYTES = 48 * 2**10
"""Less than the prompts of all texts take: what is kept comes and goes."""
STEPS_MAX = 20_000
FEW_STEPS_MAX = 2000
DIGITS = 4
"""Of a score that are compared; the others differ by up to 1e-7."""
TEXTS = (
    "How much is the blue lamp?",
    "I want my money back. " * 8,
    "I lost my umbrella. " * 5,
)
_SCHEMA = {
    "type": "object",
    "properties": {
        "wish": {"type": "string", "enum": ["refund", "price", "opening hours"]},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["wish", "count"],
    "additionalProperties": False,
}
_KINDS: dict[str, dict[str, Any]] = {
    "classify": {"labels": ("refund", "price", "opening hours", "opening hours today", "lost")},
    "extract": {"record_schema": _SCHEMA},
    "generate": {},
}


def manifest(kind: str, before: str = "A customer speaks.") -> Manifest:
    """Return a task of that kind, with a prompt that begins like that."""
    task = {
        "name": "till",
        "kind": kind,
        "prompt": {"template": f"{before} What does the customer want?\nCustomer: {{input}}\nWants:"},
        "limits": {"input_tokens_max": CONTEXT_TOKENS - 60, "output_tokens_max": 50},
        **_KINDS[kind],
    }
    whole = {"schema": "edge-agent/bundle/v1", "task": task, "version": "1.0.0", "runtime": "llama"}
    artifact = {"role": "weights", "path": "model.gguf", "sha256": "0" * 64, "size_bytes": 1}
    return Manifest.model_validate({**whole, "engine": {"context_tokens": CONTEXT_TOKENS}, "artifacts": [artifact]})


def tiny_runtime(
    folder: Path, kept_bytes: int = KEPT_BYTES, runtime: LlamaRuntime | None = None, jobs: int = JOBS
) -> LlamaRuntime:
    """Return a runtime with the tiny decoder and no bundles."""
    runtime = runtime or LlamaRuntime()
    weights = str(tiny_gguf.write(folder / "tiny.gguf", sharpened=True))
    runtime.load(
        LoadRequest(
            runtime="llama",
            weights=weights,
            context_tokens=CONTEXT_TOKENS,
            sequences_max=jobs,
            prompt_cache_bytes_max=kept_bytes,
        )
    )
    return runtime


def tiny_adapter(folder: Path, seed: int) -> dict[str, str]:
    """Write an adapter for the tiny decoder; return it as `Attach.paths` has it."""
    return {"adapter": str(write_adapter(folder / f"adapter-{seed}.gguf", seed, model=TINY))}


def said(done: JobResult) -> tuple[Any, ...]:
    """Return the rounded values that must not depend on the batch: llama.cpp sums up float32 weights, which the tiny
    decoder has, in an order that depends on the batch, and quantized ones do not.
    """
    return tuple(round(score, DIGITS) for score in done.scores), done.record


class MixedJobs:
    """Three kinds of task on the bare weights and on each of three adapters, and their jobs."""

    def __init__(self, runtime: LlamaRuntime, folder: Path, seed: int = 1) -> None:
        """Attach the bundles."""
        self.runtime, self.dice = runtime, random.Random(seed)
        self.digests: list[str] = []
        self.asked: dict[str, tuple[str, str]] = {}
        """Digest and text of each job."""
        self.ends: Counter[str] = Counter()
        self.answers: dict[str, JobResult] = {}
        self.reasons: Counter[str] = Counter()
        self.waiting: list[str] = []
        for adapter in range(4):
            for kind in _KINDS:
                paths = tiny_adapter(folder, adapter) if adapter else {}
                runtime.attach(f"{kind}-{adapter}", manifest(kind), paths)
                self.digests.append(f"{kind}-{adapter}")

    def alone(self) -> dict[tuple[str, str], tuple[Any, ...]]:
        """Return the scores or the record of each bundle for each text, computed by itself."""
        answers = {}
        for digest in self.digests:
            if digest.startswith("generate"):  # a text may depend on who is beside it
                continue
            for text in TEXTS:
                job_id = self._ask(digest, text)
                self.finish()
                answers[digest, text] = said(self.answers[job_id])
        return answers

    def ask(self) -> None:
        """Submit some job."""
        self._ask(self.dice.choice(self.digests), self.dice.choice(TEXTS))

    def _ask(self, digest: str, text: str) -> str:
        job_id = str(len(self.asked))
        self.asked[job_id] = digest, text
        self.waiting.append(job_id)
        tokens_max = 50 if digest.startswith("extract") else 20
        self.runtime.submit(JobRequest(job_id=job_id, digest=digest, text=text, output_tokens_max=tokens_max))
        return job_id

    def cancel(self) -> None:
        """Cancel one of the jobs that have not ended."""
        self._note(self.runtime.cancel(self.dice.choice(self.waiting)))

    def step(self) -> None:
        """Compute one step."""
        self._note(self.runtime.step())

    def finish(self) -> None:
        """Step until nothing is left to do."""
        for _ in range(STEPS_MAX):
            if not self.runtime.busy:
                return
            self.step()
        raise AssertionError(f"still busy after {STEPS_MAX} steps")

    def _note(self, events: list[Event]) -> None:
        for event in events:
            if not isinstance(event, JobResult | FailureReport):
                continue
            self.ends[event.job_id] += 1
            self.waiting.remove(event.job_id)
            if isinstance(event, JobResult):
                self.answers[event.job_id] = event
            else:
                self.reasons[event.reason] += 1


def cells_in_use(runtime: LlamaRuntime) -> int:
    """Return how many cells of the buffer hold something."""
    use = runtime.cache_use
    assert use is not None
    return use.cells_in_use


def computed_together(runtime: LlamaRuntime) -> int:
    """Return the number of jobs with a slot."""
    return sum(job.slot is not None for job in runtime._jobs.values())


def finish(runtime: LlamaRuntime) -> list[Event]:
    """Step until nothing is left to do."""
    events: list[Event] = []
    for _ in range(FEW_STEPS_MAX):
        if not runtime.busy:
            return events
        events += runtime.step()
    raise AssertionError(f"still busy after {FEW_STEPS_MAX} steps")
