"""What every runtime does the same way with jobs: check the length, fail, cancel, lose the device."""

from __future__ import annotations

from collections.abc import Collection

from edge_agent.engine.protocol import FailureReport
from edge_agent.errors import CapacityError, EdgeAgentError, EmptyInput, InputTooLong, RequestCancelled


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
