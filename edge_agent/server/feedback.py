"""FeedbackService: what people say of answers, checked against the task before it is kept."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge_agent.capture.example_capture import QUEUE_START, ExampleCapture
from edge_agent.capture.record_builder import HumanFeedback
from edge_agent.capture.review_streams import ReviewFilter
from edge_agent.errors import InvalidRequest, UnknownTask
from edge_agent.formats.example_records import local_answer
from edge_agent.formats.manifest import Manifest
from edge_agent.server import guard, messages, reviews
from edge_agent.server.dedupe import REQUEST_ID_CHARS_MAX
from edge_agent.update.activation import Activation
from edge_agent.v1 import feedback_pb2 as pb
from edge_agent.v1 import feedback_pb2_grpc

REVIEWER_CHARS_MAX = 100
REASON_CHARS_MAX = 2000
VALUE_CHARS_MAX = 1024 * 1024
ID_CHARS_MAX = 64
# The field of the verdict that corrects a task of that kind.
CORRECTIONS = {"classify": "corrected_label", "extract": "corrected_json", "generate": "corrected_text"}


@dataclass(frozen=True)
class Reviewing:
    """What reviewers look at and change."""

    collection: ExampleCapture
    activation: Activation

    def manifest(self, task: str) -> Manifest | None:
        """Return the manifest of a task's bundle; None if the task is not installed any more."""
        try:
            return self.activation.bundle_of(task).manifest
        except UnknownTask:
            return None


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """See the module."""

    def __init__(self, rooms: Reviewing) -> None:
        """Serve these rooms."""
        self._rooms = rooms

    @guard.call
    async def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, context: guard.Context
    ) -> pb.SubmitFeedbackResponse:
        """Keep what a reviewer says; it is on the disk when this returns."""
        _check_request(request)
        _check_id(request.prediction_id)
        found = await self._rooms.collection.find_prediction(request.prediction_id)
        manifest = self._rooms.manifest(found.record["task"])
        said = _judgement(request, found.record, manifest)
        await self._rooms.collection.store_feedback(said, found.record, manifest)
        return pb.SubmitFeedbackResponse()

    @guard.call
    async def ListReviewQueue(
        self, request: pb.ListReviewQueueRequest, context: guard.Context
    ) -> pb.ListReviewQueueResponse:
        """List kept answers, the review streams in turns."""
        size = messages.page_size_of(request.page_size)
        after = reviews.place(request.page_token) if request.page_token else QUEUE_START
        at_most = request.confidence_max if request.HasField("confidence_max") else None
        stream = reviews.stream(request.stream)
        wanted = ReviewFilter(request.task, at_most, request.include_reviewed, stream)
        rows = await self._rooms.collection.review_page(wanted, after, size + 1)
        shown = [reviews.prediction(each, self._rooms.manifest(each.record["task"])) for each in rows[:size]]
        token = reviews.token(rows[size - 1].place) if len(rows) > size else ""
        return pb.ListReviewQueueResponse(predictions=shown, next_page_token=token)

    @guard.call
    async def GetPrediction(self, request: pb.GetPredictionRequest, context: guard.Context) -> pb.GetPredictionResponse:
        """Show one kept answer and the feedback on it."""
        _check_id(request.prediction_id)
        found = await self._rooms.collection.find_prediction(request.prediction_id)
        shown = reviews.prediction(found, self._rooms.manifest(found.record["task"]))
        return pb.GetPredictionResponse(prediction=shown)

    @guard.call
    async def ErasePrediction(
        self, request: pb.ErasePredictionRequest, context: guard.Context
    ) -> pb.ErasePredictionResponse:
        """Forget one answer."""
        _check_id(request.prediction_id)
        was_kept, tombstoned = await self._rooms.collection.erase(request.prediction_id)
        return pb.ErasePredictionResponse(was_kept=was_kept, tombstoned=tombstoned)


def _check_id(prediction_id: str) -> None:
    plain = prediction_id.isascii() and prediction_id.replace("-", "").isalnum()
    if not plain or len(prediction_id) > ID_CHARS_MAX:
        raise InvalidRequest(
            "prediction_id is none that this daemon gave", remedy="Send the prediction_id of an answer."
        )


def _check_request(request: pb.SubmitFeedbackRequest) -> None:
    limits = {
        "reviewer": REVIEWER_CHARS_MAX,
        "request_id": REQUEST_ID_CHARS_MAX,
        "reject_reason": REASON_CHARS_MAX,
        "corrected_label": VALUE_CHARS_MAX,
        "corrected_json": VALUE_CHARS_MAX,
        "corrected_text": VALUE_CHARS_MAX,
    }
    for name, limit in limits.items():
        length = len(getattr(request, name))
        if length > limit:
            raise InvalidRequest(f"{name} has {length} characters; the limit is {limit}")
    if not request.reviewer.strip():
        raise InvalidRequest("the request names no reviewer", remedy="Set 'reviewer' to a name that the site knows.")


def _judgement(request: pb.SubmitFeedbackRequest, record: dict[str, Any], manifest: Manifest | None) -> HumanFeedback:
    """Check the verdict against the prediction's task."""
    verdict, ids = request.WhichOneof("verdict"), (str(uuid.uuid4()), request.prediction_id, request.reviewer)
    if verdict == "accept" and request.accept:
        return HumanFeedback(*ids, "accept", request_id=request.request_id)
    if verdict == "reject_reason":
        return HumanFeedback(*ids, "reject", reason=request.reject_reason, request_id=request.request_id)
    fitting = CORRECTIONS[record["kind"]]
    if verdict != fitting:
        raise InvalidRequest(
            f"a task of kind {record['kind']} takes the verdicts accept, {fitting} and reject_reason;"
            f" this is {verdict or 'none'}",
            remedy=f"Send accept: true, {fitting} or reject_reason.",
        )
    value = getattr(request, fitting)
    _check_value(value, record, manifest)
    return HumanFeedback(*ids, "corrected", value, request_id=request.request_id)


def _check_value(value: str, record: dict[str, Any], manifest: Manifest | None) -> None:
    if record["kind"] == "classify":
        known = manifest.task.labels if manifest else tuple(label for label, _ in _scores(record))
        _require(
            value in known, f"{value[:100]!r} is no label of {record['task']}", f"One of: {', '.join(known)[:400]}."
        )
    elif record["kind"] == "extract":
        _check_json(value, manifest.task.record_fields if manifest else [])
    else:
        _require(value.strip() != "", "the corrected text is empty", "Send the right text, or reject_reason.")


def _scores(record: dict[str, Any]) -> Sequence[tuple[str, float]]:
    local = local_answer(record)
    return local["scores"] if local else ()


def _check_json(value: str, fields: list[str]) -> None:
    remedy = "Send the whole record, with the fields of the task."
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        raise InvalidRequest("corrected_json is not valid JSON", remedy=remedy) from None
    _require(isinstance(record, dict), "corrected_json is no JSON object", remedy)
    unknown = sorted(set(record) - set(fields)) if fields else []
    _require(
        not unknown,
        f"corrected_json has unknown fields: {', '.join(unknown)[:200]}",
        f"{remedy} {', '.join(fields)[:300]}.",
    )


def _require(holds: bool, said: str, remedy: str) -> None:
    if not holds:
        raise InvalidRequest(said, remedy=remedy)
