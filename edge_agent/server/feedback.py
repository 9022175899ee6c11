"""FeedbackService: reviewers' feedback on captured answers, checked against the task before it is stored."""

from __future__ import annotations

import base64
import struct
import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from edge_agent.capture.capture_values import QUEUE_START, HumanFeedback, ReviewCursor, ReviewFilter, ReviewItem
from edge_agent.capture.example_capture import ExampleCapture
from edge_agent.errors import InvalidRequest, UnknownTask
from edge_agent.errors.base import CONTROL_CHARACTERS
from edge_agent.formats import example_records, strict_json
from edge_agent.formats.example_records import ReviewStream
from edge_agent.formats.manifest import LABEL_KINDS, Manifest
from edge_agent.server import messages
from edge_agent.server.request_deduplication import REQUEST_ID_CHARS_MAX
from edge_agent.v1 import feedback_pb2 as pb
from edge_agent.v1 import feedback_pb2_grpc, inference_pb2, task_pb2

if TYPE_CHECKING:
    from edge_agent.formats.questions import QuestionSpec
    from edge_agent.server.interceptor import CallContext
    from edge_agent.update.activation import Activation

REVIEWER_CHARS_MAX = 100
REASON_CHARS_MAX = 2000
VALUE_CHARS_MAX = 1024 * 1024
ID_CHARS_MAX = 64
# The field of the verdict that corrects a task of that kind.
CORRECTIONS = {
    "classify": "corrected_label",
    "decide": "corrected_label",
    "extract": "corrected_json",
    "generate": "corrected_text",
}


class FeedbackServicer(feedback_pb2_grpc.FeedbackServiceServicer):
    """See the module."""

    def __init__(self, capture: ExampleCapture, activation: Activation) -> None:
        """Serve reviewers of captured answers."""
        self._capture, self._activation = capture, activation

    async def SubmitFeedback(
        self, request: pb.SubmitFeedbackRequest, context: CallContext
    ) -> pb.SubmitFeedbackResponse:
        """Store a reviewer's feedback; it is on the disk when this returns."""
        _check_request(request)
        _check_id(request.prediction_id)
        item = await self._capture.find_prediction(request.prediction_id)
        manifest = self._manifest(item.record["task"])
        feedback = _human_feedback(request, item.record, manifest)
        await self._capture.store_feedback(feedback, item.record, manifest)
        return pb.SubmitFeedbackResponse()

    async def ListReviewQueue(
        self, request: pb.ListReviewQueueRequest, context: CallContext
    ) -> pb.ListReviewQueueResponse:
        """List captured answers, from the review streams in turn."""
        size = messages.clamp_page_size(request.page_size)
        cursor = parse_page_token(request.page_token) if request.page_token else QUEUE_START
        confidence_max = request.confidence_max if request.HasField("confidence_max") else None
        stream = parse_review_stream(request.stream)
        review_filter = ReviewFilter(request.task, confidence_max, request.include_reviewed, stream)
        rows = await self._capture.review_page(review_filter, cursor, size + 1)
        predictions = [prediction_message(each, self._manifest(each.record["task"])) for each in rows[:size]]
        token = make_page_token(rows[size - 1].place) if len(rows) > size else ""
        return pb.ListReviewQueueResponse(predictions=predictions, next_page_token=token)

    async def GetPrediction(self, request: pb.GetPredictionRequest, context: CallContext) -> pb.GetPredictionResponse:
        """Show one captured answer and its feedback."""
        _check_id(request.prediction_id)
        item = await self._capture.find_prediction(request.prediction_id)
        prediction = prediction_message(item, self._manifest(item.record["task"]))
        return pb.GetPredictionResponse(prediction=prediction)

    async def ErasePrediction(
        self, request: pb.ErasePredictionRequest, context: CallContext
    ) -> pb.ErasePredictionResponse:
        """Erase one answer."""
        _check_id(request.prediction_id)
        erased = await self._capture.erasure.erase_answer(request.prediction_id, all_questions=request.all_questions)
        return pb.ErasePredictionResponse(**vars(erased))

    def _manifest(self, task: str) -> Manifest | None:
        """Return the manifest of a task's bundle; None if the task is no longer installed."""
        try:
            return self._activation.bundle_of(task).manifest
        except UnknownTask:
            return None


def _check_id(prediction_id: str) -> None:
    is_plain = prediction_id.isascii() and prediction_id.replace("-", "").isalnum()
    remedy = "Send the prediction_id of an answer."
    _require(is_plain and len(prediction_id) <= ID_CHARS_MAX, "prediction_id does not come from this daemon", remedy)


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
    remedy = "Set 'reviewer' to the name of the person or device that gives the verdict."
    _require(request.reviewer.strip() != "", "the request names no reviewer", remedy)
    problem = "reviewer holds a line break, a control character or a mark of direction"
    _require(not CONTROL_CHARACTERS.search(request.reviewer), problem, "Send the name alone, on one line.")


def _human_feedback(
    request: pb.SubmitFeedbackRequest, record: dict[str, Any], manifest: Manifest | None
) -> HumanFeedback:
    """Return the feedback of a request, checked against the prediction's task."""
    verdict, ids = request.WhichOneof("verdict"), (str(uuid.uuid4()), request.prediction_id, request.reviewer)
    if verdict == "accept" and request.accept:
        return HumanFeedback(*ids, "accept", request_id=request.request_id)
    if verdict == "reject_reason":
        return HumanFeedback(*ids, "reject", reason=request.reject_reason, request_id=request.request_id)
    correction_field = CORRECTIONS[record["kind"]]
    if verdict != correction_field:
        raise InvalidRequest(
            f"a task of kind {record['kind']} takes the verdicts accept, {correction_field} and reject_reason;"
            f" this is {verdict or 'none'}",
            remedy=f"Send accept: true, {correction_field} or reject_reason.",
        )
    value = getattr(request, correction_field)
    if record["kind"] in LABEL_KINDS:
        labels = _labels(manifest, record)
        subject = example_records.example_key(record)
        _require(value in labels, f"{value[:100]!r} is not a label of {subject}", f"One of: {', '.join(labels)[:400]}.")
    elif record["kind"] == "extract":
        _check_json(value, manifest.task.record_fields if manifest else [])
    else:
        _require(value.strip() != "", "the corrected text is empty", "Send the right text, or reject_reason.")
    return HumanFeedback(*ids, "corrected", value, request_id=request.request_id)


def _check_json(value: str, fields: list[str]) -> None:
    remedy = "Send the whole record, with the fields of the task."
    try:
        record = strict_json.decode(value)
        strict_json.encode(record)
    except ValueError as error:
        raise InvalidRequest(f"corrected_json is not valid JSON: {error}"[:300], remedy=remedy) from None
    _require(isinstance(record, dict), "corrected_json is not a JSON object", remedy)
    unknown = sorted(set(record) - set(fields)) if fields else []
    _require(
        not unknown,
        f"corrected_json has unknown fields: {', '.join(unknown)[:200]}",
        f"{remedy} {', '.join(fields)[:300]}.",
    )


def _require(is_valid: bool, message: str, remedy: str) -> None:
    if not is_valid:
        raise InvalidRequest(message, remedy=remedy)


STREAMS = messages.words_of(pb.ReviewStream)
_CURSOR = struct.Struct(">Bqqqdqdq")


def prediction_message(item: ReviewItem, manifest: Manifest | None) -> pb.Prediction:
    """Describe a captured answer; `manifest` is that of the task as installed now."""
    record = item.record
    local, teacher = example_records.local_answer(record), example_records.teacher_answer(record)
    question = _question(manifest, record)
    message = pb.Prediction(
        prediction_id=record["prediction_id"],
        bundle=task_pb2.BundleRef(
            task=record["task"], version=record["bundle"]["version"], digest=record["bundle"]["digest"]
        ),
        input=record["input"],
        output=record["output"],
        route=messages.ROUTES[record["route"]],
        kind=messages.KINDS[record["kind"]],
        labels=_labels(manifest, record),
        question=record.get("question", ""),
        feedback=[_feedback_message(each, record["kind"]) for each in item.feedback],
        reviewed=item.reviewed,
        p_value=record.get("p_value"),
        review_stream=STREAMS[item.stream],
        sampling_probability=item.probability,
        teacher_answer=teacher,
        teacher_model="" if teacher is None else record.get("model", ""),
        teacher_scores=_label_scores(record.get("teacher_scores", ())),
        instructions=question.instructions if question else "",
    )
    message.answer_time.FromJsonString(record["at"])
    if local is not None:
        message.local_answer = local["answer"]
        message.scores.extend(_label_scores(local["scores"]))
        if local["confidence"] is not None:
            message.confidence.value = local["confidence"]
            message.confidence.below_threshold = not local["sure"]
        if local["threshold"] is not None:
            message.confidence.threshold = local["threshold"]
    return message


def _label_scores(pairs: Iterable[tuple[str, float]]) -> list[inference_pb2.LabelScore]:
    return [inference_pb2.LabelScore(label=label, score=score) for label, score in pairs]


def parse_page_token(token: str) -> ReviewCursor:
    """Read a page's token.

    Raises:
        InvalidRequest: it does not come from `make_page_token`.
    """
    try:
        return ReviewCursor(*_CURSOR.unpack(base64.urlsafe_b64decode(token.encode())))
    except (ValueError, struct.error):
        remedy = "Start again with an empty page_token."
        raise InvalidRequest("page_token does not come from this daemon", remedy=remedy) from None


def make_page_token(cursor: ReviewCursor) -> str:
    """Return the token of the page that follows `cursor`."""
    return base64.urlsafe_b64encode(_CURSOR.pack(*cursor)).decode()


def parse_review_stream(value: pb.ReviewStream) -> ReviewStream | None:
    """Return the stream that a request names; None = all. Raises InvalidRequest."""
    if value == pb.REVIEW_STREAM_UNSPECIFIED:
        return None
    stream: ReviewStream | None = next((name for name, number in STREAMS.items() if number == value), None)
    if stream is None:
        raise InvalidRequest(f"stream {value} is not supported by this version", remedy="Leave it out for all streams.")
    return stream


def _labels(manifest: Manifest | None, record: dict[str, Any]) -> list[str]:
    """Return the labels or fields that a correction may name: those of the present task, else those of the record."""
    if manifest is not None and manifest.task.kind == "extract":
        return manifest.task.record_fields
    question = _question(manifest, record)
    known = question.outputs if question else manifest.task.labels if manifest else ()
    if known:
        return list(known)
    local = example_records.local_answer(record)
    return [label for label, _ in local["scores"]] if local else []


def _question(manifest: Manifest | None, record: dict[str, Any]) -> QuestionSpec | None:
    """Return the question that a record answers, as the present task defines it; None = it does not."""
    questions = manifest.task.questions if manifest else ()
    return next((each for each in questions if each.name == record.get("question")), None)


def _feedback_message(record: dict[str, Any], kind: str) -> pb.Feedback:
    message = pb.Feedback(feedback_id=record["feedback_id"], reviewer=record["reviewer"])
    message.feedback_time.FromJsonString(record["at"])
    if record["verdict"] == "accept":
        message.accept = True
    elif record["verdict"] == "reject":
        message.reject_reason = record["reason"]
    else:
        setattr(message, CORRECTIONS[kind], record["value"])
    return message
