"""The llama runtime: GGUF models score labels, write records and generate text, several inputs in one batch.

One base, one context; every bundle keeps its prompt prefix in it as a sequence and computes with its own LoRA adapter.
A step is one llama_decode of at most 63 tokens, planned by `scheduler.py`. A score is the same to the last bit whatever
else the engine does; `cache.py` says how.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edge_agent.engine.memory import Need
from edge_agent.engine.protocol import CacheUse, Done, Event, Failed, Load, Run
from edge_agent.engine.runtimes.jobs import cancelled, failed
from edge_agent.engine.runtimes.llama import backends, header
from edge_agent.engine.runtimes.llama.bundle import Bundle, read_bundle
from edge_agent.engine.runtimes.llama.cache import Cache, shape_of
from edge_agent.engine.runtimes.llama.context import ROWS_MAX, Rows
from edge_agent.engine.runtimes.llama.extraction import Extraction
from edge_agent.engine.runtimes.llama.grammar import Grammar, Tokens, tokens_of
from edge_agent.engine.runtimes.llama.native import ERRORS, Model, check_file
from edge_agent.engine.runtimes.llama.need import adapter_bytes, need_of, record_bytes
from edge_agent.engine.runtimes.llama.place import ON_CPU, placed
from edge_agent.engine.runtimes.llama.scheduler import Scheduler
from edge_agent.engine.runtimes.llama.work import Generation, Scoring
from edge_agent.errors import ModelFailed, ModelLoadFailed
from edge_agent.formats.manifest import Manifest
from edge_agent.formats.record_schema import Schema

WARM_UP_TEXT = "Hello"

Job = Scoring | Generation | Extraction


class LlamaRuntime:
    """One GGUF base and the bundles attached to it."""

    mailbox = -1

    def __init__(self) -> None:
        """Start with nothing loaded but llama.cpp and its code for this processor."""
        self.device = "cpu"
        ERRORS.install()  # before anything speaks: the daemon's log is JSON
        backends.load()
        self._cpu_variant = backends.cpu_variant()
        self._loaded = False
        self._model: Model
        self._cache: Cache
        self._need: Need
        self._available = 0
        self._bundles: dict[str, Bundle] = {}
        self._jobs: dict[str, Job] = {}
        self._sequences = 0
        self._tokens: Tokens | None = None
        self._scheduler = Scheduler(ROWS_MAX)

    def load(self, spec: Load) -> dict[str, str]:
        """Load weights and allocate the context, if memory holds them.

        Raises MemoryShort, ModelLoadFailed, DeviceUnusable.
        """
        head = header.read(spec.weights)
        shape = shape_of(spec.context_tokens, spec.sequences_max, spec.kv_type, spec.threads)
        need = need_of(head, Path(spec.weights).stat().st_size, shape, spec.sequences_max)
        place = ON_CPU if spec.device == "cpu" else placed(spec, head, shape)
        need = place.beside(need)
        need.check(spec.memory_bytes_max, spec.memory_bytes_wanted)
        model = Model(spec.weights, place.pointer, place.layers)
        try:
            if spec.context_tokens > model.context_tokens_max:
                raise ModelLoadFailed(
                    f"'context_tokens' is {spec.context_tokens}; "
                    f"{model.name} was trained with {model.context_tokens_max}"
                )
            self._cache = Cache(model, spec.context_tokens, spec.sequences_max, shape)
        except ModelLoadFailed:
            model.close()
            raise
        self._model, self._loaded, self.device = model, True, place.name
        self._need, self._available = need, spec.memory_bytes_max
        self._sequences = spec.sequences_max
        about = {"context_cells": str(shape.cells), "kv_type": spec.kv_type, "threads": str(spec.threads)}
        about["cpu_variant"] = self._cpu_variant
        return model.describe() | about | need.details(spec.memory_bytes_max) | place.details

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Tokenize the prompt, load the adapter, compute the prefix and one answer.

        Raises MemoryShort, ModelLoadFailed.
        """
        if digest in self._bundles:
            return
        bundle = read_bundle(digest, manifest, self._model)
        if manifest.task.record_schema is not None:
            bundle.grammar = self._grammar(manifest.task.record_schema)
        if "adapter" in paths:
            bundle.adapter_bytes = self._room_for(paths["adapter"])
        bundle.sequence = self._cache.reserve_prefix(len(bundle.prefix))
        self._rewind_jobs()
        try:
            if "adapter" in paths:
                bundle.adapter = self._model.load_adapter(paths["adapter"])
            self._warm(bundle)
        except ModelFailed as error:
            self._forget(bundle)
            name = Path(paths.get("adapter") or self._model.name).name
            raise ModelLoadFailed(f"the first answer with {name} failed: {error.message}") from None
        except ModelLoadFailed:
            self._forget(bundle)
            raise
        self._bundles[digest] = bundle

    def _grammar(self, schema: Schema) -> Grammar:
        """Return a schema in the model's tokens. Raises MemoryShort, ModelLoadFailed."""
        if self._tokens is None:
            more = record_bytes(self._model.vocab_size, self._sequences)
            need = replace(self._need, process=self._need.process + more)
            need.check(self._available)
            self._need, self._tokens = need, tokens_of(self._model)
        return Grammar(self._tokens, schema)

    def _room_for(self, adapter: str) -> int:
        """Return what an adapter takes. Raises MemoryShort unless it fits beside the base and the other adapters."""
        check_file(adapter)
        needed = adapter_bytes(Path(adapter).stat().st_size)
        others = sum(bundle.adapter_bytes for bundle in self._bundles.values())
        replace(self._need, adapters=others + needed).check(self._available)
        return needed

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle; the prefixes above it move down, and the jobs of other bundles start anew."""
        bundle = self._bundles.get(digest)
        if bundle is None:
            return []
        gone = [job_id for job_id, job in self._jobs.items() if job.bundle is bundle]
        events = [event for job_id in gone for event in self.cancel(job_id)]
        self._rewind_jobs()
        above = list(self._bundles.values())
        above = above[above.index(bundle) + 1 :]
        for other in above:
            self._cache.context.drop(other.sequence)
        del self._bundles[digest]
        self._forget(bundle)
        for other in above:
            self._cache.fill(other.sequence, 0, other.prefix, other.adapter)
        return events

    def submit(self, job: Run) -> None:
        """Take a job; it waits while all sequences are taken."""
        bundle = self._bundles.get(job.digest)
        if bundle is None:
            raise ModelFailed(f"bundle {job.digest[:12]} is not attached to this engine", digest=job.digest)
        tokens = bundle.suffix(self._model, job.text)
        if bundle.tree is not None:
            self._jobs[job.job_id] = Scoring(job, bundle, tokens, bundle.tree)
        elif bundle.grammar is not None:
            self._jobs[job.job_id] = Extraction(job, bundle, tokens, self._model, bundle.grammar)
        else:
            self._jobs[job.job_id] = Generation(job, bundle, tokens, self._model)

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job."""
        if job_id not in self._jobs:
            return []
        self._end(job_id)
        self._sweep()
        return [cancelled(job_id)]

    @property
    def busy(self) -> bool:
        """True while a job is unfinished."""
        return bool(self._jobs)

    @property
    def cache_use(self) -> CacheUse | None:
        """What the cache holds and has saved; None before the base is loaded."""
        return self._cache.use() if self._loaded else None

    def step(self) -> list[Event]:
        """Compute one batch."""
        self._admit()
        plan = self._scheduler.plan([job.lane() for job in self._jobs.values() if job.sequence >= 0])
        # Branches of labels last: their cells are freed after the step and have to be the highest.
        turns = sorted(((self._jobs[lane.key], rows) for lane, rows in plan), key=lambda turn: turn[0].pending == 0)
        events = self._compute(turns)
        for event in events:
            if isinstance(event, Done | Failed):
                self._end(event.job_id)
        self._sweep()
        return events

    def close(self) -> None:
        """Free jobs, adapters, context and weights, in this order."""
        for job_id in list(self._jobs):
            self._end(job_id)
        for bundle in self._bundles.values():
            self._forget(bundle)
        self._bundles.clear()
        self._tokens = None
        if self._loaded:
            self._cache.close()
            self._model.close()
        self._loaded = False

    def _warm(self, bundle: Bundle) -> None:
        """Compute the prefix, and one answer's first token behind it; raise ModelFailed unless both give numbers."""
        self._cache.fill(bundle.sequence, 0, bundle.prefix, bundle.adapter)
        branch = self._cache.fork(bundle.sequence)
        tokens = self._model.tokenize(bundle.blanks + WARM_UP_TEXT, special=False) + bundle.rest
        try:
            self._cache.fill(branch, len(bundle.prefix), tokens, bundle.adapter)
        finally:
            self._cache.drop_forks()

    def _forget(self, bundle: Bundle) -> None:
        """Free a bundle's prefix and adapter; llama.cpp crashes if it frees an adapter that is set."""
        self._cache.release_prefix(bundle.sequence)
        if bundle.adapter is not None:
            self._cache.context.use_adapter(None)
            self._model.free_adapter(bundle.adapter)
            bundle.adapter = None

    def _admit(self) -> None:
        """Give waiting jobs a sequence, oldest first."""
        for job in self._jobs.values():
            if job.sequence < 0:
                sequence = self._cache.enter(job.bundle.sequence)
                if sequence is None:
                    return
                job.start(sequence)

    def _compute(self, turns: list[tuple[Job, int]]) -> list[Event]:
        """Run one batch; a refusal by llama.cpp fails the jobs in it, and only those."""
        parts = [job.parts(rows, self._cache.fork) for job, rows in turns]
        try:
            exact = any(job.exact for job, _ in turns)
            self._cache.decode([row for part in parts for row in part], turns[0][0].bundle.adapter, exact=exact)
            return self._collect(turns, parts)
        except ModelFailed as error:
            return [failed(job.run.job_id, error) for job, _ in turns]
        finally:
            self._cache.drop_forks()

    def _collect(self, turns: list[tuple[Job, int]], parts: list[list[Rows]]) -> list[Event]:
        """Hand every job its logits; what is wrong with one job's logits fails that job."""
        events: list[Event] = []
        first = 0
        for (job, _), part in zip(turns, parts, strict=True):
            count = sum(len(rows.tokens) for rows in part)
            try:
                events += job.advance(self._cache.context, first, count)
            except ModelFailed as error:
                events.append(failed(job.run.job_id, error))
            first += count
        return events

    def _rewind_jobs(self) -> None:
        """Empty every job's sequence: what changes at the bottom of the cache must not leave holes below a job."""
        for job in self._jobs.values():
            if job.sequence >= 0:
                self._cache.leave(job.sequence)
                job.rewind()
        self._cache.sweep()

    def _end(self, job_id: str) -> None:
        job = self._jobs.pop(job_id)
        if job.sequence >= 0:
            self._cache.leave(job.sequence)
        job.close()

    def _sweep(self) -> None:
        """Free the cells of ended jobs, unless that would disorder a job with a score that is under way."""
        if not any(job.exact and job.computed for job in self._jobs.values()):
            self._cache.sweep()
