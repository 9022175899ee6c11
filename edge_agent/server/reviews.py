"""Between kept records and the messages of FeedbackService: pure translation."""

from __future__ import annotations

import base64
import struct
from typing import Any

from edge_agent.capture.collection import Reviewed
from edge_agent.capture.review_streams import Place
from edge_agent.errors import InvalidRequest
from edge_agent.formats import example_records
from edge_agent.formats.example_records import ReviewStream
from edge_agent.formats.manifest import Manifest
from edge_agent.server import messages
from edge_agent.v1 import feedback_pb2 as pb
from edge_agent.v1 import inference_pb2, task_pb2

_VALUES = {"classify": "corrected_label", "extract": "corrected_json", "generate": "corrected_text"}
STREAMS: dict[ReviewStream, pb.ReviewStream] = {
    "audit": pb.REVIEW_STREAM_AUDIT,
    "uncertain": pb.REVIEW_STREAM_UNCERTAIN,
    "diverse": pb.REVIEW_STREAM_DIVERSE,
    "new": pb.REVIEW_STREAM_NEW,
}
_PLACE = struct.Struct(">Bqqqdq")


def prediction(found: Reviewed, manifest: Manifest | None) -> pb.Prediction:
    """Show a kept answer; `manifest` is of the task as it is now."""
    record = found.record
    message = pb.Prediction(
        prediction_id=record["prediction_id"],
        bundle=task_pb2.BundleRef(
            task=record["task"], version=record["bundle"]["version"], digest=record["bundle"]["digest"]
        ),
        input=record["input"],
        output=record["output"],
        route=messages.ROUTES[record["route"]],
        kind=messages.KINDS[record["kind"]],
        labels=_labels(manifest),
        feedback=[_feedback(said, record["kind"]) for said in found.feedback],
        reviewed=found.reviewed,
    )
    message.answer_time.FromJsonString(record["at"])
    if record.get("p_value") is not None:
        message.p_value = record["p_value"]
    message.review_stream = STREAMS[found.stream]
    if found.probability is not None:
        message.sampling_probability = found.probability
    local, teacher = example_records.local_answer(record), example_records.teacher_answer(record)
    if teacher is not None:
        message.teacher_answer, message.teacher_model = teacher, record.get("model", "")
    if local is not None:
        _show_local(message, local)
    return message


def _show_local(message: pb.Prediction, local: dict[str, Any]) -> None:
    message.local_answer = local["answer"]
    message.scores.extend([inference_pb2.LabelScore(label=label, score=score) for label, score in local["scores"]])
    if local["confidence"] is not None:
        message.confidence.value = local["confidence"]
        message.confidence.below_threshold = not local["sure"]
    if local["threshold"] is not None:
        message.confidence.threshold = local["threshold"]


def place(token: str) -> Place:
    """Read a page's token.

    Raises:
        InvalidRequest: it is none that `token` gave.
    """
    try:
        found = Place(*_PLACE.unpack(base64.urlsafe_b64decode(token.encode())))
    except (ValueError, struct.error):
        remedy = "Start again with an empty page_token."
        raise InvalidRequest("page_token is none that this daemon gave", remedy=remedy) from None
    return found


def token(last: Place) -> str:
    """Write the token of the page behind a place."""
    return base64.urlsafe_b64encode(_PLACE.pack(*last)).decode()


def stream(asked: pb.ReviewStream) -> ReviewStream | None:
    """Return the stream that a request names; None = all. Raises InvalidRequest."""
    if asked == pb.REVIEW_STREAM_UNSPECIFIED:
        return None
    found = next((name for name, value in STREAMS.items() if value == asked), None)
    if found is None:
        raise InvalidRequest(f"stream {asked} is none that this daemon knows", remedy="Leave it out for all streams.")
    return found


def _labels(manifest: Manifest | None) -> list[str]:
    if manifest is None:
        return []
    return manifest.task.record_fields if manifest.task.kind == "extract" else list(manifest.task.labels)


def _feedback(said: dict[str, Any], kind: str) -> pb.Feedback:
    message = pb.Feedback(feedback_id=said["feedback_id"], reviewer=said["reviewer"])
    message.feedback_time.FromJsonString(said["at"])
    if said["verdict"] == "accept":
        message.accept = True
    elif said["verdict"] == "reject":
        message.reject_reason = said["reason"]
    else:
        setattr(message, _VALUES[kind], said["value"])
    return message
