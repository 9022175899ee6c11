import datetime

from edge_agent.v1 import inference_pb2 as _inference_pb2
from edge_agent.v1 import task_pb2 as _task_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ReviewStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REVIEW_STREAM_UNSPECIFIED: _ClassVar[ReviewStream]
    REVIEW_STREAM_AUDIT: _ClassVar[ReviewStream]
    REVIEW_STREAM_UNCERTAIN: _ClassVar[ReviewStream]
    REVIEW_STREAM_DIVERSE: _ClassVar[ReviewStream]
    REVIEW_STREAM_NEW: _ClassVar[ReviewStream]
REVIEW_STREAM_UNSPECIFIED: ReviewStream
REVIEW_STREAM_AUDIT: ReviewStream
REVIEW_STREAM_UNCERTAIN: ReviewStream
REVIEW_STREAM_DIVERSE: ReviewStream
REVIEW_STREAM_NEW: ReviewStream

class SubmitFeedbackRequest(_message.Message):
    __slots__ = ("prediction_id", "reviewer", "request_id", "accept", "corrected_label", "corrected_json", "corrected_text", "reject_reason")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    REVIEWER_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_LABEL_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_JSON_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_TEXT_FIELD_NUMBER: _ClassVar[int]
    REJECT_REASON_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    reviewer: str
    request_id: str
    accept: bool
    corrected_label: str
    corrected_json: str
    corrected_text: str
    reject_reason: str
    def __init__(self, prediction_id: _Optional[str] = ..., reviewer: _Optional[str] = ..., request_id: _Optional[str] = ..., accept: _Optional[bool] = ..., corrected_label: _Optional[str] = ..., corrected_json: _Optional[str] = ..., corrected_text: _Optional[str] = ..., reject_reason: _Optional[str] = ...) -> None: ...

class SubmitFeedbackResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListReviewQueueRequest(_message.Message):
    __slots__ = ("task", "page_size", "page_token", "confidence_max", "include_reviewed", "stream")
    TASK_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_MAX_FIELD_NUMBER: _ClassVar[int]
    INCLUDE_REVIEWED_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    task: str
    page_size: int
    page_token: str
    confidence_max: float
    include_reviewed: bool
    stream: ReviewStream
    def __init__(self, task: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., confidence_max: _Optional[float] = ..., include_reviewed: _Optional[bool] = ..., stream: _Optional[_Union[ReviewStream, str]] = ...) -> None: ...

class Feedback(_message.Message):
    __slots__ = ("feedback_id", "reviewer", "feedback_time", "accept", "corrected_label", "corrected_json", "corrected_text", "reject_reason")
    FEEDBACK_ID_FIELD_NUMBER: _ClassVar[int]
    REVIEWER_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_TIME_FIELD_NUMBER: _ClassVar[int]
    ACCEPT_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_LABEL_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_JSON_FIELD_NUMBER: _ClassVar[int]
    CORRECTED_TEXT_FIELD_NUMBER: _ClassVar[int]
    REJECT_REASON_FIELD_NUMBER: _ClassVar[int]
    feedback_id: str
    reviewer: str
    feedback_time: _timestamp_pb2.Timestamp
    accept: bool
    corrected_label: str
    corrected_json: str
    corrected_text: str
    reject_reason: str
    def __init__(self, feedback_id: _Optional[str] = ..., reviewer: _Optional[str] = ..., feedback_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., accept: _Optional[bool] = ..., corrected_label: _Optional[str] = ..., corrected_json: _Optional[str] = ..., corrected_text: _Optional[str] = ..., reject_reason: _Optional[str] = ...) -> None: ...

class Prediction(_message.Message):
    __slots__ = ("prediction_id", "bundle", "input", "output", "confidence", "route", "answer_time", "kind", "labels", "scores", "feedback", "reviewed", "p_value", "local_answer", "teacher_answer", "teacher_model", "review_stream", "sampling_probability", "question", "instructions", "teacher_scores")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    BUNDLE_FIELD_NUMBER: _ClassVar[int]
    INPUT_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    CONFIDENCE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_FIELD_NUMBER: _ClassVar[int]
    ANSWER_TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    FEEDBACK_FIELD_NUMBER: _ClassVar[int]
    REVIEWED_FIELD_NUMBER: _ClassVar[int]
    P_VALUE_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ANSWER_FIELD_NUMBER: _ClassVar[int]
    TEACHER_ANSWER_FIELD_NUMBER: _ClassVar[int]
    TEACHER_MODEL_FIELD_NUMBER: _ClassVar[int]
    REVIEW_STREAM_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_PROBABILITY_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    INSTRUCTIONS_FIELD_NUMBER: _ClassVar[int]
    TEACHER_SCORES_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    bundle: _task_pb2.BundleRef
    input: str
    output: str
    confidence: _task_pb2.Confidence
    route: _task_pb2.Route
    answer_time: _timestamp_pb2.Timestamp
    kind: _task_pb2.TaskKind
    labels: _containers.RepeatedScalarFieldContainer[str]
    scores: _containers.RepeatedCompositeFieldContainer[_inference_pb2.LabelScore]
    feedback: _containers.RepeatedCompositeFieldContainer[Feedback]
    reviewed: bool
    p_value: float
    local_answer: str
    teacher_answer: str
    teacher_model: str
    review_stream: ReviewStream
    sampling_probability: float
    question: str
    instructions: str
    teacher_scores: _containers.RepeatedCompositeFieldContainer[_inference_pb2.LabelScore]
    def __init__(self, prediction_id: _Optional[str] = ..., bundle: _Optional[_Union[_task_pb2.BundleRef, _Mapping]] = ..., input: _Optional[str] = ..., output: _Optional[str] = ..., confidence: _Optional[_Union[_task_pb2.Confidence, _Mapping]] = ..., route: _Optional[_Union[_task_pb2.Route, str]] = ..., answer_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[_Union[_task_pb2.TaskKind, str]] = ..., labels: _Optional[_Iterable[str]] = ..., scores: _Optional[_Iterable[_Union[_inference_pb2.LabelScore, _Mapping]]] = ..., feedback: _Optional[_Iterable[_Union[Feedback, _Mapping]]] = ..., reviewed: _Optional[bool] = ..., p_value: _Optional[float] = ..., local_answer: _Optional[str] = ..., teacher_answer: _Optional[str] = ..., teacher_model: _Optional[str] = ..., review_stream: _Optional[_Union[ReviewStream, str]] = ..., sampling_probability: _Optional[float] = ..., question: _Optional[str] = ..., instructions: _Optional[str] = ..., teacher_scores: _Optional[_Iterable[_Union[_inference_pb2.LabelScore, _Mapping]]] = ...) -> None: ...

class ListReviewQueueResponse(_message.Message):
    __slots__ = ("predictions", "next_page_token")
    PREDICTIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    predictions: _containers.RepeatedCompositeFieldContainer[Prediction]
    next_page_token: str
    def __init__(self, predictions: _Optional[_Iterable[_Union[Prediction, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetPredictionRequest(_message.Message):
    __slots__ = ("prediction_id",)
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    def __init__(self, prediction_id: _Optional[str] = ...) -> None: ...

class GetPredictionResponse(_message.Message):
    __slots__ = ("prediction",)
    PREDICTION_FIELD_NUMBER: _ClassVar[int]
    prediction: Prediction
    def __init__(self, prediction: _Optional[_Union[Prediction, _Mapping]] = ...) -> None: ...

class ErasePredictionRequest(_message.Message):
    __slots__ = ("prediction_id", "all_questions")
    PREDICTION_ID_FIELD_NUMBER: _ClassVar[int]
    ALL_QUESTIONS_FIELD_NUMBER: _ClassVar[int]
    prediction_id: str
    all_questions: bool
    def __init__(self, prediction_id: _Optional[str] = ..., all_questions: _Optional[bool] = ...) -> None: ...

class ErasePredictionResponse(_message.Message):
    __slots__ = ("was_kept", "tombstoned", "same_text_ids")
    WAS_KEPT_FIELD_NUMBER: _ClassVar[int]
    TOMBSTONED_FIELD_NUMBER: _ClassVar[int]
    SAME_TEXT_IDS_FIELD_NUMBER: _ClassVar[int]
    was_kept: bool
    tombstoned: bool
    same_text_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, was_kept: _Optional[bool] = ..., tombstoned: _Optional[bool] = ..., same_text_ids: _Optional[_Iterable[str]] = ...) -> None: ...
