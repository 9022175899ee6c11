"""How the llama runtime orders waiting jobs and handles their deadlines, on SmolLM2-135M."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from edge_agent.engine.protocol import Event, FailureReport, JobRequest, JobResult, LoadRequest
from edge_agent.engine.runtimes.llama.llama_runtime import LlamaRuntime
from edge_agent.engine.runtimes.llama.step_costs import RETRY_SECONDS_MAX, TRUSTED_STEPS
from tests.support.bundles import manifest_of, smollm2_bundle
from tests.support.eventually import eventually_sync
from tests.support.models import smollm2_path

LONG = "I bought a coat here on Monday and the zip broke. " * 12


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaRuntime]:
    """Load once, with one place: "g" generates."""
    manifest = manifest_of(smollm2_bundle(tmp_path_factory.mktemp("m") / "a", "generate"))
    runtime = LlamaRuntime()
    runtime.load(LoadRequest(runtime="llama", weights=str(smollm2_path()), sequences_max=1))
    runtime.attach("g", manifest, {})
    yield runtime
    runtime.close()


def finish(runtime: LlamaRuntime) -> list[Event]:
    """Step until no job is left; return how the jobs ended, in order."""
    events: list[Event] = []
    while runtime.busy:
        events += runtime.step()
    return [event for event in events if isinstance(event, JobResult | FailureReport)]


def test_jobs_are_admitted_by_priority(runtime: LlamaRuntime) -> None:
    """A job of the operator is admitted before a job of a device that has waited for less than a second longer."""
    for job_id, priority in (("first", 1), ("device", 1), ("operator", 0)):
        runtime.submit(
            JobRequest(job_id=job_id, digest="g", text="Tell me of Rome.", output_tokens_max=9, priority=priority)
        )
        if job_id == "first":
            runtime.step()
    assert ["first", "operator", "device"] == [event.job_id for event in finish(runtime)]


def read(runtime: LlamaRuntime, text: str) -> None:
    """Read a text in measured steps, so that the engine relies on its predictions."""
    costs = runtime._scheduler.costs
    for number in itertools.count():
        if costs.small.steps + costs.bulk.steps >= TRUSTED_STEPS:
            break
        runtime.submit(
            JobRequest(job_id="before", digest="g", text=f"{number}. {text}", output_tokens_max=TRUSTED_STEPS)
        )
        finish(runtime)
    runtime.submit(JobRequest(job_id="read", digest="g", text=f"Again. {text}", output_tokens_max=1))
    finish(runtime)


def test_job_with_unattainable_deadline_is_not_computed(runtime: LlamaRuntime) -> None:
    """A job that has less than half of its predicted time left ends with DEADLINE_UNATTAINABLE, and no token of it is
    computed."""
    read(runtime, LONG)
    assert runtime.cache_use is not None
    computed = runtime.cache_use.computed
    runtime._scheduler.costs.scale(1e4)
    runtime.submit(JobRequest(job_id="late", digest="g", text=f"Late. {LONG}", seconds=10.0))
    (event,) = finish(runtime)
    runtime._scheduler.costs.scale(1e-4)
    assert isinstance(event, FailureReport)
    assert ("late", "DEADLINE_UNATTAINABLE") == (event.job_id, event.reason)
    assert {"tokens", "seconds_expected", "seconds_left", "retry_seconds"} == event.metadata.keys()
    assert 0 < float(event.metadata["retry_seconds"]) <= RETRY_SECONDS_MAX
    assert computed == runtime.cache_use.computed


@pytest.mark.slow
def test_calls_are_answered_again_after_a_load_ends(runtime: LlamaRuntime) -> None:
    """After steps were predicted to take a hundred thousand times as long, calls are refused at first and then answered
    again, without a call that has more time."""
    read(runtime, f"Once more. {LONG}")
    runtime._scheduler.costs.scale(1e5)
    numbers = itertools.count()
    ends: list[str] = []

    def answered() -> bool:
        runtime.submit(
            JobRequest(job_id="till", digest="g", text=f"{next(numbers)}. {LONG}", output_tokens_max=1, seconds=20)
        )
        (event,) = finish(runtime)
        ends.append(event.reason if isinstance(event, FailureReport) else "answered")
        return isinstance(event, JobResult)

    eventually_sync(answered, 60.0)
    assert ["DEADLINE_UNATTAINABLE"] * (len(ends) - 1) + ["answered"] == ends
    assert len(ends) > 1, "it was refused first"
    assert answered(), "what was measured holds at once"


def test_job_with_attainable_deadline_is_computed(runtime: LlamaRuntime) -> None:
    """A job whose deadline is attainable is computed."""
    runtime.submit(JobRequest(job_id="in time", digest="g", text=LONG, output_tokens_max=2, seconds=600.0))
    (event,) = finish(runtime)
    assert isinstance(event, JobResult)
