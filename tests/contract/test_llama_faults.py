"""Faults in a llama engine with a tiny model: random cancellations, missing adapter files, oversize prompts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult
from edge_agent.engine.runtimes.llama.kv_cache import KvCache
from edge_agent.engine.runtimes.llama.kv_cells import SequenceSlot
from edge_agent.engine.runtimes.llama.llama_bundle import LOADED_MAX
from edge_agent.engine.runtimes.llama.llama_context import ROWS_MAX
from edge_agent.engine.runtimes.llama.llama_runtime import BatchExecutor, LlamaRuntime
from edge_agent.engine.runtimes.llama.memory_estimate import PLACES_MAX
from edge_agent.engine.runtimes.llama.sequence_jobs import ScoringJob
from edge_agent.errors import InputTooLong, ModelFailed
from edge_agent.process_resources import resident_bytes
from tests.support.llama_mixed_jobs import (
    JOBS,
    TEXTS,
    MixedJobs,
    cells_in_use,
    computed_together,
    manifest,
    said,
    tiny_adapter,
    tiny_runtime,
)

QUICK, ALL = 100, 1000
ENDED = 20
ENDS_MAX = 60
PROMPTS = 24
ADAPTERS = 60
SOAKED = 2000
GROWTH_BYTES_MAX = 8 * 2**20
LONG_TEXT = "I want my money back. " * 12


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[LlamaRuntime]:
    runtime = tiny_runtime(tmp_path)
    yield runtime
    runtime.close()


def classify(runtime: LlamaRuntime, text: str, digest: str) -> JobResult | FailureReport:
    """Classify one text alone."""
    runtime.submit(JobRequest(job_id="alone", digest=digest, text=text))
    while not (events := runtime.step()):
        pass
    (event,) = events
    assert isinstance(event, JobResult | FailureReport)
    return event


def require_as_before(turmoil: MixedJobs) -> None:
    """Require that every job has ended once, with the answer that it has alone, and that as many jobs as before can run
    together."""
    runtime, alone, cells = turmoil.runtime, turmoil.alone(), cells_in_use(turmoil.runtime)
    assert {1} == set(turmoil.ends.values())
    assert turmoil.asked.keys() == turmoil.ends.keys()
    for job_id, done in turmoil.answers.items():
        assert turmoil.asked[job_id] not in alone or alone[turmoil.asked[job_id]] == said(done)
    for i in range(JOBS + 2):
        runtime.submit(JobRequest(job_id=f"last-{i}", digest="generate-0", text=TEXTS[1], output_tokens_max=50))
    runtime.step()
    assert JOBS == computed_together(runtime)
    for i in range(JOBS + 2):
        runtime.cancel(f"last-{i}")
    assert alone == turmoil.alone()
    assert cells == cells_in_use(runtime)


@pytest.mark.parametrize("cancels", [QUICK, pytest.param(ALL, marks=pytest.mark.release)])
def test_cancelled_jobs_leave_nothing_behind(runtime: LlamaRuntime, tmp_path: Path, cancels: int) -> None:
    """Jobs of all kinds, with four adapters, that are cancelled at random moments each end once; the others have the
    answers that they have alone, and all cells are free again."""
    turmoil = MixedJobs(runtime, tmp_path)
    turmoil.alone()
    idle = cells_in_use(runtime)
    while turmoil.reasons["CANCELLED"] < cancels:
        while len(turmoil.waiting) < 2 * JOBS:
            turmoil.ask()
        for _ in range(turmoil.dice.randrange(3)):
            turmoil.step()
        if turmoil.waiting:
            turmoil.cancel()
    turmoil.finish()
    assert {"CANCELLED": cancels} == turmoil.reasons
    require_as_before(turmoil)
    assert idle == cells_in_use(runtime)


def test_bundle_is_attached_while_jobs_use_all_cells(tmp_path: Path) -> None:
    """A bundle can be attached while jobs of full length use the cache, also where there are more places than cells for
    such jobs: one prompt always fits."""
    runtime = tiny_runtime(tmp_path, kept_bytes=2**22, jobs=0)
    try:
        runtime.attach("g", manifest("generate"), {})
        for number in range(PLACES_MAX):
            job = JobRequest(job_id=str(number), digest="g", text=f"{number} {LONG_TEXT}", output_tokens_max=50)
            runtime.submit(job)
        runtime.step()
        assert computed_together(runtime) < PLACES_MAX
        runtime.attach("c", manifest("classify", before=LONG_TEXT), {})
    finally:
        runtime.close()


class UnkeepingCache:
    """A cache from which llama.cpp cannot save keys and values."""

    def __init__(self, cache: KvCache) -> None:
        self._cache = cache

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def keep(self, slot: SequenceSlot, suffix: Sequence[int]) -> None:
        raise ModelFailed("the keys and values of a sequence could not be saved")


@pytest.mark.parametrize("labels", [("a", "b"), ("refund", "price")])
def test_prompt_that_cannot_be_saved_fails_no_job(runtime: LlamaRuntime, labels: tuple[str, str]) -> None:
    """If a prompt cannot be saved in the prefix cache, its job still gets one answer, whether it ends in that step or
    later."""
    made = manifest("classify")
    prompt = made.task.prompt.model_copy(update={"label_prefix": ""})
    task = made.task.model_copy(update={"labels": labels, "prompt": prompt})
    runtime.attach("c", made.model_copy(update={"task": task}), {})
    bundle, text = runtime._bundles["c"], "I want my money back. " * 12
    assert bundle.tree is not None
    job = ScoringJob(
        JobRequest(job_id="one", digest="c", text=text), bundle, bundle.prompt_tokens(runtime._model, text), bundle.tree
    )
    entered = runtime._cache.enter(bundle.prompt, job.suffix, 0)
    assert entered is not None
    job.start(*entered)
    executor = BatchExecutor(cast(KvCache, UnkeepingCache(runtime._cache)), runtime._adapters, None)
    events: list[Event] = []
    while not events:
        events += executor.compute([(job, min(job.work_item().rows, ROWS_MAX))], long=False)
    runtime._cache.leave(entered[0])
    (done,), again = events, classify(runtime, text, "c")
    assert isinstance(done, JobResult)
    assert isinstance(again, JobResult)
    assert done.scores == again.scores


@pytest.mark.release
def test_more_prompts_than_sequences_are_computed(tmp_path: Path) -> None:
    """Of 24 concurrent jobs, with as many prompts and more, none fails, and each has the answer that it has alone."""
    runtime = tiny_runtime(tmp_path, kept_bytes=2**20, jobs=PROMPTS)
    try:
        turmoil = MixedJobs(runtime, tmp_path)
        for i in range(PROMPTS):
            runtime.attach(f"classify-shop-{i}", manifest("classify", f"Shop {i}."), {})
            turmoil.digests.append(f"classify-shop-{i}")
        alone = turmoil.alone()
        while len(turmoil.asked) < 20 * PROMPTS:
            while len(turmoil.waiting) < PROMPTS + JOBS:
                turmoil.ask()
            turmoil.step()
        turmoil.finish()
        assert {} == turmoil.reasons
        for job_id, done in turmoil.answers.items():
            assert turmoil.asked[job_id] not in alone or alone[turmoil.asked[job_id]] == said(done)
    finally:
        runtime.close()


class Interrupter:
    """A mailbox that always has something to read: every so many polls it ends a step, 60 times at most. A quiet
    machine polls so often that otherwise no step would end."""

    def __init__(self, every: int) -> None:
        self._near, self.far = socket.socketpair()
        self._near.send(b"x")
        self._every, self._heard, self.ends = every, 0, 0

    def poll_cancellations(self, _jobs: Collection[str]) -> bool:
        self._heard += 1
        ends = self._heard % self._every == 0 and self.ends < ENDS_MAX
        self.ends += ends
        return ends

    def close(self) -> None:
        self._near.close()
        self.far.close()


def test_interrupted_steps_change_no_answer(tmp_path: Path) -> None:
    """Steps that are ended at any moment, also too late, while jobs are cancelled and bundles attached, do not change
    the answers of other jobs."""
    mailbox, runtime = Interrupter(every=3), LlamaRuntime()
    runtime.mailbox, runtime.poll_cancellations = mailbox.far.fileno(), mailbox.poll_cancellations
    try:
        tiny_runtime(tmp_path, runtime=runtime)
        turmoil = MixedJobs(runtime, tmp_path)
        while turmoil.reasons["CANCELLED"] < ENDED:
            while len(turmoil.waiting) < 2 * JOBS:
                turmoil.ask()
            for _ in range(5):
                turmoil.step()
            turmoil.cancel()
            runtime.attach("guest", manifest("classify", f"Guest {len(turmoil.asked)}."), {})
            runtime.detach("guest")
        turmoil.finish()
        assert mailbox.ends > 10
        assert {"CANCELLED": ENDED} == turmoil.reasons
        require_as_before(turmoil)
    finally:
        runtime.close()
        mailbox.close()


def test_many_adapters_take_turns(tmp_path: Path) -> None:
    """Of sixty adapters over one base model at most LOADED_MAX are loaded, and each bundle has the answer that it has
    alone; one whose file was deleted fails with a reason."""
    runtime = tiny_runtime(tmp_path, kept_bytes=2**20)
    try:
        for i in range(ADAPTERS):
            runtime.attach(str(i), manifest("classify"), tiny_adapter(tmp_path, i))
        alone = [classify(runtime, TEXTS[0], str(i)) for i in range(ADAPTERS)]
        scores = {str(i): done.scores for i, done in enumerate(alone) if isinstance(done, JobResult)}
        assert ADAPTERS == len(set(scores.values()))
        for digest in scores:
            runtime.submit(JobRequest(job_id=digest, digest=digest, text=TEXTS[0]))
        together = {}
        while runtime.busy:
            together |= {done.job_id: done.scores for done in runtime.step() if isinstance(done, JobResult)}
            assert len(runtime._adapters) <= LOADED_MAX
        assert scores == together
        classify(runtime, TEXTS[0], "59")
        for i in range(LOADED_MAX):
            classify(runtime, TEXTS[0], str(i))
        (tmp_path / "adapter-59.gguf").unlink()
        lost = classify(runtime, TEXTS[0], "59")
        assert isinstance(lost, FailureReport)
        assert "MODEL_FAILED" == lost.reason
        assert "model file adapter-59.gguf cannot be read: No such file or directory" in lost.message
        assert "Install the bundle again" in lost.remedy
        beside = classify(runtime, TEXTS[0], "58")
        assert isinstance(beside, JobResult)
        assert scores["58"] == beside.scores
    finally:
        runtime.close()


def test_job_without_its_adapter_fails_alone(tmp_path: Path) -> None:
    """Jobs of a bundle whose adapter can no longer be loaded fail with a reason; other jobs continue."""
    runtime = tiny_runtime(tmp_path)
    try:
        paths = {digest: tiny_adapter(tmp_path, seed) for seed, digest in enumerate(("lost", "kept"))}
        for digest, each in paths.items():
            runtime.attach(digest, manifest("classify"), each)
        for i in range(LOADED_MAX):
            runtime.attach(str(i), manifest("classify"), tiny_adapter(tmp_path, 100 + i))
        Path(paths["lost"]["adapter"]).unlink()
        for i in range(3):
            for digest in paths:
                runtime.submit(JobRequest(job_id=f"{digest}-{i}", digest=digest, text=TEXTS[i]))
        ends = {}
        while runtime.busy:
            ends |= {event.job_id: type(event) for event in runtime.step()}
        assert {f"lost-{i}": FailureReport for i in range(3)} | {f"kept-{i}": JobResult for i in range(3)} == ends
    finally:
        runtime.close()


TEXT_MAX = "x" * 16_000
"""As long as a text may be that is cut into tokens before it is refused."""


def test_huge_prompt_is_refused_cheaply(runtime: LlamaRuntime) -> None:
    """A prompt of a hundred thousand tokens is refused with count and limit, for less than three times the cost of
    tokenizing the longest allowed text."""
    runtime.attach("c", manifest("classify"), {})
    classify(runtime, TEXTS[0], "c")
    cells, before = cells_in_use(runtime), resident_bytes(os.getpid())
    for text, said_of_it in (("x" * 16_000, r"has \d{4,} tokens; the limit is 260"), ("word " * 100_000, "characters")):
        started = time.process_time()
        for _ in range(20):
            with pytest.raises(InputTooLong, match=said_of_it) as caught:
                runtime.submit(JobRequest(job_id="long", digest="c", text=text))
        refusing, started = time.process_time() - started, time.process_time()
        for _ in range(20):
            runtime._model.tokenize(TEXT_MAX, special=False)
        assert refusing < 3 * (time.process_time() - started)
        assert 260 == int(caught.value.metadata["limit"])
    assert not runtime.busy
    assert cells == cells_in_use(runtime)
    assert resident_bytes(os.getpid()) - before < GROWTH_BYTES_MAX


def test_repeated_prompt_is_reused_from_the_cache(tmp_path: Path) -> None:
    """The same prompt twice is one cache hit with the same score; another prompt reuses only the bundle's prefix."""
    runtime = tiny_runtime(tmp_path, kept_bytes=2**20)
    again, other = "I want my money back. " * 12, "Do you open on Sundays? " * 12
    try:
        runtime.attach("c", manifest("classify"), {})
        use = runtime.cache_use
        assert use is not None
        reused, scores = [], []
        for text in (again, again, other):
            before = use.reused
            done = classify(runtime, text, "c")
            assert isinstance(done, JobResult)
            scores.append(done.scores)
            use = runtime.cache_use
            assert use is not None
            reused.append((use.reused - before, done.input_tokens))
        prefix = reused[0][0]
        assert 0 < prefix < reused[0][1]
        assert [prefix, reused[1][1] - 1, prefix] == [tokens for tokens, _ in reused]
        assert scores[0] == scores[1] != scores[2]
    finally:
        runtime.close()


@pytest.mark.release
def test_memory_stays_flat_over_thousands_of_jobs(runtime: LlamaRuntime, tmp_path: Path) -> None:
    """After a warm-up, 2,000 jobs of all kinds, some of them cancelled, do not increase the memory of the process."""
    turmoil = MixedJobs(runtime, tmp_path)

    def soak(jobs: int) -> int:
        until = len(turmoil.asked) + jobs
        while len(turmoil.asked) < until:
            while len(turmoil.waiting) < 2 * JOBS:
                turmoil.ask()
            turmoil.step()
            if turmoil.waiting and turmoil.dice.random() < 0.02:
                turmoil.cancel()
        turmoil.finish()
        turmoil.answers.clear()
        return resident_bytes(os.getpid())

    before = soak(SOAKED // 4)
    after = soak(SOAKED)
    assert {1} == set(turmoil.ends.values())
    assert {"CANCELLED"} == set(turmoil.reasons)
    assert after - before < GROWTH_BYTES_MAX
    require_as_before(turmoil)
