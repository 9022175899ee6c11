"""The number of threads can change between the steps of a running engine without changing a bit of a score or text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from edge_agent.engine.protocol import JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama import autotune
from edge_agent.engine.runtimes.llama.autotune import TuningLimits
from edge_agent.engine.runtimes.llama.llama_context import ContextShape
from edge_agent.engine.runtimes.llama.llama_model import LlamaModel
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.step_costs import ThreadTuner
from tests.contract.test_llama_runtime import CHAT, SHORT, WEIGHTS, make

TEXTS = [SHORT, "I lost my umbrella on the bus. " * 6, "When do you close?"]


class Restless(ThreadTuner):
    """A tuner that changes the number of threads after each step."""

    def record_step(self, expected: float, seconds: float, now: float) -> float:
        """Change to the next number of threads."""
        self.threads = self.threads % 3 + 1
        return 1.0


class Trying(ThreadTuner):
    """A tuner that tries one thread in each step."""

    def record_step(self, expected: float, seconds: float, now: float) -> float:
        """Keep trying."""
        self.trying, self.threads = True, 1
        return 1.0


@contextmanager
def loaded(tuner: ThreadTuner | None = None) -> Iterator[LlamaRuntime]:
    """Load with three threads: "c" classifies, "g" generates."""
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=1024, threads=3))
    runtime.attach("c", make(), {})
    runtime.attach("g", CHAT, {})
    runtime._tuner = tuner or runtime._tuner
    yield runtime
    runtime.close()


def answers(runtime: LlamaRuntime) -> dict[str, tuple[object, ...]]:
    """Compute one text after the other with each task; return the content of each answer."""
    found: dict[str, tuple[object, ...]] = {}
    for number, text in enumerate(TEXTS):
        for digest in "cg":
            runtime.submit(
                JobRequest(job_id=f"{digest}{number}", digest=digest, text=text, output_tokens_max=6, logprobs=1)
            )
            while runtime.busy:
                for event in runtime.step():
                    if isinstance(event, JobResult):
                        found[event.job_id] = (event.scores, event.label_mass, event.tokens)
    return found


@pytest.mark.slow
def test_scores_and_texts_are_the_same_with_any_thread_count() -> None:
    """Scores and texts are the same with another number of threads in each step, from one to three, as with three in
    all."""
    with loaded() as runtime:
        same = answers(runtime)
    with loaded(Restless((1, 2, 3), 3, 0.0)) as runtime:
        assert same == answers(runtime)


def test_thread_trials_do_not_delay_streams() -> None:
    """Other thread counts are tried in steps that only write or only read, not in a step that reads while a stream is
    written."""
    with loaded(Trying((1, 3), 3, 0.0)) as runtime:
        context, steps = runtime._cache.context, set[tuple[str, int]]()
        decode, write_on = context.decode, context.decode_stream_tokens

        def reads(parts: Any) -> None:
            sizes = sorted(len(part.tokens) for part in parts)
            steps.add(("both" if len(sizes) > 1 and sizes[0] == 1 else "reads", runtime.threads))
            decode(parts)

        def writes(*given: Any) -> None:
            steps.add(("writes", runtime.threads))
            write_on(*given)

        context.decode, context.decode_stream_tokens = reads, writes  # type: ignore[method-assign]  # to see what computes
        runtime.submit(JobRequest(job_id="stream", digest="g", text=TEXTS[0], output_tokens_max=40))
        for step in range(400):
            if step == 8:
                runtime.submit(JobRequest(job_id="prompt", digest="g", text=TEXTS[1] * 2, output_tokens_max=1))
            if runtime.busy:
                runtime.step()
        assert not runtime.busy
    assert {("writes", 1), ("both", 3)} <= steps
    assert ("both", 1) not in steps


@pytest.mark.slow
def test_effect_of_threads_is_measured_once_and_remembered() -> None:
    """Whether the thread count changes scores is measured at the first load with several threads, not with one, and a
    stored value is used."""
    model = LlamaModel(str(WEIGHTS))
    try:
        for threads, said, found in (
            (2, "", autotune.SAME),
            (1, "", ""),
            (2, autotune.OTHERS, autotune.OTHERS),
        ):
            shape = ContextShape(cells=2000, sequences=10, kv_type="f16", threads=threads, rows=64)
            spec = LoadRequest(runtime="llama", threads=threads, tune=True)
            kept = {"tuned_for": autotune.tuning_key(spec, shape, "this"), "threads": "1", "bulk_rows": "64"}
            spec = LoadRequest(runtime="llama", threads=threads, tune=True, settings=kept | {"thread_scores": said})
            tuned = autotune.autotune(spec, model, shape, "this", TuningLimits(seconds=0))
            assert ("remembered", found) == (tuned.source, tuned.thread_scores)
    finally:
        model.close()


@pytest.mark.slow
def test_given_threads_are_used_without_tuning() -> None:
    """Without tuning the given number of threads computes, however slow the steps are."""
    runtime = LlamaRuntime()
    details = runtime.load(LoadRequest(runtime="llama", weights=str(WEIGHTS), context_tokens=512, threads=2))
    try:
        assert ("off", 2) == (details["tuned"], runtime.threads)
        assert [1.0] * 200 == [runtime._tuner.record_step(0.01, 10.0, float(now)) for now in range(200)]
        assert 2 == runtime._tuner.threads
    finally:
        runtime.close()
