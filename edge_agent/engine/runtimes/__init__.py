"""The interface of runtimes, which compute with models, and the table that chooses one.

A runtime lives in the child process, on one thread, and is driven step by step: `submit` and `cancel` only record a
request, `step` does one bounded piece of work and returns the events. Nothing else blocks. So the loop of the child
(mailbox, step, send, tidy) is the same for every runtime, and tests can run a runtime in their own process.

Contract (tests/contract/test_runtimes.py checks every runtime against it):
- `load` comes first and is called once. It raises ModelLoadFailed and never leaves a half-loaded model.
- every submitted job ends with exactly one JobResult or FailureReport; a failure of one job affects no other job.
- `submit` raises CallerError for an invalid input; the job then does not exist.
- a score does not depend on other jobs in the same step; a runtime that cannot ensure that for a bundle reports it
  (`score_variance`), and no answer of the bundle is confident.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from typing import Protocol, cast

from edge_agent.engine.protocol import CacheUse, Event, FailureReport, JobRequest, LoadRequest
from edge_agent.errors import CapacityError, EdgeAgentError, EmptyInput, InputTooLong, RequestCancelled
from edge_agent.formats.manifest import Manifest


def no_cancellations(jobs: Collection[str]) -> bool:
    """Report no cancellations, for a runtime without a mailbox."""
    del jobs
    return False


def unlimited_memory(needed_bytes: int, available: int, headroom: int = 0) -> int:
    """Return what was available before, for a runtime without memory limits."""
    del needed_bytes, headroom
    return available


class Runtime(Protocol):
    """One loaded base and the bundles attached to it. Runtimes inherit the defaults: no mailbox, no limit, no cache."""

    device: str = "cpu"
    threads: int = 0
    """Threads that compute now; 0 = always those of the LoadRequest."""
    mailbox: int = -1
    """Descriptor that is readable when the caller has sent a message, -1 for none: a step that only waits for other
    threads ends then."""
    poll_cancellations: Callable[[Collection[str]], bool] = staticmethod(no_cancellations)
    """Reads the mailbox on another thread while a step computes; true if one of these jobs was cancelled, or the caller
    is gone. The messages are handled after the step."""

    request_memory: Callable[[int, int, int], int] = staticmethod(unlimited_memory)
    """Reports how much memory the runtime will take, before a library opens a file, and returns how much is available.
    All in bytes: (total with what is about to be loaded, available before, headroom for long inputs)."""

    def load(self, spec: LoadRequest) -> dict[str, str]:
        """Load the base; return details for status. Raises ModelLoadFailed."""

    def attach(self, digest: str, manifest: Manifest, paths: Mapping[str, str]) -> None:
        """Make a bundle ready and compute a first answer. Raises ModelLoadFailed."""

    def score_variance(self, digest: str) -> str:
        """Return why the scores of an attached bundle depend on what else is computed; empty = they do not.

        It is measured with the loaded weights and the installed build of the library.
        """

    def detach(self, digest: str) -> list[Event]:
        """Forget a bundle; return FailureReport(CANCELLED) for its running jobs. Unknown digests are ignored."""

    def submit(self, job: JobRequest) -> None:
        """Take a job. Raises CallerError (EmptyInput, InputTooLong, ...)."""

    def cancel(self, job_id: str) -> list[Event]:
        """Drop a job; return its FailureReport(CANCELLED), or nothing if it is unknown."""

    def step(self) -> list[Event]:
        """Do one bounded piece of work, or wait for one. Call only while `busy`."""

    def tidy(self) -> None:
        """Do work that the answers of a step need not wait for; called after they were sent."""
        return

    @property
    def busy(self) -> bool:
        """True while a job is unfinished."""

    @property
    def cache_use(self) -> CacheUse | None:
        """What the cache of keys and values holds; None without one."""
        return None

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
    """The device of a runtime failed. No job is to blame, and the process must end."""


def check_input_length(tokens: int, limit: int) -> None:
    """Raise EmptyInput or InputTooLong unless 1 <= tokens <= limit."""
    if tokens == 0:
        raise EmptyInput("the input has no text")
    if tokens > limit:
        raise InputTooLong(f"the input has {tokens} tokens; the limit is {limit}", tokens=tokens, limit=limit)


def failure_report(job_id: str, error: EdgeAgentError) -> FailureReport:
    """Return an error as the report that ends a job."""
    metadata = error.metadata
    if isinstance(error, CapacityError):
        metadata = {**metadata, "retry_seconds": f"{error.retry_seconds:.3f}"}
    return FailureReport(
        job_id=job_id, reason=error.reason, message=error.message, remedy=error.remedy, metadata=metadata
    )


def cancellation_report(job_id: str) -> FailureReport:
    """Return the report that ends a cancelled job."""
    return failure_report(job_id, RequestCancelled("the request was cancelled"))
