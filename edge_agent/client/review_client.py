"""The reviewer's clients, for the review socket: `ReviewClient`, and `AsyncReviewClient` for asyncio programs."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from edge_agent.client import translation
from edge_agent.client.call_failed import Tls
from edge_agent.client.daemon_connection import (
    AsyncConnection,
    Connection,
    Retry,
    blocking,
    blocking_iterator,
    require_text,
)
from edge_agent.client.results import Prediction
from edge_agent.v1 import feedback_pb2 as pb
from edge_agent.v1.feedback_pb2_grpc import FeedbackServiceStub

_STREAM = "REVIEW_STREAM_"
# The field for a correction, by the kind of the task.
_CORRECTIONS = {
    "CLASSIFY": "corrected_label",
    "DECIDE": "corrected_label",
    "EXTRACT": "corrected_json",
    "GENERATE": "corrected_text",
}


def _feedback_request(prediction_id: str, reviewer: str, request_id: str, **verdict: Any) -> pb.SubmitFeedbackRequest:
    return pb.SubmitFeedbackRequest(prediction_id=prediction_id, reviewer=reviewer, request_id=request_id, **verdict)


@dataclass(frozen=True)
class ErasedAnswer:
    """Result of erasing an answer."""

    was_kept: bool
    """The answer was stored at this site."""
    tombstoned: bool
    """The central team is told to erase its copy."""
    same_text_ids: tuple[str, ...]
    """Answers to other questions about the same text; with `all_questions` they were erased too, otherwise not."""


class _ReviewCalls:
    """The calls of a reviewer, written once: see daemon_connection.py."""

    unary: Any
    request_id: Callable[[str], str]
    _stub: Any

    async def prediction(self, prediction_id: str, *, timeout_seconds: float = 10) -> Prediction:
        """Show one captured answer, and its feedback."""
        request = pb.GetPredictionRequest(prediction_id=prediction_id)
        answer = await self.unary(self._stub.GetPrediction, request, timeout_seconds)
        return translation.value_of(Prediction, answer.prediction)

    async def queue(
        self,
        task: str = "",
        *,
        confidence_max: float | None = None,
        include_reviewed: bool = False,
        stream: str = "",
        page_size: int = 100,
        timeout_seconds: float = 10,
    ) -> AsyncIterator[Prediction]:
        """Yield captured answers in the order of the queue, fetched page by page.

        `confidence_max` is from 0 to 1, and leaves the audit out. `stream` is AUDIT, UNCERTAIN, DIVERSE or NEW; empty
        = all of them, interleaved.
        """
        known = [each.removeprefix(_STREAM) for each in list(pb.ReviewStream.DESCRIPTOR.values_by_name)[1:]]
        if stream and stream.upper() not in known:
            raise ValueError(f"stream is {stream!r}: write one of {', '.join(known)}, or nothing for all")
        request = pb.ListReviewQueueRequest(
            task=task,
            page_size=page_size,
            confidence_max=confidence_max,
            include_reviewed=include_reviewed,
            stream=f"{_STREAM}{stream.upper() or 'UNSPECIFIED'}",
        )
        while True:
            answer = await self.unary(self._stub.ListReviewQueue, request, timeout_seconds)
            for each in answer.predictions:
                yield translation.value_of(Prediction, each)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def page(
        self, task: str = "", *, page_token: str = "", page_size: int = 100, timeout_seconds: float = 10
    ) -> tuple[list[Prediction], str]:
        """Return one page of the review queue, and the token of the next; empty = the last."""
        request = pb.ListReviewQueueRequest(task=task, page_token=page_token, page_size=page_size)
        answer = await self.unary(self._stub.ListReviewQueue, request, timeout_seconds)
        return [translation.value_of(Prediction, each) for each in answer.predictions], str(answer.next_page_token)

    async def accept(
        self, prediction_id: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Confirm an answer. Durable once it returns."""
        request = _feedback_request(prediction_id, reviewer, self.request_id(request_id), accept=True)
        await self.unary(self._stub.SubmitFeedback, request, timeout_seconds)

    async def correct(
        self, prediction_id: str, value: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Give the right label, JSON object or text, by the kind of the task. Durable once it returns."""
        kind = (await _ReviewCalls.prediction(self, prediction_id, timeout_seconds=timeout_seconds)).kind
        request = _feedback_request(
            prediction_id, reviewer, self.request_id(request_id), **{_CORRECTIONS[kind]: require_text(value, "value")}
        )
        await self.unary(self._stub.SubmitFeedback, request, timeout_seconds)

    async def reject(
        self, prediction_id: str, reason: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Reject an answer with a reason, without a better one. Durable once it returns."""
        request = _feedback_request(prediction_id, reviewer, self.request_id(request_id), reject_reason=reason)
        await self.unary(self._stub.SubmitFeedback, request, timeout_seconds)

    async def erase(self, prediction_id: str, *, timeout_seconds: float = 30) -> tuple[bool, bool]:
        """Erase an answer; return whether it was stored here, and whether the central team is told to erase it too."""
        erased = await _ReviewCalls.erase_answer(self, prediction_id, timeout_seconds=timeout_seconds)
        return erased.was_kept, erased.tombstoned

    async def erase_answer(
        self, prediction_id: str, *, all_questions: bool = False, timeout_seconds: float = 30
    ) -> ErasedAnswer:
        """Erase an answer, and with `all_questions` the answers to other questions about the same text."""
        request = pb.ErasePredictionRequest(prediction_id=prediction_id, all_questions=all_questions)
        answer = await self.unary(self._stub.ErasePrediction, request, timeout_seconds)
        return translation.value_of(ErasedAnswer, answer)


class ReviewClient(Connection):
    """Calls of a reviewer. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/review.sock", or "host:port" with a certificate of role feedback.

        `retry` as in Client: a judgement then has a request_id, so that it counts once.
        """
        super().__init__(target, tls, retry=retry)
        self._stub: Any = FeedbackServiceStub(self.channel)

    prediction = blocking(_ReviewCalls.prediction)
    queue = blocking_iterator(_ReviewCalls.queue)
    page = blocking(_ReviewCalls.page)
    accept = blocking(_ReviewCalls.accept)
    correct = blocking(_ReviewCalls.correct)
    reject = blocking(_ReviewCalls.reject)
    erase = blocking(_ReviewCalls.erase)
    erase_answer = blocking(_ReviewCalls.erase_answer)


class AsyncReviewClient(_ReviewCalls, AsyncConnection):
    """The same calls, awaited. Every method raises CallFailed."""

    @functools.cached_property
    def _stub(self) -> Any:
        return FeedbackServiceStub(self.channel)
