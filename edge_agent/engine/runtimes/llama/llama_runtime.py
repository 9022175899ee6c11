"""The llama runtime: GGUF models score labels, answer questions, write records and texts, several inputs in one batch.

One base, one context; bundles on it share the batch, each with its own prompt prefix and LoRA adapter. A step is one
llama_decode, planned by `step_scheduler.py`, or one more token of each stream while there are only streams. A score is
the same to the last bit whatever else the engine does; `kv_cache.py` explains how.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from edge_agent.engine.protocol import SEQUENCES, CacheUse, Event, FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes import Runtime, cancellation_report, failure_report
from edge_agent.engine.runtimes.llama import autotune, gguf_header, llama_backends
from edge_agent.engine.runtimes.llama.autotune import SAME, score_variance
from edge_agent.engine.runtimes.llama.decision_jobs import DecisionJob, open_groups
from edge_agent.engine.runtimes.llama.kv_cache import KvCache
from edge_agent.engine.runtimes.llama.kv_cells import StreamBatch
from edge_agent.engine.runtimes.llama.llama_bundle import LlamaBundle, LlamaBundles, LoadedAdapters
from edge_agent.engine.runtimes.llama.llama_context import LONG_ROWS, BatchPart, StepAborted, StepInterruption, is_long
from edge_agent.engine.runtimes.llama.llama_model import ERRORS, LlamaModel
from edge_agent.engine.runtimes.llama.memory_estimate import ON_CPU, context_capacity, place_on_device
from edge_agent.engine.runtimes.llama.record_grammar import RecordGrammar
from edge_agent.engine.runtimes.llama.sequence_jobs import ExtractionJob, GenerationJob, ScoringJob
from edge_agent.engine.runtimes.llama.step_costs import StepWork, ThreadTuner, thread_counts
from edge_agent.engine.runtimes.llama.step_scheduler import CacheAdmission, StepPlan, StepScheduler, WorkItem, turn_time
from edge_agent.errors import DeadlineExpired, DeadlineUnattainable, EdgeAgentError, ModelFailed, ModelLoadFailed
from edge_agent.formats.manifest import SCORED_KINDS, Manifest

WARM_UP_TEXT = "Hello"
LEARN_EVERY = 4
"""Of the steps that only continue streams, one in this many is measured."""
END_EVENTS = (JobResult, FailureReport)

Job = ScoringJob | GenerationJob | ExtractionJob | DecisionJob


class BatchExecutor:
    """Computes the rows that a step has for each job, as one batch."""

    def __init__(self, cache: KvCache, adapters: LoadedAdapters, interruption: StepInterruption | None) -> None:
        """Compute on a loaded base; without `interruption` no batch ends early."""
        self._cache, self._adapters, self._interruption = cache, adapters, interruption
        self.computed_at = 0.0
        """When a batch was computed last, on the clock of `time.perf_counter`; an aborted one does not count."""

    def compute(self, turns: list[tuple[Job, int]], *, long: bool) -> list[Event]:
        """Run one batch. If it fails, run its jobs one by one: only a job that fails alone has failed.

        One that is `long` ends when one of its jobs is cancelled.
        """
        if not turns:  # no job that has a place can meet its deadline
            return []
        try:
            return self._batch(turns, long=long)
        except ModelFailed as error:
            if len(turns) == 1:
                return [failure_report(turns[0][0].request.job_id, error)]
        return [event for turn in turns for event in self.compute([turn], long=long)]

    def _batch(self, turns: list[tuple[Job, int]], *, long: bool) -> list[Event]:
        """Run one batch. Raises ModelFailed; then no job has changed."""
        jobs = [job for job, _ in turns]
        adapter = self._adapters.pointer(jobs[0].bundle.adapter)
        self._cache.compact([job.slot for job in jobs if job.slot])
        try:
            parts = [job.parts(rows, self._cache.branches.fork) for job, rows in turns]
            with self._interruptible(turns) if long else nullcontext():
                exact = any(job.exact for job in jobs)
                self._cache.decode([row for part in parts for row in part], adapter, exact=exact)
        except (ModelFailed, StepAborted) as error:
            self._cache.branches.drop()
            for job in jobs:
                job.undo()
            if isinstance(error, StepAborted):
                return []
            raise
        try:
            return self._collect(turns, parts)
        finally:
            self._cache.branches.drop()
            self.computed_at = time.perf_counter()

    @contextmanager
    def _interruptible(self, turns: list[tuple[Job, int]]) -> Iterator[None]:
        """End the step when one of its jobs is cancelled, unless another job would lose two steps in a row by that.

        Without this bound, callers that keep cancelling would stop all other jobs.
        """
        undone_jobs = {job.request.job_id for job, _ in turns if job.undone}
        if self._interruption is None or len(undone_jobs) > 1:
            yield
            return
        try:
            with self._interruption.during(undone_jobs or {job.request.job_id for job, _ in turns}):
                yield
        finally:
            self._cache.context.forget_abort()  # one that came too late for this step must not end the next one

    def _collect(self, turns: list[tuple[Job, int]], parts: list[list[BatchPart]]) -> list[Event]:
        """Pass every job its logits; a job whose logits are invalid fails alone."""
        events: list[Event] = []
        first_row = 0
        for (job, _), job_parts in zip(turns, parts, strict=True):
            count = sum(len(rows.tokens) for rows in job_parts)
            job.undone = False
            try:
                events += job.advance(self._cache.context, first_row, count)
                if job.slot is not None and job.computed < job.slot.tokens:
                    self._cache.truncate(job.slot, job.computed)
                if job.computed >= job.input_tokens and job.slot is not None and not job.prompt_kept:
                    job.prompt_kept = True
                    with suppress(ModelFailed):  # then the next job computes the prompt again
                        self._cache.keep(job.slot, job.suffix)
            except ModelFailed as error:
                events.append(failure_report(job.request.job_id, error))
            first_row += count
        return events

    def close(self) -> None:
        """End the thread that waits for interruptions."""
        if self._interruption is not None:
            self._interruption.close()


class LlamaRuntime(Runtime):
    """One GGUF base and the bundles attached to it."""

    def __init__(self) -> None:
        """Start with nothing loaded but llama.cpp and its code for this processor."""
        ERRORS.install()  # before llama.cpp logs anything
        llama_backends.load()
        self._cpu_variant = llama_backends.cpu_variant()
        self._code = f"{self._cpu_variant} {llama_backends.cpu_code()}, {autotune.processor()}"
        self._loaded = False
        self._model: LlamaModel
        self._cache: KvCache
        self._adapters: LoadedAdapters
        self._executor: BatchExecutor
        self._bundles: LlamaBundles
        self._jobs: dict[str, Job] = {}
        self._used_grammars = set[RecordGrammar]()
        """Of jobs that have ended since `tidy`."""
        self._scheduler = StepScheduler()
        self._bulk_safe = False
        """Inputs without an adapter may share bulk steps, which do not change their scores."""
        self._score_variance = ""
        self._admission = CacheAdmission()
        self._writers: list[GenerationJob] = []
        """All jobs, if the last step was one token of each, and no job has come or ended since; otherwise empty."""
        self._stream_batch: StreamBatch
        """The places of the writers."""
        self._stream_steps = 0
        """Steps of `_decode_streams` so far."""
        self._tuner: ThreadTuner

    def load(self, spec: LoadRequest) -> dict[str, str]:
        """Load weights and allocate the context, if memory holds them.

        Raises MemoryShort, ModelLoadFailed, DeviceUnusable.
        """
        header = gguf_header.read_header(spec.weights)
        slots, shape, need = context_capacity(header, Path(spec.weights).stat().st_size, spec)
        placement = ON_CPU if spec.device == "cpu" else place_on_device(spec, header, shape)
        need = placement.beside(need)
        available = self.request_memory(need.total, spec.memory_bytes_max, 0)
        need.check(available, spec.memory_bytes_wanted)
        model = LlamaModel(spec.weights, placement.pointer, placement.layers, header)
        try:
            if spec.context_tokens > model.context_tokens_max:
                raise ModelLoadFailed(
                    f"'context_tokens' is {spec.context_tokens}; "
                    f"{model.name} was trained with {model.context_tokens_max}"
                )
            tuned = autotune.autotune(spec, model, shape, self._code)
            self._cache = KvCache(model, slots, tuned.shape, spec.prompt_cache_bytes_max, spec.context_tokens)
        except ModelLoadFailed:
            model.close()
            raise
        self._scheduler = StepScheduler(tuned.shape.rows, header.logits_rows)
        self._bulk_safe = tuned.bulk_scores == SAME
        counts = thread_counts(spec.threads) if tuned.thread_scores == SAME else ()
        self._tuner = ThreadTuner(counts, tuned.shape.threads, time.perf_counter())
        self.threads = tuned.shape.threads
        self._model, self._loaded, self.device = model, True, placement.name
        self._adapters = LoadedAdapters(model, lambda: self._cache.context.use_adapter(None))
        interruption = None
        if self.mailbox >= 0:
            interruption = StepInterruption(self.mailbox, self.poll_cancellations, self._cache.context.abort)
        self._executor = BatchExecutor(self._cache, self._adapters, interruption)
        self._bundles = LlamaBundles(model, self._adapters, need, available, slots, self.request_memory)
        model_details = model.describe()
        code = self._code if placement.name == "cpu" else f"{self._code} and for {placement.name}"
        self._score_variance = score_variance(tuned, model_details["quantization"], code)
        details = {"context_cells": str(shape.cells), "kv_type": spec.kv_type, "cpu_variant": self._cpu_variant}
        details[SEQUENCES] = str(slots)
        return model_details | details | tuned.details() | need.details(available) | placement.details

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Tokenize the prompt, load the adapter, compute the prefix and one answer.

        Raises MemoryShort, ModelLoadFailed.
        """
        if digest in self._bundles:
            return
        bundle = self._bundles.prepare(digest, manifest, paths.get("adapter"))
        try:
            self._warm(bundle)
        except ModelFailed as error:
            self._bundles.free_adapter(bundle.adapter)
            name = Path(paths.get("adapter") or self._model.name).name
            message = f"the first answer with {name} failed: {error.message}"
            raise ModelLoadFailed(message, remedy=error.remedy) from None
        self._bundles[digest] = bundle

    def score_variance(self, digest: str) -> str:
        """Return why scores of a bundle depend on what else is computed, as measured when the weights were loaded."""
        return self._score_variance if self._bundles[digest].task.kind in SCORED_KINDS else ""

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle."""
        bundle = self._bundles.get(digest)
        if bundle is None:
            return []
        job_ids = [job_id for job_id, job in self._jobs.items() if job.bundle is bundle]
        events = [event for job_id in job_ids for event in self.cancel(job_id)]
        del self._bundles[digest]
        if not any(other.prompt == bundle.prompt for other in self._bundles.values()):
            self._cache.forget(bundle.prompt)
        self._bundles.free_adapter(bundle.adapter)
        return events

    def submit(self, job: JobRequest) -> None:
        """Take a job; it waits while all sequences are taken."""
        bundle = self._bundles.get(job.digest)
        if bundle is None:
            raise ModelFailed(f"bundle {job.digest[:12]} is not attached to this engine", digest=job.digest)
        self._writers = []
        tokens = bundle.prompt_tokens(self._model, job.text)
        bulk_safe = self._bulk_safe and bundle.adapter is None
        if bundle.questions is not None:
            questions = bundle.questions.decision_questions(job.questions)
            self._jobs[job.job_id] = DecisionJob(job, bundle, tokens, questions, bulk_safe=bulk_safe)
        elif bundle.tree is not None:
            self._jobs[job.job_id] = ScoringJob(job, bundle, tokens, bundle.tree, bulk_safe=bulk_safe)
        elif bundle.grammar is not None:
            self._jobs[job.job_id] = ExtractionJob(job, bundle, tokens, self._model, bundle.grammar)
        else:
            self._jobs[job.job_id] = GenerationJob(job, bundle, tokens, self._model)

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job."""
        if job_id not in self._jobs:
            return []
        self._end_job(job_id)
        return [cancellation_report(job_id)]

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
        started = time.perf_counter()
        if self._writers and (stream_events := self._decode_streams(self._writers, started)) is not None:
            return stream_events
        events = self._admit()
        if len(self._jobs) == 1:
            next(iter(self._jobs.values())).allow_drafts()
        open_groups(self._jobs.values(), self._cache.questions)
        items = [job.work_item() for job in self._jobs.values() if job.ready]
        events += self._refuse(items, started)
        plan = self._scheduler.plan(items, started)
        turns = [(self._jobs[item.key], rows) for item, rows in plan]
        # Branches of labels last: their cells are freed after the step, and must leave no hole below other cells.
        turns.sort(key=lambda turn: turn[0].branches)
        self._use_threads(self._tuner.present if _keeps_streams_waiting(plan) else self._tuner.threads)
        long = is_long(sum(rows for _, rows in plan), self._scheduler.expected_seconds(plan))
        events += self._executor.compute(turns, long=long)
        if self._executor.computed_at > started:  # the batch was not aborted
            self._learn(plan, self._executor.computed_at - started)
            self._writers = self._find_writers(plan)
        else:
            self._scheduler.record_abort(plan, time.perf_counter() - started)
        return self._end_jobs(events)

    def _find_writers(self, plan: StepPlan) -> list[GenerationJob]:
        """Return all jobs, if the step was one token of each and the next one can be, too; otherwise none."""
        jobs = [job for job in self._jobs.values() if isinstance(job, GenerationJob) and job.slot]
        all_write = len(jobs) == len(plan) == len(self._jobs) and all(item.decoding for item, _ in plan)
        if not all_write or len(jobs) >= LONG_ROWS:
            return []
        slots = [job.slot for job in jobs if job.slot]
        self._stream_batch = StreamBatch(slots, [slot.sequence for slot in slots])
        return jobs

    def _decode_streams(self, jobs: list[GenerationJob], started: float) -> list[Event] | None:
        """Compute one more token of each job, as `step` would plan it; None = that failed, and no job has changed.

        An engine with streams spends its time here, so nothing is decided again that cannot have changed.
        """
        depths = [job.computed for job in jobs]
        try:
            adapter = self._adapters.pointer(jobs[0].bundle.adapter)
            self._cache.decode_streams(self._stream_batch, depths, [job.tokens[-1] for job in jobs], adapter)
        except (ModelFailed, StepAborted):
            self._writers = []
            return None
        context = self._cache.context
        events: list[Event] = []
        for row, job in enumerate(jobs):
            job.computed += 1
            try:
                events += job.advance(context, row, 1)
            except ModelFailed as error:
                events.append(failure_report(job.request.job_id, error))
        self._stream_steps += 1
        if self._stream_steps % LEARN_EVERY == 0 or self._tuner.trying:
            costs, work = self._scheduler.costs, StepWork(len(jobs), sum(depths), len(jobs))
            seconds, expected = time.perf_counter() - started, costs.cost(work)
            if not self._tuner.trying:
                costs.learn(work, seconds)
            self._tune_threads(expected, seconds)
        return self._end_jobs(events) if events else events

    def _refuse(self, items: list[WorkItem], now: float) -> list[Event]:
        """Remove the work items that cannot meet their deadline; return the events that end them."""
        events: list[Event] = []
        for item, pause in self._scheduler.unattainable(items, now):
            items.remove(item)
            seconds, seconds_left = self._scheduler.lone_seconds(item), item.deadline - now
            error: EdgeAgentError = DeadlineExpired("the deadline passed before the input was read")
            if seconds_left > 0:
                error = DeadlineUnattainable(
                    f"{item.rows} tokens are still to be read, which takes about {seconds:.1f} s by the speed of the "
                    f"last steps; the caller waits for another {seconds_left:.1f} s",
                    retry_seconds=pause,
                    tokens=item.rows,
                    seconds_expected=f"{seconds:.3f}",
                    seconds_left=f"{seconds_left:.3f}",
                )
            events.append(failure_report(item.key, error))
        return events

    def _learn(self, plan: StepPlan, seconds: float) -> None:
        """Learn from the time that a planned step took."""
        expected = self._scheduler.expected_seconds(plan)
        if not self._tuner.trying:
            self._scheduler.record_step(plan, seconds)
        elif _keeps_streams_waiting(plan):
            self._use_threads(self._tuner.threads)
            return
        self._tune_threads(expected, seconds)

    def _tune_threads(self, expected: float, seconds: float) -> None:
        """Choose the threads of the next step by the time that steps take."""
        cost_ratio = self._tuner.record_step(expected, seconds, time.perf_counter())
        if cost_ratio != 1.0:
            self._scheduler.costs.scale(cost_ratio)
        self._use_threads(self._tuner.threads)

    def _use_threads(self, threads: int) -> None:
        if self.threads != threads:
            self.threads = threads
            self._cache.context.use_threads(threads)

    def _end_jobs(self, events: list[Event]) -> list[Event]:
        """Remove the jobs that these events end; return the events."""
        for event in events:
            if isinstance(event, END_EVENTS):
                self._end_job(event.job_id)
        return events

    def tidy(self) -> None:
        """Empty the sequences of ended jobs, and prepare their grammars for the next records."""
        if self._writers:  # no job has ended since
            return
        self._cache.tidy()
        while self._used_grammars:
            self._used_grammars.pop().prepare()

    def close(self) -> None:
        """Free jobs, adapters, context and weights, in this order."""
        for job_id in list(self._jobs):
            self._end_job(job_id)
        self._used_grammars.clear()
        if self._loaded:
            self._executor.close()
            self._bundles.close()
            self._adapters.close()
            self._cache.close()
            self._model.close()
        self._loaded = False

    def _warm(self, bundle: LlamaBundle) -> None:
        """Compute the prefix and the first token of one answer; raise ModelFailed unless both give numbers."""
        tokens = self._model.tokenize(bundle.blanks + WARM_UP_TEXT, special=False) + bundle.rest
        self._cache.fill(bundle.prompt, tokens, self._adapters.pointer(bundle.adapter))

    def _admit(self) -> list[Event]:
        """Give waiting jobs a place, in the order of `CacheAdmission`; return the failures of those that failed."""
        waiting = [job for job in self._jobs.values() if job.slot is None]
        events: list[Event] = []
        if waiting:
            waiting.sort(key=lambda job: turn_time(job.arrived_at, job.request.priority))
            self._admission.admit([job.request.job_id for job in waiting], lambda key: self._admit_job(key, events))
        return events

    def _admit_job(self, job_id: str, events: list[Event]) -> bool:
        """Tell whether a job is no longer waiting: it has a place, or has failed."""
        job = self._jobs[job_id]
        try:
            entry = self._cache.enter(job.bundle.prompt, job.suffix, job.outputs_max)
        except ModelFailed as error:
            events.append(failure_report(job_id, error))
            return True
        if entry is not None:
            job.start(*entry)
        return entry is not None

    def _end_job(self, job_id: str) -> None:
        self._writers = []
        job = self._jobs.pop(job_id)
        if job.bundle.grammar is not None:
            self._used_grammars.add(job.bundle.grammar)
        if job.slot is not None:
            self._cache.leave(job.slot)


def _keeps_streams_waiting(plan: StepPlan) -> bool:
    """Tell whether a step reads a prompt while streams wait: it is long, so no other thread count is tried on it."""
    return len({item.decoding for item, _ in plan}) > 1
