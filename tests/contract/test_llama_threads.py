"""The number of threads changes between the steps of a running engine, and no bit of a score or a record with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_agent.engine.protocol import Done, Load, Run
from edge_agent.engine.runtimes.llama import trying, tuning
from edge_agent.engine.runtimes.llama.context import Shape
from edge_agent.engine.runtimes.llama.native import Model
from edge_agent.engine.runtimes.llama.runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.threads import ThreadTuner
from edge_agent.engine.runtimes.llama.tuning import Limits
from tests.contract.test_llama_runtime import CHAT, SHORT, WEIGHTS, make

TEXTS = [SHORT, "I lost my umbrella on the bus. " * 6, "When do you close?"]


class Restless(ThreadTuner):
    """Takes another count after each step."""

    def took(self, expected: float, seconds: float, now: float) -> float:
        """Go round."""
        self.threads = self.threads % 3 + 1
        return 1.0


@pytest.fixture(scope="module")
def runtime() -> Iterator[LlamaRuntime]:
    """Load once, with three threads: "c" classifies, "g" writes."""
    loaded = LlamaRuntime()
    spec = Load(runtime="llama", weights=str(WEIGHTS), context_tokens=1024, threads=3)
    loaded.load(spec)
    loaded.attach("c", make(), {})
    loaded.attach("g", CHAT, {})
    yield loaded
    loaded.close()


def answers(runtime: LlamaRuntime) -> dict[str, Done]:
    """Ask one text after the other, by each task, with nothing kept of the time before."""
    found: dict[str, Done] = {}
    for number, text in enumerate(TEXTS):
        for digest in "cg":
            runtime.submit(Run(job_id=f"{digest}{number}", digest=digest, text=text, output_tokens_max=20, logprobs=1))
            while runtime.busy:
                found.update({event.job_id: event for event in runtime.step() if isinstance(event, Done)})
    return found


def told(done: Done) -> tuple[object, ...]:
    """Return what an answer says."""
    return done.scores, done.label_mass, done.tokens


def test_scores_and_texts_are_the_same_whatever_number_of_threads_computes(runtime: LlamaRuntime) -> None:
    """Another one in each step, from one to three, against three in all."""
    before = answers(runtime)
    runtime._tuner = Restless((1, 2, 3), 3, 0.0)
    after = answers(runtime)
    assert {job_id: told(done) for job_id, done in before.items()} == {
        job_id: told(done) for job_id, done in after.items()
    }


def test_it_is_found_out_at_the_first_load_and_remembered() -> None:
    """With several threads; a child of one has nothing to change. What somebody has edited is measured."""
    model = Model(str(WEIGHTS))
    try:
        for threads, said, found in ((2, "", tuning.SAME), (1, "", ""), (2, tuning.OTHERS, tuning.OTHERS)):
            shape = Shape(cells=2000, sequences=10, kv_type="f16", threads=threads, rows=64)
            spec = Load(runtime="llama", threads=threads, tune=True)
            kept = {"tuned_for": tuning.key_of(spec, shape, "this"), "threads": "1", "bulk_rows": "64"}
            spec = Load(runtime="llama", threads=threads, tune=True, settings=kept | {"thread_scores": said})
            tuned = trying.settle(spec, model, shape, "this", Limits(seconds=0))
            assert ("remembered", found) == (tuned.source, tuned.thread_scores)
    finally:
        model.close()


def test_without_tuning_the_given_threads_compute() -> None:
    """As they are told, however slow the steps are."""
    runtime = LlamaRuntime()
    details = runtime.load(Load(runtime="llama", weights=str(WEIGHTS), context_tokens=512, threads=2))
    try:
        assert ("off", 2) == (details["tuned"], runtime.threads)
        assert [1.0] * 200 == [runtime._tuner.took(0.01, 10.0, float(now)) for now in range(200)]
        assert 2 == runtime._tuner.threads
    finally:
        runtime.close()
