"""From an answer to what is counted of it, for metrics and status: on the way of every answer, a few microseconds."""

from __future__ import annotations

import asyncio
from types import TracebackType

from edge_agent.errors import EdgeAgentError, RequestCancelled
from edge_agent.metrics.counting import Counts
from edge_agent.server.answers import Finished

BUG = "INTERNAL"


def answered(counts: Counts, finished: Finished, confidence: float | None = None) -> None:
    """Count an answer; its confidence is None where its kind has none, or no local model was asked."""
    decision, answer = finished.decision, finished.answer
    done, of = answer.done, counts.of(finished.bundle.manifest.task.name)
    waited = 0.001 * answer.queue_ms
    of.queue.observe(waited)
    of.compute.observe(0.001 * (done.prefill_ms + done.decode_ms))
    of.total.observe(finished.seconds)
    of.answers[decision.route] += 1
    of.tokens[0] += done.input_tokens
    if done.output_tokens:
        of.tokens[1] += done.output_tokens
        of.first.observe(waited + 0.001 * done.prefill_ms)
        of.token.observe(0.001 * done.decode_ms / done.output_tokens)
    if confidence is not None:
        of.confidence.observe(confidence)
        if decision.held_up is not None:
            of.held_up[decision.held_up] += 1
    for reason in decision.degraded:
        of.degraded[reason] += 1


def lost(counts: Counts, task: str, error: BaseException) -> None:
    """Count an input or a call without an answer."""
    if isinstance(error, EdgeAgentError):
        counts.lost(task, error.reason)
    else:
        counts.lost(task, RequestCancelled.reason if isinstance(error, asyncio.CancelledError) else BUG)


class Counting:
    """One call, counted if it ends without an answer; a `with` block, for the counting stops no exception."""

    __slots__ = ("_counts", "_task")

    def __init__(self, counts: Counts, task: str) -> None:
        """Begin; `task` is UNKNOWN unless it is installed."""
        self._counts, self._task = counts, task

    def __enter__(self) -> None:
        """Do nothing yet."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Count what the block ended with."""
        if error is not None:
            lost(self._counts, self._task, error)
