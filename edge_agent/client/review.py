"""The reviewers' clients, for the review socket: sync, and for asyncio programs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from edge_agent.client import arguments, wire
from edge_agent.client.aio_connection import AsyncConnection
from edge_agent.client.answers import Prediction
from edge_agent.client.connection import Connection
from edge_agent.client.retry import Retry
from edge_agent.client.tls import Tls
from edge_agent.v1 import feedback_pb2 as pb
from edge_agent.v1.feedback_pb2_grpc import FeedbackServiceStub

_STREAM = "REVIEW_STREAM_"
# The field that corrects an answer of a task of that kind.
_CORRECTIONS = {"CLASSIFY": "corrected_label", "EXTRACT": "corrected_json", "GENERATE": "corrected_text"}


def _verdict(prediction_id: str, reviewer: str, request_id: str, **verdict: Any) -> pb.SubmitFeedbackRequest:
    return pb.SubmitFeedbackRequest(prediction_id=prediction_id, reviewer=reviewer, request_id=request_id, **verdict)


def _stream(name: str) -> str:
    known = [each.removeprefix(_STREAM) for each in list(pb.ReviewStream.DESCRIPTOR.values_by_name)[1:]]
    if name and name.upper() not in known:
        raise ValueError(f"stream is {name!r}: write one of {', '.join(known)}, or nothing for all")
    return f"{_STREAM}{name.upper() or 'UNSPECIFIED'}"


def _correction(kind: str, value: str) -> dict[str, str]:
    return {_CORRECTIONS[kind]: arguments.text(value, "value")}


class ReviewClient(Connection):
    """Calls of a reviewer. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon: "unix:/run/edge-agent/review.sock", or "host:port" with a certificate of role feedback.

        `retry` as in Client: a judgement then has a request_id, so that it counts once.
        """
        super().__init__(target, tls, retry=retry)
        self._stub: Any = FeedbackServiceStub(self.channel)

    def prediction(self, prediction_id: str, *, timeout_seconds: float = 10) -> Prediction:
        """Show one kept answer, and what was said of it."""
        request = pb.GetPredictionRequest(prediction_id=prediction_id)
        return wire.prediction(self.call(self._stub.GetPrediction, request, timeout_seconds).prediction)

    def queue(
        self,
        task: str = "",
        *,
        confidence_max: float | None = None,
        include_reviewed: bool = False,
        stream: str = "",
        page_size: int = 100,
        timeout_seconds: float = 10,
    ) -> Iterator[Prediction]:
        """Yield kept answers in the order of the queue, fetched page by page.

        `confidence_max` is from 0 to 1, and leaves the audit out. `stream` is AUDIT, UNCERTAIN, DIVERSE or NEW; empty
        = all of them, in turns.
        """
        token = ""
        request = pb.ListReviewQueueRequest(
            task=task,
            page_size=page_size,
            confidence_max=confidence_max,
            include_reviewed=include_reviewed,
            stream=_stream(stream),
        )
        while True:
            request.page_token = token
            shown, token = self._page(request, timeout_seconds)
            yield from shown
            if not token:
                return

    def page(
        self, task: str = "", *, page_token: str = "", timeout_seconds: float = 10
    ) -> tuple[list[Prediction], str]:
        """Return one page of the review queue, and the token of the next; empty = the last."""
        request = pb.ListReviewQueueRequest(task=task, page_token=page_token)
        return self._page(request, timeout_seconds)

    def accept(self, prediction_id: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10) -> None:
        """Say that an answer is right. Durable once it returns."""
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), accept=True)
        self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    def correct(
        self, prediction_id: str, value: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Give the right label, JSON object or text, by the kind of the task. Durable once it returns."""
        kind = self.prediction(prediction_id, timeout_seconds=timeout_seconds).kind
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), **_correction(kind, value))
        self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    def reject(
        self, prediction_id: str, reason: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Say why an answer is wrong, without a better one. Durable once it returns."""
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), reject_reason=reason)
        self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    def erase(self, prediction_id: str, *, timeout_seconds: float = 30) -> tuple[bool, bool]:
        """Forget an answer; return whether it was kept here, and whether the centre is told to forget it, too."""
        request = pb.ErasePredictionRequest(prediction_id=prediction_id)
        answer = self.call(self._stub.ErasePrediction, request, timeout_seconds)
        return bool(answer.was_kept), bool(answer.tombstoned)

    def _page(self, request: pb.ListReviewQueueRequest, timeout_seconds: float) -> tuple[list[Prediction], str]:
        answer = self.call(self._stub.ListReviewQueue, request, timeout_seconds)
        return list(map(wire.prediction, answer.predictions)), str(answer.next_page_token)


class AsyncReviewClient(AsyncConnection):
    """The same calls, awaited. Every method raises CallFailed."""

    def __init__(self, target: str, tls: Tls | None = None, *, retry: Retry | None = None) -> None:
        """Name the daemon, as to ReviewClient."""
        super().__init__(target, tls, retry=retry)
        self._stub: Any = FeedbackServiceStub(self.channel)

    async def prediction(self, prediction_id: str, *, timeout_seconds: float = 10) -> Prediction:
        """Show one kept answer, and what was said of it."""
        request = pb.GetPredictionRequest(prediction_id=prediction_id)
        return wire.prediction((await self.call(self._stub.GetPrediction, request, timeout_seconds)).prediction)

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
        """Yield kept answers in the order of the queue, fetched page by page.

        `confidence_max` is from 0 to 1, and leaves the audit out. `stream` is AUDIT, UNCERTAIN, DIVERSE or NEW; empty
        = all of them, in turns.
        """
        request = pb.ListReviewQueueRequest(
            task=task,
            page_size=page_size,
            confidence_max=confidence_max,
            include_reviewed=include_reviewed,
            stream=_stream(stream),
        )
        while True:
            answer = await self.call(self._stub.ListReviewQueue, request, timeout_seconds)
            for each in answer.predictions:
                yield wire.prediction(each)
            request.page_token = answer.next_page_token
            if not request.page_token:
                return

    async def page(
        self, task: str = "", *, page_token: str = "", page_size: int = 100, timeout_seconds: float = 10
    ) -> tuple[list[Prediction], str]:
        """Return one page of the review queue, and the token of the next; empty = the last."""
        request = pb.ListReviewQueueRequest(task=task, page_token=page_token, page_size=page_size)
        answer = await self.call(self._stub.ListReviewQueue, request, timeout_seconds)
        return list(map(wire.prediction, answer.predictions)), str(answer.next_page_token)

    async def accept(
        self, prediction_id: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Say that an answer is right. Durable once it returns."""
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), accept=True)
        await self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    async def correct(
        self, prediction_id: str, value: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Give the right label, JSON object or text, by the kind of the task. Durable once it returns."""
        kind = (await self.prediction(prediction_id, timeout_seconds=timeout_seconds)).kind
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), **_correction(kind, value))
        await self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    async def reject(
        self, prediction_id: str, reason: str, *, reviewer: str, request_id: str = "", timeout_seconds: float = 10
    ) -> None:
        """Say why an answer is wrong, without a better one. Durable once it returns."""
        request = _verdict(prediction_id, reviewer, self.request_id(request_id), reject_reason=reason)
        await self.call(self._stub.SubmitFeedback, request, timeout_seconds)

    async def erase(self, prediction_id: str, *, timeout_seconds: float = 30) -> tuple[bool, bool]:
        """Forget an answer; return whether it was kept here, and whether the centre is told to forget it, too."""
        request = pb.ErasePredictionRequest(prediction_id=prediction_id)
        answer = await self.call(self._stub.ErasePrediction, request, timeout_seconds)
        return bool(answer.was_kept), bool(answer.tombstoned)
