"""The seam behind which models run, and the table that chooses one.

A runtime lives in the child process, on one thread, and is driven step by step: `submit` and `cancel` only note what is
to be done, `step` does one bounded piece of it and returns what came out. Nothing else blocks. That keeps the loop of
the child (mailbox, step, send, tidy) the same for every runtime and lets tests run a runtime in their own process.

Contract (tests/contract/test_runtimes.py holds every runtime to it):
- `load` once, then everything else. It raises ModelLoadFailed, never returns a half-loaded model.
- every submitted job ends with exactly one Done or Failed, whatever happens; a failure of one job is that job's alone.
- `submit` raises CallerError for what is wrong with the input; the job then does not exist.
- a score does not depend on which other jobs ran in the same step; a runtime that cannot ensure that for a bundle says
  so (`score_variance`), and no answer of the bundle is confident.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, cast

from edge_agent.engine.protocol import CacheUse, Event, FailureReport, JobRequest, LoadRequest
from edge_agent.errors import CapacityError, EdgeAgentError, EmptyInput, InputTooLong, RequestCancelled
from edge_agent.formats.manifest import Manifest


class Runtime(Protocol):
    """One loaded base and the bundles attached to it."""

    device: str
    threads: int
    """With how many it computes now; 0 = with those that it was given, always."""
    mailbox: int
    """Descriptor that is readable when the caller has something to say, -1 for none: a step that only waits, because
    others compute for it, ends then."""
    poll_cancellations: Callable[[Collection[str]], bool]
    """Reads the mailbox while a step computes, from another thread; true when one of these jobs was cancelled, or the
    caller is gone. What was read is acted on after the step."""

    request_memory: Callable[[int, int, int], int]
    """Says what the runtime will take with what it is about to load or attach, before a library opens a file of it, and
    returns how much there is, in bytes: (what it will take in all, what was known before, headroom for long inputs)."""

    def load(self, spec: LoadRequest) -> dict[str, str]:
        """Load the base; return details for status. Raises ModelLoadFailed."""

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Make a bundle ready and prove that it computes. Raises ModelLoadFailed."""

    def score_variance(self, digest: str) -> str:
        """Return why the scores of an attached bundle depend on what else is computed; empty = they do not.

        That is measured for the format of the weights and the build of the library that run.
        """

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle; return Failed(CANCELLED) for its running jobs. Unknown digests are ignored."""

    def submit(self, job: JobRequest) -> None:
        """Take a job. Raises CallerError (EmptyInput, InputTooLong, ...)."""

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job; return its Failed(CANCELLED), or nothing if it is unknown."""

    def step(self) -> list[Event]:
        """Do one bounded piece of work, or wait for one. Call only while `busy`."""

    def tidy(self) -> None:
        """Do what the answers of a step need not wait for; called when they are on their way."""

    @property
    def busy(self) -> bool:
        """True while a job is unfinished."""

    @property
    def cache_use(self) -> CacheUse | None:
        """What the cache of keys and values holds; None without one."""

    def close(self) -> None:
        """Free the model."""


# Runtime name: module and class. Imported on use, in the child only: llama_cpp and onnxruntime never enter the daemon.
TABLE = {
    "echo": ("edge_agent.engine.runtimes.echo", "EchoRuntime"),
    "onnx": ("edge_agent.engine.runtimes.onnx_runtime", "OnnxRuntime"),
    "llama": ("edge_agent.engine.runtimes.llama.llama_runtime", "LlamaRuntime"),
}


def create(name: str) -> Runtime:
    """Return a new, unloaded runtime."""
    module, cls = TABLE[name]
    return cast(Runtime, getattr(importlib.import_module(module), cls)())


class DeviceLost(Exception):
    """The device under a runtime failed. No job is to blame, and the process that drove it has to end."""


def no_cancellations(jobs: Collection[str]) -> bool:
    """Say that all jobs are wanted: where nobody speaks while a step computes."""
    del jobs
    return False


def unlimited_memory(needed_bytes: int, known: int, headroom: int = 0) -> int:
    """Return what was known before: where nobody sets limits."""
    del needed_bytes, headroom
    return known


def check_input_length(tokens: int, limit: int) -> None:
    """Raise EmptyInput or InputTooLong unless 1 <= tokens <= limit."""
    if tokens == 0:
        raise EmptyInput("the input has no text")
    if tokens > limit:
        raise InputTooLong(f"the input has {tokens} tokens; the limit is {limit}", tokens=tokens, limit=limit)


def failure_report(job_id: str, error: EdgeAgentError) -> FailureReport:
    """Write an error as the end of a job."""
    metadata = error.metadata
    if isinstance(error, CapacityError):
        metadata = {**metadata, "retry_seconds": f"{error.retry_seconds:.3f}"}
    return FailureReport(
        job_id=job_id, reason=error.reason, message=error.message, remedy=error.remedy, metadata=metadata
    )


def cancellation_report(job_id: str) -> FailureReport:
    """Write the end of a job whose caller went away."""
    return failure_report(job_id, RequestCancelled("the request was cancelled"))
