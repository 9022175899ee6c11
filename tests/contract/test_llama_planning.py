"""What the llama runtime makes of who waits, and for how long, on SmolLM2-135M."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge_agent.engine.protocol import Done, Event, Failed, Load, Run
from edge_agent.engine.runtimes.llama.rates import TRUSTED_STEPS
from edge_agent.engine.runtimes.llama.runtime import LlamaRuntime
from tests.bundles import manifest_of, smollm2_bundle
from tests.models import smollm2_path

LONG = "I bought a coat here on Monday and the zip broke. " * 12


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaRuntime]:
    """Load once, with a place for one job: "g" writes."""
    manifest = manifest_of(smollm2_bundle(tmp_path_factory.mktemp("m") / "a", "generate"))
    runtime = LlamaRuntime()
    runtime.load(Load(runtime="llama", weights=str(smollm2_path()), sequences_max=1))
    runtime.attach("g", manifest, {})
    yield runtime
    runtime.close()


def finish(runtime: LlamaRuntime) -> list[Event]:
    """Step until nothing is left to do; return how the jobs ended, in order."""
    events: list[Event] = []
    while runtime.busy:
        events += runtime.step()
    return [event for event in events if isinstance(event, Done | Failed)]


def test_jobs_find_a_place_by_priority(runtime: LlamaRuntime) -> None:
    """A job of the operator comes in before one of a device that has waited for less than a second more."""
    for job_id, priority in (("first", 1), ("device", 1), ("operator", 0)):
        runtime.submit(Run(job_id=job_id, digest="g", text="Tell me of Rome.", output_tokens_max=9, priority=priority))
        if job_id == "first":
            runtime.step()
    assert ["first", "operator", "device"] == [event.job_id for event in finish(runtime)]


def test_a_job_that_cannot_be_in_time_is_not_computed(runtime: LlamaRuntime) -> None:
    """Where not even half of what it takes is left the job ends with that reason, and costs nobody anything."""
    runtime.submit(Run(job_id="before", digest="g", text="Tell me of Rome.", output_tokens_max=TRUSTED_STEPS))
    finish(runtime)
    assert runtime.cache_use is not None
    computed = runtime.cache_use.computed
    runtime.submit(Run(job_id="late", digest="g", text=LONG, seconds=0.01))
    (event,) = finish(runtime)
    assert ("late", "DEADLINE_EXPIRED") == (event.job_id, getattr(event, "reason", ""))
    assert computed == runtime.cache_use.computed


def test_a_job_with_time_is_computed(runtime: LlamaRuntime) -> None:
    """A deadline that can be kept changes nothing."""
    runtime.submit(Run(job_id="in time", digest="g", text=LONG, output_tokens_max=2, seconds=600.0))
    (event,) = finish(runtime)
    assert isinstance(event, Done)
